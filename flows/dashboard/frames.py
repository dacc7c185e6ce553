"""Tables as CSV in which spreadsheets do not take a text for a formula."""

import pandas as pd

from nelbo.flows.formulas import without_formula


def without_formulas(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows, with an apostrophe before each text that looks like a formula; numbers stay numbers.

    >>> without_formulas(pd.DataFrame({"path": ["=1+1", "a=b"], "score": [-1.0, 2.0]})).to_dict("list")
    {'path': ["'=1+1", 'a=b'], 'score': [-1.0, 2.0]}
    """
    texts = rows.select_dtypes(exclude=["number", "bool", "datetime", "datetimetz"])
    return rows.assign(**{str(name): texts[name].map(without_formula) for name in texts})
