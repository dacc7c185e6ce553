"""How far the work is: on a terminal, where somebody watches the whole command; as a bar below a notebook's cell; else
not at all."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

Advance = Callable[[int], None]


class Watcher(Protocol):
    """Follows a command through its stages, which lie within each other."""

    def begin(self, title: str, total: int | None) -> None:
        """A stage begins; of how many things, where that is known."""

    def advance(self, n: int) -> None:
        """So many more are done of the innermost stage."""

    def end(self) -> None:
        """The innermost stage ends."""


_watcher: Watcher | None = None

#: What moves on the piece of work that is at hand.
_piece: ContextVar[Advance] = ContextVar("piece", default=lambda _n: None)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """All stages in this block, of any thread, are told to a watcher."""
    # A process has one terminal.
    global _watcher
    before, _watcher = _watcher, watcher
    try:
        yield
    finally:
        _watcher = before


@contextmanager
def progress(title: str, total: int | None = None, then: str | None = None) -> Iterator[Advance]:
    """A stage while the block runs; yields the function that moves it on by n.

    Args:
        title: what is done, such as "decoding".
        total: of how many things; None where that is not known.
        then: what the block goes on with once they are done, which takes a while.
    """
    if _watcher is not None:
        yield from _watched(_watcher, title, total, then)
    elif total is None or not _has_reader():
        yield lambda _n: None
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(title, total=total)
            yield lambda n: bars.advance(task, n)


def _watched(watcher: Watcher, title: str, total: int | None, then: str | None) -> Iterator[Advance]:
    left = total

    def advance(n: int) -> None:
        nonlocal left
        watcher.advance(n)
        if then is not None and left is not None and left > 0 >= (left := left - n):
            watcher.end()
            watcher.begin(then, None)

    watcher.begin(title, total)
    try:
        yield advance
    finally:
        watcher.end()


@contextmanager
def piece(advance: Advance, size: int) -> Iterator[None]:
    """A piece of the work of a stage: moves it on by `size`, of which `moved` may say some before the block ends."""
    left = size

    def some(n: int) -> None:
        nonlocal left
        n = min(n, left)
        left -= n
        advance(n)

    token = _piece.set(some)
    try:
        yield
    finally:
        _piece.reset(token)
    advance(left)


def moved(n: int) -> None:
    """So much of the piece of work at hand is done; where nobody has cut any, nothing."""
    _piece.get()(n)


def _has_reader() -> bool:
    # A process may be started without a stderr.
    return "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())
