"""The page "Overview"."""

import streamlit as st

from flows.dashboard.tables import Tables


def draw(tables: Tables) -> None:
    """Draw the page."""
    st.title("Overview")
    st.caption(str(tables.workspace.root))
