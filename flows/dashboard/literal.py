"""Names and notes from elsewhere, in the texts of Streamlit that are Markdown."""

import re

_MARKS = re.compile(r"[!-/:-@\[-`{-~]")


def literal(text: str) -> str:
    r"""Markdown that shows as `text`, on one line.

    >>> print(literal("<b>$x$ :red[a]"))
    \<b\>\$x\$ \:red\[a\]
    """
    return _MARKS.sub(r"\\\g<0>", " ".join(text.split()))
