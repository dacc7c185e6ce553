"""What a command tells its watcher about its stages."""

import sys
from types import ModuleType
from typing import Any

import pytest

from nelbo.flows.inference.progress import moved, progress, watched_by
from nelbo.flows.pace import PLANS, Pace, Stage
from nelbo.flows.runner import Direct


class Noted:
    """A watcher that records what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def begin(self, title: str, total: int | None) -> None:
        self.told.append((title, total))

    def advance(self, n: int) -> None:
        self.told.append(n)

    def end(self) -> None:
        self.told.append("end")


def test_stages_lie_within_each_other_and_end_where_they_fail() -> None:
    noted = Noted()
    with watched_by(noted):
        with pytest.raises(ZeroDivisionError), progress("learning"), progress("decoding", 2) as advance:
            advance(1 // 0)
        with progress("computing", 2, then="fitting") as advance:
            advance(1)
            advance(1)
    with progress("nobody watches", 1) as advance:
        advance(1)
    assert noted.told == [
        *(("learning", None), ("decoding", 2), "end", "end"),
        *(("computing", 2), 1, 1, "end", ("fitting", None), "end"),
    ]


def test_each_piece_advances_its_stage_by_its_size_whatever_it_reports() -> None:
    noted = Noted()

    def score_shards(says: list[int]) -> int:
        for n in says:
            moved(n)
        return sum(says)

    with watched_by(noted):
        # The last piece has nothing left to do, and another reports too much.
        assert Direct().map(score_shards, [[3, 4], [20], []], [10, 10, 5]) == [7, 20, 0]
    assert noted.told == [("scoring images", 25), 3, 4, 3, 10, 0, 5, "end"]
    moved(3)


def run(pace: Pace, clock: list[float], slowness: float, n: int) -> list[tuple[float, float]]:
    """Go through the plan of `score` on a machine that is `slowness` times as slow; times and estimates at them."""
    said = []
    for stage in PLANS["score"]:
        with_images = stage.title == "scoring images"
        pace.begin(stage.title, n if with_images else None)
        seconds = slowness * (stage.fixed_s + stage.image_s * n)
        for _ in range(100):
            clock[0] += seconds / 100
            if with_images:
                pace.advance(n // 100)
            if (left := pace.remaining_s()) is not None:
                said.append((clock[0], left))
        pace.end()
    return said


@pytest.mark.parametrize("slowness", [0.25, 1, 5])
@pytest.mark.parametrize("n", [1000, 20_000])
def test_the_remaining_time_is_known_within_a_factor_of_two(slowness: float, n: int) -> None:
    clock = [0.0]
    pace = Pace(PLANS["score"], lambda: clock[0])
    assert pace.remaining_s() is None
    said = run(pace, clock, slowness, n)
    end = clock[0]
    late = [(left, end - at) for at, left in said if at > 10 and end - at > 3]
    assert late or end < 15
    assert [(left, real) for left, real in late if not 0.5 < left / real < 2] == []
    assert pace.remaining_s() == 0


def test_the_estimate_of_a_stalled_stage_grows() -> None:
    clock = [0.0]
    pace = Pace([Stage("fitting", 5)], lambda: clock[0])
    pace.begin("fitting", None)
    left = []
    for clock[0] in (1, 10, 100):
        left.append(pace.remaining_s())
    assert left == [4, pytest.approx(0.3 * 6.5), pytest.approx(0.3 * 96.5)]
    # Commands without a plan give no estimate.
    assert Pace([], lambda: 0.0).remaining_s() is None


def test_skipped_stages_take_no_time() -> None:
    clock = [0.0]
    pace = Pace([Stage("a", 5), Stage("b", 7), Stage("c", 3), Stage("d", 2)], lambda: clock[0])
    pace.begin("a", None)
    pace.begin("unheard of", 5)
    pace.advance(5)
    pace.begin("c", None)
    # b will not come any more, and a, of which c is a part, is not over.
    assert pace.remaining_s() == 10
    pace.end()
    pace.end()
    pace.end()
    assert pace.remaining_s() == pytest.approx(2, abs=1.5)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_notebook_shows_bars_if_it_can_draw_them(is_there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    monkeypatch.setattr("nelbo.flows.inference.progress.find_spec", lambda _: object() if is_there else None)
    monkeypatch.setattr("rich.progress.Progress.add_task", lambda _, title, **__: shown.append(title))
    monkeypatch.setattr("rich.progress.Progress.advance", lambda *_: None)
    with progress("decoding", 2) as advance:
        advance(2)
    assert shown == ["decoding"] * is_there
