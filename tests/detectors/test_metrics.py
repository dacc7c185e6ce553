import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors import auroc, average_precision, evaluate


def labelled(random: np.random.Generator, n_normal: int, n_anomalous: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat([0, 1], [n_normal, n_anomalous])
    return labels, random.normal(size=len(labels)) + labels


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), min_size=2, max_size=30))
def test_auroc_is_the_share_of_ordered_pairs(rows: list[tuple[int, int]]) -> None:
    normal, anomalous = ([float(s) for kind, s in rows if kind == label] for label in (0, 1))
    labels, scores = zip(*rows, strict=True)
    if not normal or not anomalous:
        with pytest.raises(ValueError, match="expected both kinds"):
            auroc(labels, scores, n_resamples=1)
        return
    pairs = [(a > b) + 0.5 * (a == b) for a in anomalous for b in normal]
    assert auroc(labels, scores, n_resamples=1).value == pytest.approx(np.mean(pairs))


def test_average_precision_by_hand() -> None:
    # From the top: hit 1/1, miss, hit 2/3.
    assert average_precision([1, 0, 1], [3, 2, 1], n_resamples=1).value == pytest.approx((1 + 2 / 3) / 2)


def test_intervals_hold_their_value_and_repeat(random: np.random.Generator) -> None:
    labels, scores = labelled(random, 80, 60)
    for metric in (auroc, average_precision):
        interval = metric(labels, scores)
        assert interval.low < interval.value < interval.high
        assert interval == metric(labels, scores)
        assert interval != metric(labels, scores, seed=1)


def test_interval_covers_the_truth_about_as_often_as_it_says(random: np.random.Generator) -> None:
    truth = 0.7602499  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    covered = [
        interval.low <= truth <= interval.high
        for interval in (auroc(*labelled(random, 60, 60), n_resamples=200) for _ in range(100))
    ]
    assert np.mean(covered) > 0.87


def test_evaluation_counts() -> None:
    result = evaluate([0, 0, 0, 0, 1, 1], [1, 2, 3, 9, 8, 2], [False, False, False, True, True, False])
    assert (result.n_normal, result.n_anomalous, result.false_alarms, result.detected) == (4, 2, 1, 1)
    assert result.realised_fpr is not None
    # Clopper and Pearson: 1 of 4.
    assert tuple(result.realised_fpr) == pytest.approx((0.25, 0.0063, 0.8059), abs=1e-4)


def test_evaluation_without_verdicts_counts_none() -> None:
    result = evaluate([0, 0, 1], [1, 2, 3], None)
    assert (result.false_alarms, result.detected, result.realised_fpr) == (None, None, None)
    assert result.auroc is not None


def test_evaluation_of_one_kind() -> None:
    normal, anomalous = evaluate([0, 0], [1, 2], [False, True]), evaluate([1], [1], [True])
    assert normal.auroc is None
    assert normal.realised_fpr is not None
    assert anomalous.realised_fpr is None
