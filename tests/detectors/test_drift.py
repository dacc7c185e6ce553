import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom, binomtest, ks_2samp, kstest, norm

from nelbo.detectors import Drift, DriftTest, conformal_threshold, detect_drift, holm
from nelbo.detectors.drift import SCORES_PER_BATCH, _log_wealth, _online_p_values
from nelbo.detectors.smirnov import MOST_PAIRS, smirnov_p_value

values = st.lists(st.integers(0, 4) | st.integers(-1000, 1000), min_size=1, max_size=40)
STATISTICS = ("brightness", "contrast", "sharpness", "size")


def names(tests: tuple[DriftTest, ...]) -> list[str]:
    return [test.name for test in tests]


def the(result: Drift, name: str) -> DriftTest:
    return next(test for test in result.tests if test.name == name)


def levels(m: int, random: np.random.Generator) -> np.ndarray:
    """A perfectly normal batch, in random order."""
    return random.permutation(norm.ppf((np.arange(m) + 0.5) / m))


# Holm


def test_holm_has_known_values() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1, 1])
    assert holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_equals_the_closed_bonferroni_test(p: list[float]) -> None:
    """Marcus, Peritz and Gabriel 1976: a p-value is the largest Bonferroni p-value of any set that holds it."""
    n = len(p)
    sets = [s for size in range(1, n + 1) for s in itertools.combinations(range(n), size)]
    worst = [max(min(1, len(s) * min(p[i] for i in s)) for s in sets if k in s) for k in range(n)]
    np.testing.assert_allclose(holm(p), worst)


@pytest.mark.parametrize("bad", [[-0.1], [1.1], [math.nan], [[0.1]], 0.1])
def test_holm_refuses_bad_p_values(bad: object) -> None:
    with pytest.raises(ValueError, match=r"expected a list of numbers in \[0, 1\]"):
        holm(bad)  # type: ignore[arg-type]


# Two samples


def test_smirnov_has_known_p_values() -> None:
    """One score among nine: each place is equally likely. Two among three: 2 of the 10 orders separate the samples."""
    nine = np.arange(1.0, 10.0)
    found = [smirnov_p_value(np.array([score]), nine) for score in (0.0, 1.5, 4.5, 5.5, 9.5)]
    np.testing.assert_allclose(found, [0.2, 0.4, 1.0, 1.0, 0.2])
    two, three = np.array([1.0, 2.0]), np.array([3.0, 4.0, 5.0])
    np.testing.assert_allclose([smirnov_p_value(two, three), smirnov_p_value(three, two)], 0.2)


