"""Ids as people read and write them: as many first characters as distinguish them from all others."""

import re
from bisect import bisect_left
from collections.abc import Collection
from itertools import takewhile

from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import some

#: Fewest characters that are shown: a beginning that is unique today need not be so tomorrow.
_LEAST = 8

#: Ids that nelbo makes are hashes of contents; names that somebody has given are not shortened.
_HASHED = re.compile(r"[a-z][0-9a-f]{16}")


def shortened(name: str, known: Collection[str]) -> str:
    """The shortest beginning of an id that no other one has, of at least 8 characters; a name is shown whole.

    Args:
        known: all ids, in order.

    >>> known = ["m0123456789abcdef", "m0123456aaaaaaaaa", "night-2026-11-30"]
    >>> [shortened(name, sorted(known)) for name in (*known, "m5555555555555555")]
    ['m01234567', 'm0123456a', 'night-2026-11-30', 'm5555555']
    """
    if not _HASHED.fullmatch(name):
        return name
    names = [*known]
    place = bisect_left(names, name)
    # In sorted order, the names that share most with it stand beside it.
    beside = [*names[max(0, place - 1) : place], *names[place : place + 2]]
    shared = [_n_shared(name, other) for other in beside if other != name]
    return name[: max(_LEAST, 1 + max(shared, default=0))]


def _n_shared(one: str, other: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def meant(text: str, known: Collection[str], kind: str) -> str | None:
    """The id that equals a text, or the only one that begins with it; None if none does.

    Args:
        kind: what the ids name, for the message.

    Raises:
        UsageError: several begin with it.

    >>> meant("m01", ["m0123", "m0223"], "model"), meant("m0123", ["m0123", "m01234"], "model")
    ('m0123', 'm0123')
    """
    if text in known:
        return text
    found = sorted(name for name in set(known) if name.startswith(text))
    if len(found) > 1:
        raise UsageError(f"{kind} {text!r} may be any of {some(found)}. Give more of its id.")
    return found[0] if found else None
