"""Rules that find names in the paths of files: of groups, of variants."""

import json
import posixpath
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from nelbo.data.errors import InputError

#: The rule that takes the name of the folder; every other rule is a pattern.
FOLDER = "folder"

#: Longer patterns are refused.
MAX_PATTERN = 200

#: Seconds of computing that matching may take, and the number of paths that adds one more.
_SECONDS, _PATHS_A_SECOND = 5, 10_000

#: The matcher's file beside this one, so that both come from the same place.
_COMMAND = (sys.executable, "-P", "-W", "ignore", str(Path(__file__).with_name("matcher.py")))


def check_path_rule(rule: str) -> None:
    """Refuse a rule that is neither ``folder`` nor a regular expression.

    Raises:
        ValueError: what is wrong with it.

    >>> check_path_rule("part(\\\\d+")
    Traceback (most recent call last):
        ...
    ValueError: missing ), unterminated subpattern at position 4
    """
    if len(rule) > MAX_PATTERN:
        raise ValueError(f"{len(rule)} characters, at most {MAX_PATTERN} are allowed")
    if rule == FOLDER:
        return
    with warnings.catch_warnings():
        # Warnings about patterns that a later Python may read differently.
        warnings.simplefilter("ignore")
        try:
            re.compile(rule)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(str(error)) from None


def names_in_paths(paths: Sequence[str], rule: str, setting: str) -> list[str | None]:
    """The name that a rule finds in the path of each file: of its group, or of what it shows.

    A pattern is matched in a process of its own whose computing time is limited: some patterns take for ever.

    Args:
        paths: relative, with ``/``.
        rule: ``folder``, the folder in which a file lies; or a regular expression, which is searched for in the
            path: its first capture group if it has one, else all that matches.
        setting: where the rule was given, for errors.

    Returns:
        Names; None for a file in which the pattern finds nothing.

    Raises:
        InputError: the pattern takes too long on these paths.
        RuntimeError: the process failed for another reason.

    >>> names_in_paths(["a/1.png", "a/2.png", "3.png"], "folder", "group_by")
    ['a', 'a', '.']
    >>> names_in_paths(["a/part7_1.png", "b/part7_2.png", "3.png"], r"part(\\d+)_", "group_by")
    ['7', '7', None]
    """
    if rule == FOLDER:
        return [posixpath.dirname(path) or "." for path in paths]
    question = {"pattern": rule, "paths": list(paths), "seconds": _SECONDS + len(paths) // _PATHS_A_SECOND}
    done = subprocess.run(  # noqa: S603 - our own file
        _COMMAND, input=json.dumps(question), capture_output=True, text=True, encoding="ascii", check=False
    )
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise InputError(
            f"{setting}={rule!r} takes more than {question['seconds']} seconds on {len(paths)} paths. Avoid "
            "repetition within repetition, as in (a+)+, and write [^/]* or [^_]* instead of .*"
        )
    if done.returncode:
        raise RuntimeError(f"matching {setting}={rule!r} ended with status {done.returncode}: {done.stderr[-500:]}")
    found: list[str | None] = json.loads(done.stdout)
    return found