@given(values, values)
def test_smirnov_equals_scipys(one: list[float], other: list[float]) -> None:
    """Also with ties; to the bit if the compiler fuses no operations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        expected = ks_2samp(one, other).pvalue
    found = smirnov_p_value(np.asarray(one, float), np.asarray(other, float))
    assert found == pytest.approx(expected, rel=1e-13, abs=0)


def test_smirnov_equals_scipys_at_the_switch_of_methods(random: np.random.Generator) -> None:
    n = 200
    for m in (MOST_PAIRS // n, MOST_PAIRS // n + 1):
        one, other = random.normal(0.3, size=m), random.normal(size=n)
        assert smirnov_p_value(one, other) == pytest.approx(ks_2samp(one, other).pvalue, rel=1e-13, abs=0)


# The martingale


def test_wealth_has_known_values() -> None:
    """The first bet never pays, because the three thirds cancel. Then, in shares low + wait + high:

    p = 0.2:  1.3 / 3 + 1 / 3 + 0.7 / 3                                                = 1
    p = 0.1:  (0.429 + 0.01 / 3) 1.4 + (0.33 + 0.01 / 3) + (0.231 + 0.01 / 3) 0.6      = 1.0792
    p = 0.9:  0.60281133 0.6 + 0.33359733 + 0.14279133 1.4                             = 0.895192
    """
    np.testing.assert_allclose(np.exp(_log_wealth(np.array([0.2, 0.1, 0.9]))), [1, 1.0792, 0.895192], rtol=1e-7)


@given(st.lists(st.floats(0, 1), max_size=30))
def test_rises_and_falls_count_equally(p: list[float]) -> None:
    np.testing.assert_allclose(_log_wealth(np.array(p)), _log_wealth(1 - np.array(p)), atol=1e-12)


@given(values, values, st.integers(0, 5))
def test_ranks_are_counted(stream: list[float], calibration: list[float], seed: int) -> None:
    broken = np.random.default_rng(seed).random(len(stream))
    known, expected = list(calibration), []
    for score, share in zip(stream, broken, strict=True):
        above, equal = sum(k > score for k in known), sum(k == score for k in known) + 1
        expected.append((above + share * equal) / (len(known) + 1))
        known.append(score)
    found = _online_p_values(np.array(stream, float), np.array(calibration, float), np.random.default_rng(seed))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_online_p_values_are_uniform_and_independent_with_heavy_ties(random: np.random.Generator) -> None:
    draws = random.integers(0, 3, (2000, 30)).astype(float)
    p = np.array([_online_p_values(row[10:], row[:10], random) for row in draws])
    assert kstest(p.ravel(), "uniform").pvalue > 1e-3
    assert kstest(p[:, -1], "uniform").pvalue > 1e-3
    correlations = np.corrcoef(p.T)[np.triu_indices(20, 1)]
    assert np.abs(correlations).max() < 5 / math.sqrt(2000)


@pytest.mark.parametrize("rounded", [False, True])
def test_wealth_has_mean_one_and_ville_holds(rounded: bool, random: np.random.Generator) -> None:
    draws = random.normal(size=(3000, 130))
    draws = draws.round() if rounded else draws
    log_wealth = np.array([_log_wealth(_online_p_values(row[50:], row[:50], random)) for row in draws])
    final = np.exp(log_wealth[:, -1])
    assert abs(final.mean() - 1) < 4 * final.std() / math.sqrt(len(final))
    for bound in (2, 5, 20):
        reached = int((log_wealth.max(axis=1) >= math.log(bound)).sum())
        assert binomtest(reached, len(draws), 1 / bound, "greater").pvalue > 1e-3
    assert (log_wealth.max(axis=1) >= math.log(2)).any()


def test_wealth_grows_either_way_without_overflow(random: np.random.Generator) -> None:
    for score in (-1.0, 1.0):
        log_wealth = _log_wealth(_online_p_values(np.full(3000, score), np.zeros(3000), random))
        assert np.isfinite(log_wealth).all()
        assert log_wealth.max() > 100
    assert _log_wealth(np.empty(0)).shape == (0,)


# No drift


def test_the_alarm_keeps_its_promise_with_ties(random: np.random.Generator) -> None:
    def normal(size: int) -> np.ndarray:
        return random.normal(size=size).round(1)

    alarms, least, draws = 0, [], 1200
    for seed in range(draws):
        calibration = normal(int(random.integers(91, 201)))
        found = detect_drift(
            normal(200),
            calibration,
            threshold=conformal_threshold(calibration, 0.05),
            earlier=[normal(200) for _ in range(3)],
            statistics={name: normal(200) for name in STATISTICS},
            reference={name: normal(len(calibration)) for name in STATISTICS},
            seed=seed,
        )
        alarms += found.alarm
        least.append(min(test.adjusted_p_value for test in found.tests))
    n_at_5_percent = int((np.array(least) <= 0.05).sum())
    assert binomtest(alarms, draws, 0.01, "greater").pvalue > 1e-3
    assert binomtest(n_at_5_percent, draws, 0.05, "greater").pvalue > 1e-3
    # The alarm is raised sometimes; at 1 % there are too few alarms to test its rate from below.
    assert alarms > 0
    assert n_at_5_percent >= 0.015 * draws


@pytest.mark.parametrize("n_kinds", [2, 3, 20])
def test_the_number_flagged_keeps_its_promise_with_heavy_ties(n_kinds: int, random: np.random.Generator) -> None:
    low = 0
    for _ in range(500):
        calibration = random.integers(0, n_kinds, 60)
        threshold = conformal_threshold(calibration, 0.05)
        p = the(detect_drift(random.integers(0, n_kinds, 2000), calibration, threshold=threshold), "flagged").p_value
        low += p <= 0.1
    assert binomtest(low, 500, 0.1, "greater").pvalue > 1e-3


# Drift


def test_higher_scores_raise_the_alarm(random: np.random.Generator) -> None:
    calibration = levels(200, random)
    result = detect_drift(levels(200, random) + 1, calibration, threshold=conformal_threshold(calibration, 0.05))
    assert result.alarm
    assert names(result.fired) == ["scores", "flagged", "martingale"]
    assert the(result, "scores").finding.startswith("scores are higher than in the calibration: median 1")
    assert the(result, "flagged").finding == "50 of 200 images flagged, 10.0 expected"
    assert "within this batch, scores tended higher" in the(result, "martingale").finding


def test_lower_scores_raise_the_alarm(random: np.random.Generator) -> None:
    result = detect_drift(levels(200, random) - 1, levels(200, random))
    assert names(result.fired) == ["scores", "martingale"]
    assert "scores are lower" in the(result, "scores").finding
    assert "tended lower" in the(result, "martingale").finding


def test_a_larger_spread_raises_the_alarm(random: np.random.Generator) -> None:
    result = detect_drift(2 * levels(200, random), levels(400, random))
    assert "scores" in names(result.fired)
    assert the(result, "scores").finding == (
        "scores are more spread out than in the calibration: middle half -1.34 to 1.34 against -0.673 to 0.673"
    )
    assert "less spread out" in detect_drift(levels(200, random) / 2, levels(400, random)).fired[0].finding


@pytest.mark.parametrize("sign", [1, -1])
def test_slow_drift_that_no_batch_shows_alone_raises_the_alarm(sign: int, random: np.random.Generator) -> None:
    calibration = levels(1000, random)
    batches = [levels(50, random) + sign * 0.4 * (i + 1) / 20 for i in range(20)]
    assert min(ks_2samp(batch, calibration).pvalue for batch in batches) > 0.02
    alone = detect_drift(batches[-1], calibration)
    assert the(alone, "scores").adjusted_p_value > 0.01
    result = detect_drift(batches[-1], calibration, earlier=batches[:-1])
    assert result.alarm
    assert names(result.fired) == ["martingale"]
    assert the(result, "martingale").finding.startswith(
        f"over 20 batches up to this one, scores tended {'higher' if sign > 0 else 'lower'}: evidence"
    )


def test_darker_images_raise_the_alarm(random: np.random.Generator) -> None:
    bright = 0.5 + 0.05 * levels(200, random)
    batch = {"brightness": 0.9 * bright, "size": np.full(200, 64), "only here": bright}
    result = detect_drift(
        levels(200, random),
        levels(200, random),
        statistics=batch,
        reference={"size": np.full(150, 64), "brightness": bright, "only there": bright},
    )
    assert names(result.tests) == ["scores", "martingale", "brightness", "size"]
    assert "brightness" in names(result.fired)
    assert the(result, "brightness").finding == "brightness is lower than in the calibration: median 0.45 against 0.5"
    assert the(result, "size").p_value == 1
    assert the(result, "size").finding == "size is much as in the calibration: median 64 against 64"


def test_missing_statistics_are_dropped() -> None:
    both: dict[str, Any] = {
        "statistics": {"a": [1, math.nan, 2], "b": [math.nan]},
        "reference": {"a": [1, 2], "b": [1]},
    }
    result = detect_drift([1.0], [1.0], **both)
    assert names(result.tests) == ["scores", "martingale", "a"]
    assert the(result, "a").p_value == 1


@pytest.mark.parametrize(
    ("batch", "reference", "finding"),
    [
        ([-10234.4], [-10180.2], "lower than in the calibration: median -10234 against -10180"),
        ([1.32], [0.87], "higher than in the calibration: median 1.32 against 0.87"),
        ([250_000], [120_000], "higher than in the calibration: median 250000 against 120000"),
        ([1e300], [-1e300], "higher than in the calibration: median 1e+300 against -1e+300"),
        ([0, 0], [0], "much as in the calibration: median 0 against 0"),
    ],
)
def test_findings_have_readable_numbers(batch: list[float], reference: list[float], finding: str) -> None:
    assert the(detect_drift(batch, reference), "scores").finding == f"scores are {finding}"


# The number flagged


@pytest.mark.parametrize("n_flagged", [0, 3, 10, 31, 200])
def test_the_number_flagged_has_known_p_values(n_flagged: int) -> None:
    calibration = np.arange(1, 100)
    threshold = conformal_threshold(calibration, 0.05)
    batch = np.where(np.arange(200) < n_flagged, 95.5, 94.5)
    law = betabinom(200, 5, 95)
    expected = min(1, 2 * min(law.cdf(n_flagged), law.sf(n_flagged - 1)))
    test = the(detect_drift(batch, calibration, threshold=threshold), "flagged")
    assert test.p_value == pytest.approx(expected)
    assert test.finding == f"{n_flagged} of 200 images flagged, 10.0 expected"


def test_a_tie_is_not_flagged() -> None:
    assert "0 of 50 images" in the(detect_drift([95.0] * 50, range(1, 100), threshold=95.0), "flagged").finding


def test_thresholds_beyond_all_calibration_scores_give_valid_p_values() -> None:
    calibration = np.arange(1.0, 100)
    below, above = [the(detect_drift(calibration, calibration, threshold=t), "flagged").p_value for t in (0.0, 100.0)]
    assert below == above == 1
    assert "flagged" in names(detect_drift(np.full(99, -1.0), calibration, threshold=0.0).fired)
    assert "flagged" in names(detect_drift(np.full(99, 101.0), calibration, threshold=100.0).fired)


@pytest.mark.parametrize("m", [1, 7, 60])
def test_p_values_of_the_number_flagged_are_valid(m: int) -> None:
    """For every level, the numbers flagged whose p-value is at most the level have at most that probability."""
    calibration, law = np.arange(1, 100), betabinom(m, 5, 95)
    p = np.array(
        [
            the(detect_drift(np.where(np.arange(m) < k, 96.5, 0.5), calibration, threshold=95.0), "flagged").p_value
            for k in range(m + 1)
        ]
    )
    for level in p:
        assert law.pmf(np.arange(m + 1))[p <= level].sum() <= level + 1e-12


# All together


@settings(max_examples=50)
@given(values, values, st.lists(values, max_size=3), st.randoms(use_true_random=False))
def test_order_and_scale_change_no_test(
    batch: list[float], calibration: list[float], earlier: list[list[float]], shuffle: Any
) -> None:
    threshold = float(sorted(calibration)[len(calibration) // 2])
    result = detect_drift(batch, calibration, threshold=threshold, earlier=earlier)
    assert result.alarm == bool(result.fired)
    assert all(0 <= test.p_value <= test.adjusted_p_value <= 1 for test in result.tests)
    shuffled = detect_drift(
        shuffle.sample(batch, len(batch)),
        shuffle.sample(calibration, len(calibration)),
        threshold=threshold,
        earlier=earlier,
    )
    assert result.tests[:2] == tuple(
        test._replace(adjusted_p_value=other.adjusted_p_value)
        for test, other in zip(shuffled.tests[:2], result.tests[:2], strict=True)
    )
    stretched = detect_drift(
        2 * np.array(batch) + 3,
        2 * np.array(calibration) + 3,
        threshold=2 * threshold + 3,
        earlier=[2 * np.array(past) + 3 for past in earlier],
    )
    assert [test.p_value for test in stretched.tests] == [test.p_value for test in result.tests]
    resorted = detect_drift(batch, sorted(calibration), threshold=threshold, earlier=earlier)
    assert resorted == result


def test_seeds_repeat_and_large_batches_are_sampled(random: np.random.Generator) -> None:
    batch, calibration = random.normal(size=5 * SCORES_PER_BATCH), random.normal(size=100)
    results = [detect_drift(batch, calibration, seed=seed) for seed in (1, 1, 2)]
    assert results[0] == results[1]
    assert the(results[0], "martingale").p_value != the(results[2], "martingale").p_value
    assert the(results[0], "scores").p_value == the(results[2], "scores").p_value
    huge = math.log(1e300)
    one_sided = the(detect_drift(np.full(10_000, 5.0), np.zeros(20_000)), "martingale")
    assert 0 < -math.log(one_sided.p_value) < huge, "256 bets, not 10,000"


def test_large_sizes_are_fast_and_give_no_warning(random: np.random.Generator) -> None:
    for m, n in [(1, 1), (1, 20_000), (20_000, 3), (9_999, 10_000), (10_001, 9_973)]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = detect_drift(random.normal(size=m), random.normal(size=n))
        assert 0 <= the(result, "scores").p_value <= 1


def test_an_empty_batch_has_not_drifted() -> None:
    assert detect_drift([], [1.0], threshold=1.0, earlier=[[2.0]], alpha=0.05) == Drift(False, 0.05, ())
    assert detect_drift([1.0], [1.0], earlier=[[], []]).tests[1].name == "martingale"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"calibration_scores": []}, "at least one calibration score, got none. Score held-out"),
        ({"scores": [math.nan]}, "1 of 1 scores are NaN or infinite"),
        ({"calibration_scores": [[1.0]]}, r"shape \(1, 1\), expected"),
        ({"earlier": [[1.0], [math.inf]]}, "NaN or infinite"),
        ({"threshold": math.nan}, "threshold=nan: expected a finite number, or None"),
        ({"alpha": 0}, "alpha=0: expected a probability between 0 and 1"),
        ({"alpha": 1}, "alpha=1: expected"),
        ({"statistics": {"a": [math.inf]}, "reference": {"a": [1]}}, r"statistics\['a'\] has 1 infinite values"),
        ({"statistics": {"a": [1]}, "reference": {"a": 1}}, r"reference\['a'\] has shape \(\), expected one number"),
        ({"statistics": {"scores": [1]}, "reference": {"scores": [1]}}, r"statistics named \['scores'\].*Rename"),
    ],
)
def test_bad_arguments_of_drift_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detect_drift(**{"scores": [1.0], "calibration_scores": [1.0], **arguments})
