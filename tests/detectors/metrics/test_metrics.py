from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from nelbo.detectors import auroc, average_precision, binomial_interval, evaluate, f1, f1_all_anomalous, recall_at_fpr
from nelbo.detectors.interval import share_interval


def two_kinds(rows: list[tuple[int, Any]]) -> bool:
    return len({label for label, _ in rows}) == 2


def labelled(random: np.random.Generator, n_normal: int, n_anomalous: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat([0, 1], [n_normal, n_anomalous])
    return labels, random.normal(size=len(labels)) + labels


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=2, max_size=30).filter(two_kinds),
    st.sampled_from([0.0, 0.1, 0.29, 1 / 3, 0.5, 1.0]),
)
def test_recall_at_fpr_is_the_best_over_all_thresholds(rows: list[tuple[int, int]], fpr: float) -> None:
    labels, scores = np.array(rows).T
    possible = []
    for threshold in [-1, *np.unique(scores)]:
        above = scores > threshold
        if above[labels == 0].mean() <= fpr:
            possible.append(above[labels == 1].mean())
    assert recall_at_fpr(labels, scores, fpr, n_resamples=1).value == pytest.approx(max(possible))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-6, 6)), min_size=2, max_size=30).filter(two_kinds))
def test_metrics_equal_scikit_learns_and_depend_only_on_the_order(rows: list[tuple[int, int]]) -> None:
    labels, scores = np.array(rows).T
    assert auroc(labels, np.exp(scores)) == auroc(labels, scores)
    assert average_precision(labels, scores, 1).value == pytest.approx(average_precision_score(labels, scores))
    for metric in (average_precision, partial(recall_at_fpr, fpr=0.2)):
        assert metric(labels, np.exp(scores), n_resamples=5) == metric(labels, scores, n_resamples=5)


def test_the_bootstrap_redraws_the_images(random: np.random.Generator) -> None:
    """Compared with scikit-learn on the drawn images themselves."""
    labels, scores = labelled(random, 30, 20)
    scores = scores.round(1)
    draws = np.random.default_rng(7)
    groups = [np.flatnonzero(labels == kind) for kind in (0, 1)]
    samples = []
    for _ in range(50):
        drawn = np.concatenate([draws.choice(group, len(group)) for group in groups])
        samples.append(average_precision_score(labels[drawn], scores[drawn]))
    # The interval is that of a share of `n` images that varies as much; `n` is at most the 20 anomalous images.
    area = average_precision_score(labels, scores)
    near = (20 * area + 0.5) / 21
    n = min(20, near * (1 - near) / np.var(samples))
    assert average_precision(labels, scores, n_resamples=50, seed=7) == pytest.approx(share_interval(area, n))


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans()), min_size=2, max_size=30).filter(two_kinds))
def test_f1_equals_scikit_learns(rows: list[tuple[int, bool]]) -> None:
    labels, flagged = zip(*rows, strict=True)
    found = f1(labels, flagged, n_draws=100)
    assert found.value == pytest.approx(f1_score(labels, flagged, zero_division=0))
    assert f1_all_anomalous(labels) == pytest.approx(f1_score(labels, [1] * len(labels)))
    assert 0 <= found.low <= found.high <= 1
    assert found == f1(labels, flagged, n_draws=100)


def test_f1_without_false_alarms_is_as_certain_as_recall() -> None:
    """If false alarms are negligible, only recall is uncertain, within Clopper and Pearson's interval."""
    labels, flagged = np.repeat([0, 1], [100_000, 100]), np.arange(100_100) >= 100_020
    recall = binomial_interval(80, 100)
    found = f1(labels, flagged, n_draws=100_000)
    assert found.value == pytest.approx(2 * 80 / 180)
    # A few of 100,000 normal images may still be false alarms, which the lower end allows for.
    assert 2 * recall.low / (recall.low + 1.04) < found.low < 2 * recall.low / (recall.low + 1) + 0.001
    assert found.high == pytest.approx(2 * recall.high / (recall.high + 1), abs=0.002)


@pytest.mark.parametrize(("recall", "rate"), [(0.5, 0.05), (0.95, 0.05), (0.99, 0.01), (0.05, 0.05)])
def test_the_interval_of_f1_covers_the_truth_as_often_as_stated(recall: float, rate: float) -> None:
    random, labels, covered = np.random.default_rng(3), np.repeat([0, 1], 20), []
    truth = 2 * recall / (recall + rate + 1)
    for _ in range(300):
        found = f1(labels, random.random(40) < np.where(labels, recall, rate), n_draws=500)
        covered.append(found.low <= truth <= found.high)
        assert found.high - found.low > 0.05
    assert np.mean(covered) > 0.94


