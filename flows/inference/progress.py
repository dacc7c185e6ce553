"""Progress of the work: on a terminal, by the watcher of the command; in a notebook, as a bar below the cell; else not
at all."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Protocol

Advance = Callable[[int], None]


class Watcher(Protocol):
    """Follows a command through its stages, which may be nested."""

    def begin(self, title: str, total: int | None) -> None:
        """A stage begins; `total` is the number of its items, where that is known."""

    def advance(self, n: int) -> None:
        """Another `n` items of the innermost stage are done."""

    def end(self) -> None:
        """The innermost stage ends."""


_watcher: Watcher | None = None

#: Advances the current piece of work.
_piece: ContextVar[Advance] = ContextVar("piece", default=lambda _n: None)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Report all stages in this block, of any thread, to a watcher."""
    # Global to the process, because a process has one terminal.
    global _watcher
    before, _watcher = _watcher, watcher
    try:
        yield
    finally:
        _watcher = before


@contextmanager
def progress(title: str, total: int | None = None, then: str | None = None) -> Iterator[Advance]:
    """A stage while the block runs; yields the function that advances it by n items.

    Args:
        title: what is done, such as "decoding".
        total: number of items; None where that is not known.
        then: title of a second stage, which begins once all items are done, and takes a while.
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
    """A piece of a stage's work: advances the stage by `size` in all; `moved` may report part of it earlier."""
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
    """Report that `n` items of the current piece of work are done; outside of a `piece` this does nothing."""
    _piece.get()(n)


def _has_reader() -> bool:
    if "ipykernel" in sys.modules:
        # Without ipywidgets, which draws the bars, Rich would warn each time.
        return find_spec("ipywidgets") is not None
    # A process may be started without a stderr.
    return sys.stderr is not None and sys.stderr.isatty()
