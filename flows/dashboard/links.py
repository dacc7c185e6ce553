"""Ways from a row of a table to the pages of its image; their addresses name the row, and can be kept."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from nelbo.flows.dashboard.frames import show_frame

#: The row of an image as addresses name it.
_QUERY = {"model": "model_id", "batch": "batch_id", "image": "image_id", "path": "relative_path"}


def link(row: Mapping[Any, Any], page: str, label: str) -> None:
    """A link to an image on the page of that address."""
    st.page_link(page_at(page), label=label, query_params=_query(row), icon=":material/arrow_forward:")


def show_rows(rows: pd.DataFrame, key: str, columns: Mapping[str, Any]) -> None:
    """A table of images; choosing a row goes to its page.

    Args:
        rows: with ``model_id``, ``batch_id``, ``image_id`` and ``relative_path``.
        columns: see `show_frame`.
    """
    shown = show_frame(rows, columns, key=key, height="content")
    if chosen := shown["selection"]["rows"]:
        st.switch_page(page_at("image"), query_params=_query(rows.iloc[chosen[0]].to_dict()))


def choose_page(n: int, n_shown: int, key: str) -> int:
    """The page, from 1, that the visitor chooses of a table of n rows; where one holds all there is no choice."""
    n_pages = -(-n // n_shown)
    return st.pagination(n_pages, key=key) if n_pages > 1 else 1


def page_at(address: str) -> Any:
    """The page of an address, to switch or to link to."""
    # Streamlit knows pages by their address.
    return st.Page(lambda: None, title=address.title(), url_path=address)


def _query(row: Mapping[Any, Any]) -> dict[str, str]:
    return {name: str(row[column]) for name, column in _QUERY.items()}
