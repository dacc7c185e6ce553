"""Simulated and real defects: what training sees, what is counted, and that the published table has its figures."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import ROOT, rows

SIDE = 64


@pytest.fixture
def simulated() -> ModuleType:
    from benchmarks.detection import simulated

    return simulated


def figures(simulated: ModuleType, models: dict[str, tuple[float, float, float]]) -> pd.DataFrame:
    """By model: the AUROC on real defects, on all simulated ones, and on pasted and blurred ones."""
    kept = [(simulated.REAL, "all"), (simulated.SIMULATED, "all"), (simulated.SIMULATED, "pooled")]
    others = [(simulated.FOUND, "pooled", 0.5), (simulated.BLIND, "pooled", 0.0)]
    found = [
        {"set": "S", "detector": name, "side": SIDE, "statistic": statistic, "of": of, "value": value}
        for name, values in models.items()
        for statistic, of, value in [*((*of, value) for of, value in zip(kept, values, strict=True)), *others]
    ]
    return pd.DataFrame(found).assign(low=lambda one: one["value"], high=lambda one: one["value"])


def test_pairs_in_order_are_counted(simulated: ModuleType) -> None:
    """The pairs a-b, a-c, a-d, b-d and c-d differ by more than 0.05; b-c does not."""
    models = {"a": (0.95, 0.9, 0.6), "b": (0.8, 0.7, 0.7), "c": (0.76, 0.95, 0.6), "d": (0.5, 0.7, 0.65)}
    found = figures(simulated, models)
    # By simulation c lies above a; b and d tie, which does not count.
    assert simulated.in_order(found, "all") == (3, 5)
    # By simulation b and d lie above a, c ties with a, and d lies above c.
    assert simulated.in_order(found, "pooled") == (1, 5)
    again = found.assign(set="T", value=found["value"].where(found["statistic"] == simulated.REAL, 1.0))
    lines = simulated.order_table(pd.concat([found, again]))
    assert lines[2:] == [
        "| S | 5 | 3 | 0.600 [0.147, 0.947] | 1 | 0.200 [0.005, 0.716] |",
        "| T | 5 | 0 | 0.000 [0.000, 0.522] | 0 | 0.000 [0.000, 0.522] |",
        "| all | 10 | 3 | 0.300 [0.067, 0.652] | 1 | 0.100 [0.003, 0.445] |",
    ]


def test_a_set_without_pairs_has_no_share(simulated: ModuleType) -> None:
    lines = simulated.order_table(figures(simulated, {"a": (0.9, 0.9, 0.9), "b": (0.88, 0.8, 0.8)}))
    assert lines[2] == "| S | 0 | 0 | - | 0 | - |"


@pytest.fixture
def striped(simulated: ModuleType, random: np.random.Generator) -> Any:
    """Noisy stripes; half of the test images have a bright square."""
    stripes = 0.5 + 0.2 * np.sin(np.arange(SIDE) / 3)[None, :, None, None]
    images = (stripes + random.normal(0, 0.03, (100, SIDE, SIDE, 1))).clip(0, 1).astype(np.float32)
    images[80:, 20:34, 20:34] = 1
    labels = np.repeat([0, 1], 20)
    return simulated.Dataset(
        images[:40], images[40:60], images[60:], labels, np.repeat("a", 40), sizes=np.full((60, 2), 128)
    )


@pytest.mark.parametrize(
    "config",
    [{"preset": "features", "backbone": "filters"}, pytest.param({"preset": "conv_1x1x16"}, marks=pytest.mark.slow)],
    ids=lambda config: config["preset"],
)
def test_defects_are_painted_on_images_that_no_part_of_training_saw(
    simulated: ModuleType, striped: Any, config: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[np.ndarray] = []
    painted: list[np.ndarray] = []

    def spy(where: list[np.ndarray], does: Callable[..., Any], pick: Callable[[Any], Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            where.extend(one for one in pick(arguments) if one is not None)
            return does(*arguments, **named)

        return called

    monkeypatch.setattr(simulated, "train", spy(given, simulated.train, lambda given: given[:2]))
    monkeypatch.setattr(simulated, "simulate", spy(painted, simulated.simulate, lambda given: [given[2].pixels]))
    settings = {} if config["preset"] == "features" else {"epochs": 1}
    found = simulated.Judged(settings, **config)(striped, 0, tmp_path).figures
    known = {image.tobytes() for image in np.concatenate(given)}
    assert known == {image.tobytes() for image in striped.train}
    assert not known & {image.tobytes() for image in painted[0]}
    assert {of for statistic, of in found if statistic == simulated.SIMULATED} == {
        *("all", "pooled", "scratch", "spot", "stain", "cut_paste", "blur")
    }
    assert found[simulated.REAL, "all"].value > 0.9
    if config["preset"] == "features":
        assert found[simulated.BLIND, "pooled"] == (0, 0, 0)
        assert found[simulated.SIMULATED, "all"].low > 0.6


@pytest.mark.slow
def test_the_benchmark_of_simulated_defects_runs(tmp_path: Path) -> None:
    pytest.importorskip("elpv_dataset", reason="needs real images: pip install 'nelbo[demo]'")
    asked = ("--sets", "ELPV", "--models", "filters", "random weights", "--results", tmp_path)
    found = rows("detection.simulated", *asked)
    assert [row[0] for row in found] == ["filters (64)", "random weights (64)", "ELPV", "all"]
    assert [row for row in found if not all(row)] == []
    assert {row[-1] for row in found[:2]} <= {"yes", "no"}
    assert rows("detection.simulated", *asked) == found


def test_the_published_table_agrees_with_the_published_figures(simulated: ModuleType) -> None:
    from benchmarks.detection.results import read_figures

    docs = ROOT / "docs"
    published = (docs / "explanation" / "sensitivity.md").read_text(encoding="utf-8")
    figures = read_figures(docs / "evidence" / "simulated.csv")
    lines = [line for _, own in figures.groupby("set", sort=False) for line in simulated.table(own)]
    lines += simulated.order_table(figures)
    assert [line for line in lines if line not in published] == []
