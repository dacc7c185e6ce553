"""Measures of simulated defects, and the sentences that follow from them."""

import numpy as np
import pyarrow as pa
import pytest

from nelbo.data import SIMULATED_SCHEMA
from nelbo.detectors import Interval
from nelbo.flows.evaluation.sensitivity import Seen, best_of, seen_of, sees_no_less
from nelbo.flows.workspace.calibrations.statistic import Statistic


def simulated(random: np.random.Generator, shift: float) -> pa.Table:
    """30 images, and 8 defects on each that add `shift` to the score."""
    kinds = ["scratch", "cut_paste", "blur", "spot"]
    clean = random.normal(size=30)
    rows = [{"image_id": f"i{n}", "peak": score} for n, score in enumerate(clean)]
    rows += [
        {"image_id": f"i{n}", "kind": kind, "size_px": size, "contrast": 2.0, "peak": clean[n] + random.normal(shift)}
        for n in range(30)
        for kind in kinds
        for size in (5.0, 10.0)
    ]
    return pa.Table.from_pylist(rows, SIMULATED_SCHEMA)


def sees(random: np.random.Generator, shift: float) -> Seen:
    return seen_of(simulated(random, shift), Statistic("peak"), None)


def test_a_model_that_sees_defects_is_not_called_blind(random: np.random.Generator) -> None:
    found = sees(random, 3.0)
    assert not found.blind
    assert found.cannot_see is None
    said = found.to_dict()
    assert said["blind"] is False
    assert said["n_images"] == 30
    assert said["n"] == 240
    assert said["auroc"] > 0.9
    assert said["found"] is None
    assert list(said["by_kind"]) == ["scratch", "cut_paste", "blur", "spot"]
    assert {name: one["n"] for name, one in said["by_size_px"].items()} == {"5": 120, "10": 120}


def test_a_blind_model_is_called_blind_in_words(random: np.random.Generator) -> None:
    found = sees(random, 0.0)
    assert found.blind
    assert found.to_dict()["blind"] is True
    assert found.cannot_see is not None
    assert "cannot see simulated defects" in found.cannot_see
    assert "5 to 10 pixels" in found.cannot_see


def test_a_model_that_sees_less_does_not_pass_the_gate(random: np.random.Generator) -> None:
    good, worse, alike = (sees(random, shift) for shift in (3.0, 1.0, 3.0))
    assert sees_no_less(good, worse).passed
    assert sees_no_less(worse, good).passed is False
    assert sees_no_less(alike, good).passed
    assert sees_no_less(None, good).passed is None


@pytest.mark.parametrize(
    ("areas", "kept"), [((0.8, 0.81, 0.7), 0), ((0.6, 0.9, 0.8), 1), ((0.6, None, 0.9), 2), ((None, 0.9), 0)]
)
def test_the_first_is_kept_unless_another_is_better_beyond_noise(
    areas: tuple[float | None, ...], kept: int, random: np.random.Generator
) -> None:
    one = sees(random, 1.0)

    def with_area(area: float | None) -> Seen | None:
        if area is None:
            return None
        whole = one.whole._replace(auroc=Interval(area, area - 0.04, area + 0.04))
        return Seen(one.n_images, whole, one.pooled, one.kinds, one.sizes, one.contrasts, one.false_alarms)

    assert best_of([with_area(area) for area in areas]) == kept
