"""Tables of rows, whose toolbar saves them as CSV: spreadsheets must not take a text in them for a formula."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from nelbo.flows.formulas import without_formula


def show_frame(rows: pd.DataFrame, columns: Mapping[str, Any], **how: Any) -> Any:
    """Draw rows as `streamlit.dataframe` does, with texts that only are texts.

    Args:
        columns: what is shown of them, and how: a heading, or Streamlit's column configuration.
        how: what else Streamlit takes; with a key, a row can be chosen.
    """
    if "key" in how:
        how = {"on_select": "rerun", "selection_mode": "single-row", **how}
    return st.dataframe(
        without_formulas(rows), hide_index=True, column_order=list(columns), column_config=dict(columns), **how
    )


def without_formulas(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows; texts that begin as a formula does have an apostrophe before them, and numbers stay numbers.

    >>> without_formulas(pd.DataFrame({"path": ["=1+1", "a=b"], "score": [-1.0, 2.0]})).to_dict("list")
    {'path': ["'=1+1", 'a=b'], 'score': [-1.0, 2.0]}
    """
    texts = rows.select_dtypes(exclude=["number", "bool", "datetime", "datetimetz"])
    return rows.assign(**{str(name): texts[name].map(without_formula) for name in texts})
