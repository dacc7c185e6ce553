"""The page "Review"."""

import streamlit as st

from flows.dashboard.tables import Tables


def draw(tables: Tables) -> None:
    """Draw the page."""
    st.title("Review")
    st.caption(str(tables.workspace.root))
