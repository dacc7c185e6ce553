"""Estimates how long a command still takes, from a plan of its stages and the speed of the finished ones."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Stage(NamedTuple):
    """A part of a command, and the seconds that it takes: a fixed number, plus some for each image."""

    title: str
    fixed_s: float
    image_s: float = 0.0


#: Stages in the order in which they begin, measured on two cores with 256 x 256 pixels (benchmarks/speed/eta.py).
#: Only their ratios matter, because `Pace` adapts to the speed of the machine. A stage that is skipped costs nothing.
PLANS: dict[str, tuple[Stage, ...]] = {
    "train": (
        Stage("starting", 1.2),
        Stage("listing normal images", 0.2, 0.001),
        Stage("loading Keras", 3),
        Stage("looking at the images", 0.4),
        Stage("decoding", 0.2, 0.002),
        Stage("computing features", 1.5, 0.01),
        Stage("fitting the model", 11, 0.03),
        # For networks that train in epochs: finished epochs show how long it takes.
        Stage("training", 0),
        Stage("painting simulated defects", 4),
        Stage("calibrating", 1.5),
        Stage("scoring with keras", 2),
        Stage("making the engine", 4),
        Stage("scoring with openvino", 0.7),
    ),
    "score": (
        Stage("starting", 1.2),
        Stage("loading the model", 1),
        Stage("listing images", 0.2, 0.0005),
        Stage("scoring images", 0.5, 0.012),
        Stage("publishing", 0.1, 0.0003),
        Stage("writing the page", 1),
    ),
}

#: Finished stages of so many seconds weigh as much as the plan in the estimate of the machine's speed.
_DOUBT_S = 1.5
#: About the last so many seconds of finished stages count; other work on the machine may have slowed earlier ones.
_LATELY_S = 20.0
#: A stage that overruns is estimated to take `_MORE` * (took - `_BEYOND` * expected) more seconds.
_MORE, _BEYOND = 0.3, 0.7


#: So many seconds after a stage's first step, its measured speed weighs as much as the plan.
_LITTLE_S = 1.0


@dataclass
class _Moved:
    """The share of a stage that is done, and the seconds it had taken by then; both also for its first step."""

    first: float
    first_took: float
    done: float
    took: float


class _Open(NamedTuple):
    """A stage that has begun; `number` is its place in the plan, None where it has none."""

    number: int | None
    total: int | None


class Pace:
    """Follows a command through its stages, which may lie within each other.

    >>> now = 0.0
    >>> pace = Pace([Stage("listing", 5), Stage("scoring", 0, 0.1)], lambda: now)
    >>> pace.begin("listing", None)
    >>> pace.remaining_s() is None  # how many images?
    True
    >>> now = 5.0
    >>> pace.end()
    >>> pace.begin("scoring", 100)
    >>> pace.remaining_s()
    10.0
    >>> now = 10.0
    >>> pace.advance(20)
    >>> pace.remaining_s()  # as planned: it has only just begun to move
    5.0
    >>> now = 25.0
    >>> pace.advance(20)
    >>> 40 < pace.remaining_s() < 45  # 15 s for a fifth of it, and three fifths are left
    True
    """

    def __init__(self, plan: Sequence[Stage], clock: Callable[[], float] = time.monotonic) -> None:
        self._plan, self._clock = plan, clock
        self._took, self._done = [0.0] * len(plan), [False] * len(plan)
        self._open: list[_Open] = []
        self._moved: dict[int, _Moved] = {}
        self._n_images: int | None = None
        self._last = clock()

    def begin(self, title: str, total: int | None) -> None:
        """A stage begins within the one that is open; earlier stages of the plan that are not open count as done."""
        self._tick()
        places = [i for i, stage in enumerate(self._plan) if stage.title == title and not self._done[i]]
        number = places[0] if places else None
        self._open.append(_Open(number, total))
        if number is None:
            return
        if total is not None and self._plan[number].image_s:
            self._n_images = total
        opened = {one.number for one in self._open}
        for earlier in range(number):
            self._done[earlier] |= earlier not in opened

    def advance(self, n: int) -> None:
        """The innermost stage has done `n` more images or steps."""
        number, total = self._open[-1] if self._open else (None, None)
        if number is None or not total:
            return
        self._tick()
        took, moved = self._took[number], self._moved.get(number)
        if moved is None:
            self._moved[number] = _Moved(n / total, took, n / total, took)
        else:
            moved.done, moved.took = min(1.0, moved.done + n / total), took

    def end(self) -> None:
        """The innermost stage ends."""
        self._tick()
        number = self._open.pop().number
        if number is not None:
            self._done[number] = True

    def remaining_s(self) -> float | None:
        """Seconds until the end; None without a plan, or while the number of images is unknown."""
        if not self._plan or (self._n_images is None and self._needs_images):
            return None
        self._tick()
        speed = self._slowness()
        return sum(self._left(number, speed) for number in range(len(self._plan)) if not self._done[number])

    @property
    def _needs_images(self) -> bool:
        return any(stage.image_s for stage, done in zip(self._plan, self._done, strict=True) if not done)

    def _tick(self) -> None:
        """Add the time since the last call to the innermost open stage of the plan."""
        now = self._clock()
        number = next((one.number for one in reversed(self._open) if one.number is not None), None)
        if number is not None:
            self._took[number] += now - self._last
        self._last = now

    def _expected(self, number: int) -> float:
        stage = self._plan[number]
        return stage.fixed_s + stage.image_s * (self._n_images or 0)

    def _slowness(self) -> float:
        """How many times as long as planned stages take on this machine now, judged by the latest finished ones."""
        taken = expected = _DOUBT_S
        for number in reversed(range(len(self._plan))):
            if self._done[number] and taken < _LATELY_S:
                taken += self._took[number]
                expected += self._expected(number) if self._took[number] else 0.0
        return taken / expected

    def _left(self, number: int, slowness: float) -> float:
        """Seconds left of an unfinished stage: first as planned, then more and more by its own speed."""
        took, expected = self._took[number], self._expected(number) * slowness
        left = max(expected - took, _MORE * (took - _BEYOND * expected))
        moved = self._moved.get(number)
        if moved is None or not (share := moved.done - moved.first):
            return left
        # Time before the first step, such as compiling, does not count towards the speed.
        seconds = moved.took - moved.first_took
        by_speed = (1 - moved.done) * seconds / share - (took - moved.took)
        weight = seconds / (seconds + _LITTLE_S)
        return weight * max(by_speed, 0.0) + (1 - weight) * left
