"""Texts in tables that people open as spreadsheets, which must not take one for a formula."""

import re
from typing import Any

#: OWASP's list: what a cell begins with that a spreadsheet may calculate.
_FORMULA = re.compile(r"[=+\-@\t\r\n\uFF1D\uFF0B\uFF0D\uFF20]")


def without_formula(value: Any) -> Any:
    """The same cell; a text that begins as a formula does has an apostrophe before it.

    >>> without_formula("=1+1"), without_formula("a=b"), without_formula(-1.5)
    ("'=1+1", 'a=b', -1.5)
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value
