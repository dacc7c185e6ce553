"""Shows a command at work on a terminal: its stages, how far each is, and about how long the whole still takes."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from nelbo.flows.inference.progress import watched_by
from nelbo.flows.pace import PLANS, Pace

_MINUTE_S = 60


@contextmanager
def displayed(command: str) -> Iterator[None]:
    """Show a command's stages on stderr while the block runs; they disappear when it ends."""
    # A separate file, because what libraries write to the terminal during their import is held back.
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8") as terminal:
        display = Display(command, Console(file=terminal))
        with display.bars, watched_by(display):
            yield


class Display:
    """Follows a command with a bar for each stage: see `nelbo.flows.inference.progress.Watcher`."""

    def __init__(self, command: str, console: Console) -> None:
        plan = PLANS.get(command, ())
        self._pace, self._planned = Pace(plan), {stage.title for stage in plan}
        self._open: list[tuple[TaskID, str]] = []
        self.bars = _Bars(self._look, console)
        self._whole = self.bars.add_task(f"nelbo {command}", total=None, count="", time="")

    def begin(self, title: str, total: int | None) -> None:
        """Add a bar; it only pulses where no total is known."""
        self._pace.begin(title, total)
        self._open.append((self.bars.add_task(title, total=total or None, count="", time=""), title))

    def advance(self, n: int) -> None:
        """Advance the innermost bar."""
        self._pace.advance(n)
        if self._open:
            self.bars.advance(self._open[-1][0], n)

    def end(self) -> None:
        """End the innermost stage: fill its bar, or remove it if the stage is only a part of another."""
        self._pace.end()
        bar, title = self._open.pop()
        if self._open and title not in self._planned:
            self.bars.remove_task(bar)
        else:
            task = self.bars.tasks[self.bars.task_ids.index(bar)]
            self.bars.update(bar, total=task.total or 1, completed=task.total or 1, time=f"{task.elapsed or 0:.1f} s")

    def _look(self) -> None:
        """Update the bars before they are drawn."""
        for task in self.bars.tasks:
            if task.id != self._whole and task.total:
                self.bars.update(task.id, count=f"{task.completed:,.0f} of {task.total:,.0f}" if task.total > 1 else "")
        left_s, whole = self._pace.remaining_s(), self.bars.tasks[self.bars.task_ids.index(self._whole)]
        if left_s is not None:
            elapsed_s = whole.elapsed or 0.0
            about = f"about {duration(left_s)} left"
            self.bars.update(self._whole, total=elapsed_s + left_s, completed=elapsed_s, time=about)


class _Bars(Progress):
    """Progress bars that call `look` before they are drawn."""

    def __init__(self, look: Callable[[], None], console: Console) -> None:
        self._look = look
        columns: tuple[Any, ...] = (
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}"),
            BarColumn(20),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[time]}"),
        )
        super().__init__(*columns, console=console, transient=True, refresh_per_second=5)

    def get_renderables(self) -> Iterable[RenderableType]:
        """The table of bars."""
        # Rich draws them once before the first task exists.
        if self.tasks:
            self._look()
        yield from super().get_renderables()


def duration(seconds: float) -> str:
    """Seconds in the units that people use.

    >>> duration(0.2), duration(42.4), duration(110), duration(5000)
    ('1 s', '42 s', '2 min', '1 h 23 min')
    """
    if seconds < 1.5 * _MINUTE_S:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / _MINUTE_S)
    return f"{minutes} min" if minutes < _MINUTE_S else f"{minutes // 60} h {minutes % 60} min"
