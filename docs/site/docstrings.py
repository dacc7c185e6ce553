"""Adapts our docstrings to Google's style: examples and fields have no heading, similar parameters share a line."""

import re
from textwrap import indent
from typing import Any

import griffe

_EXAMPLE = re.compile(r"\n\n(?=>>> )")
_FIELDS = re.compile(r"(?<=\n\n)(?:[a-z]\w*(?:, \w+)*: .*(?:\n +\S.*)*(?:\n|$))+(?=\n|$)")
_ALIKE = re.compile(r"^( +)(\w+(?:, \w+)+)(: .*(?:\n\1 +\S.*)*)", re.MULTILINE)
_SECTION = re.compile(r"(?<=\n)((?:Args|Attributes):\n)((?: .*\n?)+)")


def _one_each(found: re.Match[str]) -> str:
    return "\n".join(f"{found[1]}{name}{found[3]}" for name in found[2].split(", "))


def as_read(docstring: str) -> str:
    """A docstring in Google's style."""
    said, *example = _EXAMPLE.split(docstring, maxsplit=1)
    said = _FIELDS.sub(lambda m: f"Attributes:\n{indent(m[0], '    ')}", said)
    said = _SECTION.sub(lambda m: m[1] + _ALIKE.sub(_one_each, m[2]), said)
    examples = [f"\n\nExamples:\n{indent(text, '    ')}" for text in example]
    return "".join([said, *examples])


class Docstrings(griffe.Extension):
    """Rewrites each docstring when it is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object that griffe found."""
        if obj.docstring:
            obj.docstring.value = as_read(obj.docstring.value)
