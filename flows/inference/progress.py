"""Progress on a terminal and in a notebook; nothing in a pipe."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar while the block runs, on stderr or below the cell; yields the function that moves it on by n."""
    if not _is_watched():
        yield lambda _n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=total)
        yield lambda n: bars.advance(task, n)


def _is_watched() -> bool:
    # A process may be started without a stderr.
    return "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())
