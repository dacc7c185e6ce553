import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from nelbo.detectors import CalibrationError, Threshold, conformal_threshold, n_needed, p_values, trim, verdicts

scores = st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]) | st.floats(-1e6, 1e6), min_size=1, max_size=200)
rates = st.floats(0.001, 0.999) | st.sampled_from([0.01, 0.05, 0.1, 0.29, 0.43, 0.57, 1 / 3])


def test_conformal_thresholds_have_known_values() -> None:
    assert conformal_threshold(range(1, 100), 0.05) == 95
    assert conformal_threshold(range(1, 20), 0.05) == 19
    with pytest.raises(CalibrationError) as caught:
        conformal_threshold(range(1, 19), 0.05)
    assert str(caught.value) == (
        "fpr=0.05 needs at least 19 calibration images, got 18. Add normal images, or ask for fpr >= 0.0527."
    )


def test_the_error_without_any_image_asks_for_images() -> None:
    with pytest.raises(CalibrationError, match=r"got 0\. Add normal images\.$"):
        conformal_threshold([], 0.05)


@given(rates)
def test_the_number_needed_is_the_least_that_works(fpr: float) -> None:
    n = n_needed(fpr)
    assert math.isfinite(conformal_threshold(np.arange(n), fpr))
    if n > 1:
        with pytest.raises(CalibrationError):
            conformal_threshold(np.arange(n - 1), fpr)


@given(scores, rates, rates)
def test_threshold_never_rises_with_fpr(calibration: list[float], one: float, other: float) -> None:
    low, high = sorted([one, other])
    if len(calibration) >= n_needed(low):
        assert conformal_threshold(calibration, high) <= conformal_threshold(calibration, low)


@pytest.mark.parametrize("bad", [0, 1, -0.1, 5, math.nan, 1e-320])
def test_an_fpr_that_is_no_rate_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="between 1e-09 and 1"):
        conformal_threshold(range(100), bad)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="1 of 100 scores are NaN or infinite"):
        conformal_threshold([*range(99), bad], 0.05)


def test_the_promise_in_words() -> None:
    assert Threshold.from_normals(range(226), 0.01).describe() == (
        "false-alarm rate promised: 1 %, between 0.1 and 2.4 % with 226 images"
    )
    with_band = Threshold.from_normals(range(226), 0.01, confidence=0.5, review_fpr=0.05)
    assert with_band.describe() == (
        "false-alarm rate promised: 1 % with confidence 50 %, between 0.1 and 2.4 % with 226 images; "
        "for review another 3.96 % of normal images, between 1.8 and 6.9 %"
    )
    trimmed = Threshold.from_normals(range(200), 0.05, contamination=0.02)
    assert trimmed.describe() == (
        "false-alarm rate promised: none, because the highest 2 % of the calibration images were taken for anomalous"
    )
    labelled = Threshold.from_labels([0, 1], [1, 2], "f1")
    assert labelled.describe().endswith("none, because the threshold was chosen from labels (f1)")


def test_cross_fitted_scores_give_an_approximate_rate() -> None:
    """With 1,131 images at 5 %, floor(1132 * 0.05) = 56 lie above, so the law is Beta(56, 1076)."""
    values = np.arange(1131.0)
    cross, held_out = (Threshold.from_normals(values, 0.05, cross=cross) for cross in (True, False))
    # The threshold is the ceil(1132 * 0.95) = 1076-th smallest score.
    assert (cross.value, cross.objective, cross.n_calibration) == (1075.0, "conformal", 1131)
    assert replace(cross, cross=False) == held_out
    assert cross.describe() == (
        "false-alarm rate aimed at: 5 %, about 3.8 to 6.3 % with 1,131 images (approximate: cross-fitted, no guarantee)"
    )
    assert cross.supported == held_out.supported
    assert cross.supported is not None
    assert cross.supported == pytest.approx([56 / 1132, *beta(56, 1076).ppf([0.025, 0.975])])
    assert cross.false_alarms(100) == held_out.false_alarms(100)
    assert cross.chance(12, 100) == held_out.chance(12, 100)
    band = Threshold.from_normals(range(199), 0.05, review_fpr=0.15, cross=True)
    assert band.describe() == (
        "false-alarm rate aimed at: 5 %, about 2.4 to 8.4 % with 199 images; for review another 10 % of normal images, "
        "about 6.2 to 14.5 % (approximate: cross-fitted, no guarantee)"
    )
    # Without a rate to aim at, none is called approximate.
    trimmed = Threshold.from_normals(range(200), 0.05, contamination=0.02, cross=True)
    assert not trimmed.approximate
    assert trimmed.describe() == replace(trimmed, cross=False).describe()


