"""Settings of version 0.1 that are gone: accepted wherever settings come from, for one version, and passed over."""

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
    """The settings that there still are; those that were given and are gone are warned of, once in a process.

    >>> without_former({"fpr": 0.01, "joint": None})
    {'fpr': 0.01}
    """
    if given := [name for name in FORMER if values.get(name) is not None]:
        _warn(" and ".join(given))
    return {name: value for name, value in values.items() if name not in FORMER}


@cache
def _warn(given: str) -> None:
    log.warning(
        "gone since 0.2 and without effect: %s. The statistic joint of features takes the place of rules; leave it out",
        given,
    )


def without_former_lines(text: str) -> str:
    """The text of a TOML file without the settings that are gone; all else, comments too, stays as it is.

    What a statement's lines are is not guessed: without them the file must say the same of everything else.

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
    """The text without the lines that set `name`: the fewest without which it says `rest`."""
    # Unlike TOML, Python ends lines at many characters.
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    for first, line in enumerate(lines):
        if re.match(rf"""\s*["']?{name}["']?\s*=""", line):
            for end in range(first + 1, len(lines) + 1):
                kept = "".join(lines[:first] + lines[end:])
                with suppress(tomllib.TOMLDecodeError):
                    if tomllib.loads(kept) == rest:
                        return kept
    raise UsageError(f"{name} is not set in a way that can be taken out. Take it out by hand.")
