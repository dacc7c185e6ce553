"""The page "Image"."""

import streamlit as st

from flows.dashboard.tables import Tables


def draw(tables: Tables) -> None:
    """Draw the page."""
    st.title("Image")
    st.caption(str(tables.workspace.root))