def test_cross_fitted_scores_refuse_a_confidence() -> None:
    says = r"confidence=0.9 with cross-fitted scores: expected None.* Calibrate on held-out images"
    with pytest.raises(ValueError, match=says):
        Threshold.from_normals(range(100), 0.05, confidence=0.9, cross=True)


def test_thresholds_of_earlier_versions_are_of_held_out_images() -> None:
    threshold = Threshold.from_normals(range(100), 0.05, review_fpr=0.1, cross=True)
    said = threshold.to_dict()
    assert Threshold(**said) == threshold
    assert said.pop("cross") is True
    assert not Threshold(**said).approximate


@given(scores, rates, rates)
def test_the_review_threshold_lies_below_the_other(calibration: list[float], one: float, other: float) -> None:
    fpr, review_fpr = sorted([one, other])
    if len(calibration) < n_needed(fpr) or fpr == review_fpr:
        return
    threshold = Threshold.from_normals(calibration, fpr, review_fpr=review_fpr)
    words = verdicts(calibration, threshold.value, threshold.review)
    p = p_values(calibration, calibration)
    np.testing.assert_array_equal(words == "anomalous", p <= fpr)
    np.testing.assert_array_equal(words == "review", (p > fpr) & (p <= review_fpr))


def test_the_share_for_review_is_as_simulated(random: np.random.Generator) -> None:
    """Compared with a simulation of the share of normal images between the two thresholds, over calibration sets."""
    shares = []
    for calibration in random.random((4000, 99)):
        threshold = Threshold.from_normals(calibration, 0.05, review_fpr=0.2)
        assert threshold.review is not None
        shares.append(threshold.value - threshold.review)
    supported = threshold.supported_review
    assert supported is not None
    assert supported.value == pytest.approx(0.15)
    assert supported.value == pytest.approx(np.mean(shares), abs=3 * np.std(shares) / math.sqrt(4000))
    assert supported.low == pytest.approx(np.quantile(shares, 0.025), abs=0.006)
    assert supported.high == pytest.approx(np.quantile(shares, 0.975), abs=0.006)


def test_two_rates_of_one_rank_leave_nothing_to_review() -> None:
    threshold = Threshold.from_normals(range(19), 0.05, review_fpr=0.06)
    assert threshold.review == threshold.value
    assert threshold.supported_review == (0, 0, 0)


@pytest.mark.parametrize("bad", [0.05, 0.01, 1.0, math.nan])
def test_a_review_rate_below_the_fpr_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"above fpr=0\.05"):
        Threshold.from_normals(range(100), 0.05, review_fpr=bad)


def test_a_contaminated_set_promises_nothing(random: np.random.Generator) -> None:
    normal, defects = random.normal(size=980), random.normal(8, size=20)
    unclean = np.concatenate([normal, defects])
    threshold = Threshold.from_normals(unclean, 0.05, contamination=0.02)
    assert (threshold.fpr, threshold.target, threshold.objective) == (None, 0.05, "trimmed")
    assert threshold.supported is None
    assert threshold.n_calibration == 980
    assert threshold.value == conformal_threshold(normal, 0.05)
    with pytest.raises(ValueError, match="does not go with contamination"):
        Threshold.from_normals(unclean, 0.05, contamination=0.02, confidence=0.95)


@given(scores, st.floats(0, 0.99))
def test_trimming_removes_the_highest_scores(values: list[float], share: float) -> None:
    kept = trim(values, share)
    assert len(values) - len(kept) == math.ceil(round(share * len(values), 9))
    np.testing.assert_array_equal(kept, sorted(values)[: len(kept)])


@pytest.mark.parametrize("bad", [-0.1, 1, math.nan])
def test_a_contamination_that_is_no_share_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=f"contamination={bad}"):
        trim([1.0], bad)


@pytest.mark.parametrize("confidence", [None, 0.9])
def test_chance_includes_the_noise_of_the_calibration(confidence: float | None, random: np.random.Generator) -> None:
    """Compared with how often as many of 60 fresh scores exceed the threshold, over thousands of calibrations."""
    draws, n, m = 20_000, 59, 60
    values = random.random((draws, n + m))
    threshold = Threshold.from_normals(values[0, :n], fpr=0.05, confidence=confidence)
    rank = int((values[0, :n] >= threshold.value).sum())
    limits = np.sort(values[:, :n], axis=1)[:, n - rank]
    n_above = (values[:, n:] > limits[:, None]).sum(axis=1)
    for n_anomalous in (0, 1, 3, 6, 10):
        found = threshold.chance(n_anomalous, m)
        assert found == pytest.approx((n_above >= n_anomalous).mean(), abs=0.015)
    assert Threshold.from_labels([0, 0, 1, 1], [1, 2, 3, 4], "f1").chance(3, m) is None
