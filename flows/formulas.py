"""Keeps spreadsheets from taking text in a table for a formula."""

import re
from typing import Any

#: OWASP's list of first characters that make a spreadsheet evaluate a cell.
_FORMULA = re.compile(r"[=+\-@\t\r\n\uFF1D\uFF0B\uFF0D\uFF20]")


def without_formula(value: Any) -> Any:
    """The value of a cell; text that begins like a formula gets an apostrophe in front.

    >>> without_formula("=1+1"), without_formula("a=b"), without_formula(-1.5)
    ("'=1+1", 'a=b', -1.5)
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value