def test_the_interval_of_average_precision_covers_the_truth_if_few_images_look_perfect() -> None:
    random, labels = np.random.default_rng(5), np.repeat([0, 1], 10)
    # The truth for equal numbers from N(2.66, 1) and N(0, 1), by integration.
    truth, shift, covered = 0.9706, 2.66, []
    for _ in range(200):
        found = average_precision(labels, random.normal(size=20) + shift * labels, n_resamples=50)
        covered.append(found.low <= truth <= found.high)
        assert found.high - found.low > 0.1
    assert np.mean(covered) > 0.92


def test_the_interval_of_recall_at_fpr_covers_the_truth_about_as_often_as_stated() -> None:
    random, truth = np.random.default_rng(4), 0.3891  # P(N(1, 1) > the 90 % quantile of N(0, 1))
    intervals = [recall_at_fpr(*labelled(random, 200, 100), fpr=0.1, n_resamples=200) for _ in range(100)]
    assert np.mean([low <= truth <= high for _, low, high in intervals]) > 0.87


def test_an_evaluation_counts_verdicts_and_has_intervals() -> None:
    words = ["normal", "review", "normal", "anomalous", "anomalous", "normal"]
    result = evaluate([0, 0, 0, 0, 1, 1], [1, 2, 3, 9, 8, 2], words, fpr=0.25)
    assert (result.n_normal, result.n_anomalous, result.false_alarms, result.detected) == (4, 2, 1, 1)
    assert result.confusion == ((2, 1, 1), (1, 0, 1))
    # Clopper and Pearson's intervals of 1 of 4, and of 1 of 2.
    assert result.realised_fpr == pytest.approx((0.25, 0.0063, 0.8059), abs=1e-4)
    assert result.recall == pytest.approx((0.5, 0.0126, 0.9874), abs=1e-4)
    assert result.f1 is not None
    assert (result.f1.value, result.f1_all_anomalous) == (0.5, 0.5)
    # One false alarm is allowed, the score 9; the threshold lies between 8 and 3.
    assert result.recall_at_fpr is not None
    assert result.recall_at_fpr.value == 0.5


def test_an_evaluation_without_verdicts_counts_none() -> None:
    result = evaluate([0, 0, 1], [1, 2, 3])
    assert (result.false_alarms, result.detected, result.confusion) == (None, None, None)
    assert (result.realised_fpr, result.recall, result.f1, result.recall_at_fpr) == (None, None, None, None)
    assert result.auroc is not None
    assert result.f1_all_anomalous == pytest.approx(0.5)


def test_an_evaluation_of_one_kind_has_no_measures_of_both() -> None:
    normal = evaluate([0, 0], [1, 2], ["normal", "anomalous"], fpr=0.1)
    anomalous = evaluate([1], [1], ["anomalous"], fpr=0.1)
    for result in (normal, anomalous):
        both = result.auroc, result.average_precision, result.f1, result.f1_all_anomalous, result.recall_at_fpr
        assert both == (None,) * 5
    assert (normal.realised_fpr is None, normal.recall is None) == (False, True)
    assert (anomalous.realised_fpr is None, anomalous.recall is None) == (True, False)
    assert evaluate([], [], []).confusion == ((0, 0, 0), (0, 0, 0))


@pytest.mark.parametrize("unknown", ["not_scored", True, None])
def test_unknown_verdicts_are_refused(unknown: object) -> None:
    with pytest.raises(ValueError, match=f"got verdicts {unknown!r}, expected the words normal, review, anomalous"):
        evaluate([0, 1], [1, 2], ["normal", unknown])


def test_arrays_of_different_lengths_are_refused() -> None:
    for metric in (auroc, average_precision, evaluate, partial(recall_at_fpr, fpr=0.1)):
        with pytest.raises(ValueError, match=r"labels of shape \(3,\) and scores of shape \(2,\)"):
            metric([0, 1, 1], [1, 2])
    with pytest.raises(ValueError, match=r"labels of shape \(2,\)"):
        f1([0, 1], [True])
    with pytest.raises(ValueError, match=r"verdicts of shape \(1,\) for 2 scores"):
        evaluate([0, 1], [1, 2], ["normal"])


def test_bad_arguments_are_refused() -> None:
    for fpr in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="expected a rate from 0 to 1"):
            recall_at_fpr([0, 1], [1, 2], fpr)
    for metric in (auroc, average_precision, partial(recall_at_fpr, fpr=0.1), f1):
        with pytest.raises(ValueError, match="expected both kinds"):
            metric([1, 1], [0, 1])
    for flags in (["normal", "anomalous"], [0, 2]):
        with pytest.raises(ValueError, match="expected booleans"):
            f1([0, 1], flags)
    assert f1_all_anomalous([0, 0]) == 0
    with pytest.raises(ValueError, match="no labels"):
        f1_all_anomalous([])
    with pytest.raises(ValueError, match="n_resamples of at least 1"):
        average_precision([0, 1], [1, 2], n_resamples=0)
