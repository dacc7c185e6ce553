import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from nelbo.detectors import auroc
from nelbo.detectors.metrics.area import area_interval, inflation

rows = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=2, max_size=30).filter(
    lambda drawn: len({label for label, _ in drawn}) == 2
)


def standard_errors(area: float, truth: float, n: int) -> float:
    """The distance of two areas in Hanley and McNeil's standard errors at the second one; n images of each kind."""
    q1, q2 = truth / (2 - truth), 2 * truth**2 / (1 + truth)
    variance = (truth * (1 - truth) + (n - 1) * (q1 - truth**2) + (n - 1) * (q2 - truth**2)) / n**2
    return abs(area - truth) / math.sqrt(variance)


def test_the_ends_lie_1_96_standard_errors_away() -> None:
    for n, area in ((10, 0.9), (50, 0.5), (20, 1.0)):
        found = area_interval(area, 1.0, n, n)
        assert standard_errors(area, found.low, n) == pytest.approx(1.959964)
        assert found.high == 1 if area == 1 else standard_errors(area, found.high, n) == pytest.approx(1.959964)


def test_four_times_the_variance_doubles_the_distance() -> None:
    assert standard_errors(0.75, area_interval(0.75, 4.0, 10, 10).low, 10) == pytest.approx(2 * 1.959964)


def test_the_interval_widens_if_kinds_differ_in_more_than_location() -> None:
    """Half of the anomalies score above all normal images, half below: that varies far more than a single cluster."""
    labels, scores = np.repeat([0, 1], 20), np.r_[np.arange(20), np.arange(10) + 100, np.arange(10) - 100]
    found, alike = auroc(labels, scores), area_interval(0.5, 1.0, 20, 20)
    # DeLong's variance is that of the anomalies' shares, 0 and 1: 1/4 divided by 19.
    assert inflation(0.5, 0.25 / 19, 20, 20) == pytest.approx(0.25 / 19 / (0.25 * (1 + 19 * 2 / 3) / 400))
    assert found == pytest.approx(area_interval(0.5, 0.25 / 19 / (0.25 * (1 + 19 * 2 / 3) / 400), 20, 20))
    assert found.high - found.low > alike.high - alike.low


def test_the_interval_is_that_of_newcombes_example() -> None:
    # Method 5 of his paper (2006) with N* = (7 + 13) / 2: the interval of 84.5 of 91 pairs.
    found = area_interval(84.5 / 91, 1.0, 7, 13)

    def root(truth: float) -> float:
        shared = (1 - truth) / (2 - truth) + truth / (1 + truth)
        return (84.5 / 91 - truth) ** 2 - norm.ppf(0.975) ** 2 * truth * (1 - truth) * (1 + 9 * shared) / 91

    assert abs(root(found.low)) < 1e-9
    assert abs(root(found.high)) < 1e-9


@given(rows)
def test_the_interval_holds_the_value_and_has_a_width(drawn: list[tuple[int, int]]) -> None:
    labels, scores = np.array(drawn).T
    found = auroc(labels, scores)
    assert found.value == pytest.approx(roc_auc_score(labels, scores))
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.05
    mirrored = auroc(labels, -scores)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx(found[1:])


@pytest.mark.parametrize(("n_normal", "n_anomalous"), [(10, 10), (50, 50), (200, 10)])
@pytest.mark.parametrize("area", [0.7, 0.97])
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_the_interval_covers_the_truth_as_often_as_stated(
    n_normal: int, n_anomalous: int, area: float, spread: float
) -> None:
    """The full measurement: python -m benchmarks.coverage."""
    random, labels = np.random.default_rng(1), np.repeat([0, 1], [n_normal, n_anomalous])
    shift = norm.ppf(area) * math.hypot(1, spread)
    covered = []
    for _ in range(600):
        scores = random.normal(size=len(labels)) * np.where(labels, spread, 1) + shift * labels
        _, low, high = auroc(labels, scores)
        covered.append(low <= area <= high)
    # Coverage is 93 to 99 %; 600 draws add three standard errors.
    assert 0.90 < np.mean(covered) <= 1


def test_a_million_scores_are_fast(random: np.random.Generator) -> None:
    labels = random.random(1_000_000) < 0.01
    found = auroc(labels, random.normal(size=1_000_000) + labels)
    assert found.value == pytest.approx(norm.cdf(math.sqrt(0.5)), abs=0.01)
    assert found.high - found.low < 0.015


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="2 normal and 0 anomalous images, expected both kinds"):
        auroc([0, 0], [1, 2])
    with pytest.raises(ValueError, match="1 of 4 scores are NaN"):
        auroc([0, 0, 1, 1], [1, 2, 3, math.nan])
    with pytest.raises(ValueError, match="expected 0"):
        auroc([0, 0, 1, -1], [1, 2, 3, 4])
