"""The script that Streamlit runs for each visitor: its pages, and what is said where one cannot be drawn."""

import sys
from functools import partial

import duckdb
import streamlit as st

from nelbo.flows.dashboard.literal import literal
from nelbo.flows.dashboard.pages import batch, compare, image, overview, review
from nelbo.flows.dashboard.style import apply_style, warn_of
from nelbo.flows.dashboard.tables import Tables
from nelbo.flows.workspace.errors import bad_input, store_errors
from nelbo.flows.workspace.layout import Workspace


@st.cache_resource(show_spinner=False)
def tables() -> Tables:
    """One connection for all visitors; the workspace is the command line's, so no visitor can name another."""
    return Tables(Workspace.at(sys.argv[1]))


def main() -> None:
    """Draw the page that the address names."""
    st.set_page_config("nelbo", layout="wide")
    apply_style()
    found = tables()
    pages = [
        st.Page(partial(page.draw, found), title=title, url_path=path, default=path == "overview")
        for page, title, path in (
            (overview, "Overview", "overview"),
            (batch, "Batch", "batch"),
            (image, "Image", "image"),
            (review, "Review", "review"),
            (compare, "Compare", "compare"),
        )
    ]
    page = st.navigation(pages)
    before = found.damaged()
    warn_of(before)
    try:
        page.run()
    except Exception as error:
        if not isinstance(error, (*bad_input(), *store_errors(), duckdb.Error)):
            raise
        if found.damaged() == before:
            st.error(literal(f"This page cannot be drawn: {error}"))
    if found.damaged() != before:
        # What was drawn before it was noticed may have counted on it.
        st.rerun()


if __name__ == "__main__":
    main()
