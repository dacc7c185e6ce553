"""Tables of rows as CSV: spreadsheets must not take a text in them for a formula."""

import pandas as pd

from nelbo.flows.formulas import without_formula


def without_formulas(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows; texts that begin as a formula does have an apostrophe before them, and numbers stay numbers.

    >>> without_formulas(pd.DataFrame({"path": ["=1+1", "a=b"], "score": [-1.0, 2.0]})).to_dict("list")
    {'path': ["'=1+1", 'a=b'], 'score': [-1.0, 2.0]}
    """
    texts = rows.select_dtypes(exclude=["number", "bool", "datetime", "datetimetz"])
    return rows.assign(**{str(name): texts[name].map(without_formula) for name in texts})
