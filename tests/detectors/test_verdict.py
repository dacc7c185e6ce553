import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from nelbo.detectors import conformal_threshold, decision_function, n_needed, p_values, q_values, verdicts

values = st.lists(st.integers(0, 5) | st.floats(-1e9, 1e9), max_size=50)


@given(values, values.filter(bool))
def test_p_values_are_counted(batch: list[float], calibration: list[float]) -> None:
    expected = [(1 + sum(c >= score for c in calibration)) / (len(calibration) + 1) for score in batch]
    found = p_values(batch, calibration)
    np.testing.assert_array_equal(found, expected)
    assert ((found > 0) & (found <= 1)).all()


@given(st.lists(st.floats(1e-6, 1), max_size=30))
def test_q_values_are_benjamini_hochberg(p: list[float]) -> None:
    """By the step-up definition: the least p n / rank over all p at least as large."""
    order = np.argsort(p)
    expected = np.empty(len(p))
    least = 1.0
    for rank in range(len(p), 0, -1):
        least = min(least, p[order[rank - 1]] * len(p) / rank)
        expected[order[rank - 1]] = least
    np.testing.assert_allclose(q_values(p), expected)


def test_q_values_equal_scipys(random: np.random.Generator) -> None:
    """They are equal to the bit, with and without ties."""
    for p in (random.random(500), random.random(500).round(2), np.ones(1)):
        np.testing.assert_array_equal(q_values(p), false_discovery_control(p))
    assert q_values([]).tolist() == []


@pytest.mark.parametrize("bad", [[-0.1], [1.1], [np.nan]])
def test_q_values_refuse_bad_p_values(bad: list[float]) -> None:
    with pytest.raises(ValueError, match=r"expected numbers in \[0, 1\]"):
        q_values(bad)


def test_a_tie_is_normal() -> None:
    assert verdicts([1.0, np.nextafter(1.0, 2)], 1.0).tolist() == ["normal", "anomalous"]


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        verdicts([np.nan], 1.0)
    with pytest.raises(ValueError, match="threshold=nan"):
        verdicts([1.0], np.nan)
    with pytest.raises(ValueError, match="threshold=inf"):
        decision_function([1.0], np.inf)
    with pytest.raises(ValueError, match="at least one calibration score"):
        p_values([1.0], [])
    with pytest.raises(ValueError, match=r"shape \(1, 1\)"):
        p_values([[1.0]], [1.0])


extreme = st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 3)


@given(st.lists(extreme, max_size=20), st.lists(extreme, min_size=1, max_size=60), st.floats(1e-3, 0.999))
def test_scores_decisions_and_p_values_give_one_verdict(
    batch: list[float], calibration: list[float], fpr: float
) -> None:
    """An anomalous score is above the threshold, below 0 for scikit-learn, and has a p-value of at most fpr."""
    assume(len(calibration) >= n_needed(fpr))
    threshold = conformal_threshold(calibration, fpr)
    just_above = [] if threshold == np.finfo(np.float64).max else [np.nextafter(threshold, np.inf)]
    scores = np.array([*batch, *calibration, threshold, *just_above], np.float64)
    above = scores > threshold
    np.testing.assert_array_equal(decision_function(scores, threshold) < 0, above)
    np.testing.assert_array_equal(p_values(scores, calibration) <= fpr, above)
    np.testing.assert_array_equal(verdicts(scores, threshold) == "anomalous", above)
