import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom

from detectors import CalibrationError, Threshold, conformal_threshold, labelled_threshold, n_needed, p_values, verdicts

scores = st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]) | st.floats(-1e6, 1e6), min_size=1, max_size=200)
rates = st.floats(0.001, 0.999) | st.sampled_from([0.01, 0.05, 0.1, 0.29, 0.43, 0.57, 1 / 3])


def test_by_hand() -> None:
    assert conformal_threshold(range(1, 100), 0.05) == 95
    assert conformal_threshold(range(1, 20), 0.05) == 19
    with pytest.raises(CalibrationError) as caught:
        conformal_threshold(range(1, 19), 0.05)
    assert str(caught.value) == (
        "fpr=0.05 needs at least 19 calibration images, got 18. Add normal images, or ask for fpr >= 0.0527."
    )


def test_the_message_of_the_design() -> None:
    with pytest.raises(CalibrationError, match=r"fpr=0.01 needs at least 99 calibration images, got 60\..*0\.0164"):
        conformal_threshold(range(60), 0.01)


def test_the_message_without_any_image() -> None:
    with pytest.raises(CalibrationError, match=r"got 0\. Add normal images\.$"):
        conformal_threshold([], 0.05)


@given(rates)
def test_needed_is_the_least_that_works(fpr: float) -> None:
    n = n_needed(fpr)
    assert math.isfinite(conformal_threshold(np.arange(n), fpr))
    if n > 1:
        with pytest.raises(CalibrationError):
            conformal_threshold(np.arange(n - 1), fpr)


@given(scores, scores, rates)
def test_three_ways_to_say_anomalous(calibration: list[float], batch: list[float], fpr: float) -> None:
    """Score above threshold <=> verdict <=> p-value at most fpr; ties and roundings included."""
    try:
        threshold = conformal_threshold(calibration, fpr)
    except CalibrationError:
        assert len(calibration) < n_needed(fpr)
        return
    judged = np.array(batch + calibration)
    above = judged > threshold
    np.testing.assert_array_equal(above, verdicts(judged, threshold) == "anomalous")
    np.testing.assert_array_equal(above, p_values(judged, calibration) <= fpr)


@given(scores, rates, rates)
def test_threshold_never_rises_with_fpr(calibration: list[float], one: float, other: float) -> None:
    low, high = sorted([one, other])
    if len(calibration) >= n_needed(low):
        assert conformal_threshold(calibration, high) <= conformal_threshold(calibration, low)


@pytest.mark.parametrize(("n", "fpr"), [(19, 0.05), (60, 0.05), (152, 0.05), (226, 0.01)])
def test_the_promise_holds_over_thousands_of_draws(n: int, fpr: float, random: np.random.Generator) -> None:
    draws, m = 4000, 50
    calibration, fresh = random.normal(size=(draws, n)), random.normal(size=(draws, m))
    alarms = [(new > conformal_threshold(old, fpr)).sum() for old, new in zip(calibration, fresh, strict=True)]
    j = math.floor(fpr * (n + 1) + 1e-9)
    law = betabinom(m, j, n + 1 - j)
    assert abs(np.mean(alarms) - law.mean()) < 3 * law.std() / math.sqrt(draws)
    assert law.mean() / m <= fpr + 1e-12


@pytest.mark.parametrize("bad", [0, 1, -0.1, 5, math.nan, 1e-320])
def test_fpr_is_a_rate(bad: float) -> None:
    with pytest.raises(ValueError, match="between 1e-09 and 1"):
        conformal_threshold(range(100), bad)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_are_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="1 of 100 scores are NaN or infinite"):
        conformal_threshold([*range(99), bad], 0.05)


def objective_of(labels: np.ndarray, flagged: np.ndarray, objective: str) -> float:
    """The definition, counted out."""
    hits, alarms = (flagged & (labels == 1)).sum(), (flagged & (labels == 0)).sum()
    if objective == "f1":
        return float(2 * hits / (flagged.sum() + (labels == 1).sum()))
    return float(hits / (labels == 1).sum() - alarms / (labels == 0).sum())


@given(st.data(), st.sampled_from(["f1", "youden"]))
def test_labelled_threshold_is_the_best_there_is(data: st.DataObject, objective: str) -> None:
    n = data.draw(st.integers(2, 25))
    labels = np.array(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    values = np.array(data.draw(st.lists(st.integers(0, 6) | st.floats(-5, 5), min_size=n, max_size=n)), float)
    if len(set(labels)) < 2:
        with pytest.raises(CalibrationError, match="needs normal and anomalous"):
            labelled_threshold(labels, values, objective)
        return
    found = objective_of(labels, values > labelled_threshold(labels, values, objective), objective)
    cuts = [*np.unique(values), values.min() - 1]
    best = max(objective_of(labels, values > cut, objective) for cut in cuts if (values > cut).any())
    assert found == pytest.approx(best)


def test_neighbouring_floats() -> None:
    low = 1.0
    high = float(np.nextafter(low, 2))
    threshold = labelled_threshold([0, 1], [low, high], "f1")
    assert low <= threshold < high


def test_labelled_threshold_refuses() -> None:
    with pytest.raises(ValueError, match="objective='auc'"):
        labelled_threshold([0, 1], [1, 2], "auc")
    with pytest.raises(ValueError, match="expected 0"):
        labelled_threshold([0, 2], [1, 2], "f1")


def test_threshold_is_plain_data() -> None:
    threshold = Threshold(1.5, None, "f1", 20)
    assert Threshold(**threshold.to_dict()) == threshold
