"""The script that Streamlit runs for each visitor: who may see the pages, and which there are."""

import sys
from functools import partial

import streamlit as st

from flows.dashboard import batch, compare, image, overview, review
from flows.dashboard.access import ask_password, is_admitted
from flows.dashboard.style import apply_style
from flows.dashboard.tables import Tables
from flows.workspace import Workspace


@st.cache_resource(show_spinner=False)
def tables() -> Tables:
    """One connection for all visitors; the workspace is the command line's, so no visitor can name another."""
    return Tables(Workspace.at(sys.argv[1]))


def main() -> None:
    """Draw the page that the address names, for those who may see it."""
    st.set_page_config("nelbo", layout="wide")
    apply_style()
    pages = [
        st.Page(partial(page.draw, tables()), title=title, url_path=path, default=path == "overview")
        for page, title, path in (
            (overview, "Overview", "overview"),
            (batch, "Batch", "batch"),
            (image, "Image", "image"),
            (review, "Review", "review"),
            (compare, "Compare", "compare"),
        )
    ]
    # Who is not admitted yet keeps the address, and so gets to the page that was asked for.
    page = st.navigation(pages, position="sidebar" if is_admitted() else "hidden")
    if is_admitted():
        page.run()
    else:
        ask_password()


if __name__ == "__main__":
    main()
