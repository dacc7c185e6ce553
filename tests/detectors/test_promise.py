import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from nelbo.detectors import CalibrationError, check_size, conformal_threshold, n_needed
from nelbo.detectors.promise import n_above, rate_law


@given(st.integers(1, 400), st.floats(0.002, 0.9), st.floats(0.01, 0.99))
def test_rank_with_confidence_is_the_largest_that_keeps_it(n: int, fpr: float, confidence: float) -> None:
    """Compared with the binomial law of how many of n uniform scores lie in the top share fpr."""
    expected = max((j for j in range(1, n + 1) if binom.sf(j - 1, n, fpr) >= confidence), default=0)
    found = n_above(n, fpr, confidence)
    if found != expected:
        # The two laws are equal, but rounding may separate them where one exactly meets the confidence.
        assert binom.sf(max(found, expected) - 1, n, fpr) == pytest.approx(confidence, rel=1e-9)


@given(st.integers(1, 2000), st.floats(0.001, 0.999))
def test_rank_on_average_is_the_largest_that_keeps_it(n: int, fpr: float) -> None:
    j = n_above(n, fpr)
    assert j / (n + 1) <= fpr < (j + 1) / (n + 1)


@pytest.mark.parametrize(("fpr", "confidence", "n"), [(0.05, 0.95, 59), (0.01, 0.95, 299), (0.01, 0.9, 230)])
def test_the_number_needed_with_confidence_has_known_values(fpr: float, confidence: float, n: int) -> None:
    """(1 - fpr)^n <= 1 - confidence: the sample sizes of tolerance limits (Wilks 1941)."""
    assert n_needed(fpr, confidence) == n
    check_size(n, fpr, confidence)
    with pytest.raises(CalibrationError, match=f"with confidence {confidence:g} needs at least {n}") as caught:
        check_size(n - 1, fpr, confidence)
    remedy = float(str(caught.value).rstrip(".").split(">= ")[1])
    check_size(n - 1, remedy, confidence)


def test_the_conditional_promise_holds_as_often_as_stated(random: np.random.Generator) -> None:
    """Each calibration set has its own long-run rate, which for uniform scores is one minus the threshold."""
    draws, n, fpr, confidence = 10_000, 150, 0.05, 0.9
    rates = [1 - conformal_threshold(scores, fpr, confidence) for scores in random.random((draws, n))]
    kept = np.mean(np.array(rates) <= fpr)
    exact = beta(n_above(n, fpr, confidence), n + 1 - n_above(n, fpr, confidence)).cdf(fpr)
    assert exact >= confidence
    assert kept == pytest.approx(exact, abs=3 * math.sqrt(exact * (1 - exact) / draws))


def test_supported_rate_narrows_with_the_calibration(random: np.random.Generator) -> None:
    laws = [rate_law(n_above(n, 0.05), n) for n in (19, 99, 999)]
    widths = [law.high - law.low for law in laws]
    assert widths == sorted(widths, reverse=True)
    # Simulated: the share of a uniform law above the k-th of n uniform scores.
    above = 1 - np.sort(random.random((20_000, 99)), axis=1)[:, 94]
    assert laws[1].low == pytest.approx(np.quantile(above, 0.025), abs=0.002)
    assert laws[1].high == pytest.approx(np.quantile(above, 0.975), abs=0.003)
    assert laws[1].value == pytest.approx(0.05)


@pytest.mark.parametrize("bad", [0, 1, -1, math.nan])
def test_a_confidence_that_is_no_probability_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=f"confidence={bad}"):
        n_needed(0.05, bad)
