"""Promises on parts with several views, simulated over many calibrations."""

import numpy as np
import pytest
from scipy.stats import norm

from nelbo.detectors import Threshold, one_of_each

N_PARTS, N_VIEWS, FPR = 40, 5, 0.05
#: Standard deviation of what a view adds to its part's score.
SPREAD = 0.5


def realised(threshold: float, per: str) -> float:
    """The share of fresh parts' images above a threshold, or of parts with any image above it."""
    if per == "image":
        return float(norm.sf(threshold / np.hypot(1, SPREAD)))
    part = np.linspace(-6, 6, 2001)
    none = norm.cdf((threshold - part) / SPREAD) ** N_VIEWS
    return float(1 - np.trapezoid(norm.pdf(part) * none, part))


def calibrations(per: str, random: np.random.Generator, n: int = 1000) -> np.ndarray:
    """(n, 2) for calibrations on other parts: the realised rate, and whether it lies in the stated band."""
    groups = [part for part in range(N_PARTS) for _ in range(N_VIEWS)]
    rows = []
    for _ in range(n):
        parts, views = random.normal(size=(N_PARTS, 1)), random.normal(size=(N_PARTS, N_VIEWS))
        scores = (parts + SPREAD * views).ravel()
        if per == "every image":
            threshold, rate = Threshold.from_normals(scores, FPR), "image"
        else:
            keys = scores if per == "group" else random.random(len(scores))
            threshold, rate = Threshold.from_normals(scores[one_of_each(groups, keys)], FPR, per=per), per
        found, band = realised(threshold.value, rate), threshold.supported
        assert band is not None
        rows.append((found, band.low <= found <= band.high))
    return np.array(rows)


@pytest.mark.parametrize("per", ["image", "group"])
def test_the_promise_is_kept_on_fresh_parts(per: str, random: np.random.Generator) -> None:
    rates, inside = calibrations(per, random).T
    # 2/41 is the largest rate below 5 % that 40 draws can promise; the standard error is 0.001.
    assert rates.mean() == pytest.approx(2 / 41, abs=0.004)
    # 95 % by theory, within three standard errors.
    assert inside.mean() == pytest.approx(0.95, abs=0.021)


def test_counting_every_view_states_too_narrow_a_band(random: np.random.Generator) -> None:
    _, inside = calibrations("every image", random).T
    assert inside.mean() < 0.8


def test_rows_without_a_group_are_all_drawn() -> None:
    assert one_of_each([None] * 3, [3.0, 1.0, 2.0]).tolist() == [0, 1, 2]
    assert one_of_each(["p", None, "p", "p", "q"], [1.0, 0.0, 3.0, 3.0, -1.0]).tolist() == [1, 2, 4]
    assert one_of_each([], []).tolist() == []


def test_a_promise_per_group_counts_groups() -> None:
    said = Threshold.from_normals(range(40), FPR, per="image")
    assert said.describe() == "false-alarm rate promised: 5 %, between 0.6 and 13.2 % with 40 groups"
    assert said.to_dict()["per"] == "image"
    assert "per" not in Threshold.from_normals(range(40), FPR).to_dict()
