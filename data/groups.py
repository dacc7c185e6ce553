"""Groups: images that are not independent, such as views of one part. They stay on one side of every split."""

import json
import posixpath
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.errors import InputError

#: The rule by which the files of one folder are a group; every other rule is a pattern.
FOLDER = "folder"

#: Longer patterns are refused.
MAX_PATTERN = 200

#: Seconds of computing that matching may take, and paths for which there is one more.
_SECONDS, _PATHS_A_SECOND = 5, 10_000

#: The matcher's own file, so that it comes from where this one does.
_COMMAND = (sys.executable, "-P", "-W", "ignore", str(Path(__file__).with_name("matcher.py")))


def check_group_by(group_by: str) -> None:
    """Refuse a rule that is neither ``folder`` nor a regular expression.

    Raises:
        ValueError: what is wrong with it.

    >>> check_group_by("part(\\\\d+")
    Traceback (most recent call last):
        ...
    ValueError: missing ), unterminated subpattern at position 4
    """
    if len(group_by) > MAX_PATTERN:
        raise ValueError(f"{len(group_by)} characters, at most {MAX_PATTERN} are taken")
    if group_by == FOLDER:
        return
    with warnings.catch_warnings():
        # Of patterns that a later Python may read otherwise.
        warnings.simplefilter("ignore")
        try:
            re.compile(group_by)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(str(error)) from None


def groups_of(paths: Sequence[str], group_by: str) -> list[str | None]:
    """The group of each file by its path.

    A pattern is matched in a process of its own whose computing time is limited: some patterns take for ever.

    Args:
        paths: relative, with ``/``.
        group_by: ``folder``, the folder in which a file lies; or a regular expression, which is searched for in the
            path: its first capture group if it has one, else all that matches.

    Returns:
        Names; None for a file in which the pattern finds nothing.

    Raises:
        InputError: the pattern takes too long on these paths.

    >>> groups_of(["a/1.png", "a/2.png", "3.png"], "folder")
    ['a', 'a', '.']
    >>> groups_of(["a/part7_1.png", "b/part7_2.png", "3.png"], r"part(\\d+)_")
    ['7', '7', None]
    """
    if group_by == FOLDER:
        return [posixpath.dirname(path) or "." for path in paths]
    question = {"pattern": group_by, "paths": list(paths), "seconds": _SECONDS + len(paths) // _PATHS_A_SECOND}
    done = subprocess.run(  # noqa: S603 - our own file
        _COMMAND, input=json.dumps(question), capture_output=True, text=True, encoding="ascii", check=False
    )
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise InputError(
            f"group_by={group_by!r} takes more than {question['seconds']} seconds on {len(paths)} paths. Repeat "
            "nothing that repeats itself, as in (a+)+, and say [^/]* or [^_]* where it says .*"
        )
    if done.returncode:
        raise RuntimeError(f"matching group_by={group_by!r} ended with status {done.returncode}: {done.stderr[-500:]}")
    found: list[str | None] = json.loads(done.stdout)
    return found


def united(image_ids: Sequence[str | None], groups: Sequence[str | None]) -> list[str | None]:
    """The group of each image when groups that share a content are one.

    Args:
        image_ids: content hashes; None for a file that was not read: what it is like is not known.
        groups: names; None for an image without one.

    Returns:
        Of each image the first name, in the order of the alphabet, of the groups that are one with its own; an image
        without a group has that of its copies. None where there is none.

    >>> united(["x", "y", "y", "z", "z"], ["b", "b", "a", "c", None])
    ['a', 'a', 'a', 'c', 'c']
    """
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while (upper := above.setdefault(name, name)) != name:
            above[name] = name = above[upper]
        return name

    group_of: dict[str, str] = {}
    for image_id, group in zip(image_ids, groups, strict=True):
        if group is not None and image_id is not None:
            one, other = sorted((top(group), top(group_of.setdefault(image_id, group))))
            above[other] = one
    rows = zip(image_ids, groups, strict=True)
    names = (group if image_id is None else group_of.get(image_id) for image_id, group in rows)
    return [None if name is None else top(name) for name in names]


def members(image_ids: Iterable[str], groups: Sequence[str | None] | None) -> list[list[str]]:
    """The distinct images of each group, by content hash, sorted; an image without a group is one alone.

    >>> members(["x", "y", "x", "z"], ["a", None, None, "a"])
    [['x', 'z'], ['y']]
    """
    image_ids = list(image_ids)
    if groups is None:
        return [[image_id] for image_id in dict.fromkeys(image_ids)]
    found: dict[tuple[str | None, str], set[str]] = {}
    for image_id, group in zip(image_ids, united(image_ids, groups), strict=True):
        found.setdefault((group, "" if group is not None else image_id), set()).add(image_id)
    return [sorted(group) for group in found.values()]


def n_groups(image_ids: Sequence[str], groups: Sequence[str | None]) -> int | None:
    """How many groups images make, one without a group counted as one; None where no image has a group.

    >>> n_groups(["x", "y", "z"], ["a", "a", None]), n_groups(["x", "y"], [None, None])
    (2, None)
    """
    return None if all(group is None for group in groups) else len(members(image_ids, groups))
