"""Settings of version 0.1 that are gone: for one version they are accepted from every source, and ignored."""

import logging
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from nelbo.flows.workspace.errors import UsageError

log = logging.getLogger(__name__)

FORMER = ("joint", "joint_statistics")


def without_former(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that still exist; a warning, one per process, names those that were given but are gone.

    >>> without_former({"fpr": 0.01, "joint": None})
    {'fpr': 0.01}
    """
    if given := [name for name in FORMER if values.get(name) is not None]:
        _warn(" and ".join(given))
    return {name: value for name, value in values.items() if name not in FORMER}


@cache
def _warn(given: str) -> None:
    log.warning(
        "gone since 0.2 and without effect: %s. The statistic joint of features replaces such rules; leave it out",
        given,
    )


def without_former_lines(text: str) -> str:
    """The text of a TOML file without the settings that are gone; everything else, comments included, stays unchanged.

    Which lines a statement spans is not guessed: the text without them must parse to all other settings, unchanged.

    >>> without_former_lines('# ours\\nfpr = 0.01  # agreed\\njoint_statistics = [\\n  "peak",\\n]\\n')
    '# ours\\nfpr = 0.01  # agreed\\n'
    """
    for name in FORMER:
        content = tomllib.loads(text)
        if name in content:
            del content[name]
            text = _without_statement(text, name, content)
    return text


def _without_statement(text: str, name: str, rest: Mapping[str, Any]) -> str:
    """The text without the lines that set `name`: the fewest whose removal leaves the settings `rest`."""
    # TOML ends lines at \n alone; `str.splitlines` also does at many other characters.
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    for first, line in enumerate(lines):
        if re.match(rf"""\s*["']?{name}["']?\s*=""", line):
            for end in range(first + 1, len(lines) + 1):
                kept = "".join(lines[:first] + lines[end:])
                with suppress(tomllib.TOMLDecodeError):
                    if tomllib.loads(kept) == rest:
                        return kept
    raise UsageError(f"{name} is set in a way that cannot be removed automatically. Delete it from the file.")
