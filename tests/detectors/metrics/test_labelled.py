import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import fbeta_score, precision_score, recall_score

from nelbo.detectors import CalibrationError, Threshold, labelled_threshold, verdicts
from nelbo.detectors.metrics.labelled import OBJECTIVES

COSTS = ((0.0, 1.0), (7.0, 0.5))
TARGETS = {"f_beta": 2.0, "recall": 0.25, "fpr": 0.6, "precision": 0.5}


def worth(labels: np.ndarray, flagged: np.ndarray, objective: str) -> float:
    """The objective by its definition, from scikit-learn or by counting; minus infinity where the target is missed."""
    recall = float(recall_score(labels, flagged))
    false_rate = float(flagged[labels == 0].mean())
    target = TARGETS.get(objective, math.nan)
    if objective in ("f1", "f_beta"):
        return float(fbeta_score(labels, flagged, beta=1 if objective == "f1" else target, zero_division=0))
    if objective == "youden":
        return recall - false_rate
    if objective == "cost":
        return -sum(COSTS[truth][int(called)] for truth, called in zip(labels, flagged, strict=True))
    if objective == "recall":
        return recall if false_rate <= target else -math.inf
    if objective == "fpr":
        return -false_rate if recall >= target else -math.inf
    return recall if flagged.any() and precision_score(labels, flagged) >= target else -math.inf


@given(st.data(), st.sampled_from(list(OBJECTIVES)))
def test_the_labelled_threshold_is_the_best_possible(data: st.DataObject, objective: str) -> None:
    n = data.draw(st.integers(2, 25))
    labels = np.array(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    values = np.array(data.draw(st.lists(st.integers(0, 6) | st.floats(-5, 5), min_size=n, max_size=n)), float)

    def find() -> float:
        return labelled_threshold(labels, values, objective, TARGETS.get(objective), COSTS)

    if len(set(labels)) < 2:
        with pytest.raises(CalibrationError, match="needs normal and anomalous"):
            find()
        return
    cuts = [*np.unique(values), np.nextafter(values.min(), -np.inf)]
    best = max(worth(labels, values > cut, objective) for cut in cuts)
    if best == -math.inf:
        with pytest.raises(CalibrationError, match=r"no threshold reaches a precision of 0\.5"):
            find()
        return
    threshold = find()
    assert worth(labels, values > threshold, objective) == pytest.approx(best)
    # Of equally good thresholds it takes the one that flags fewest.
    fewest = min(
        (values > cut).sum() for cut in cuts if worth(labels, values > cut, objective) == pytest.approx(best, rel=1e-12)
    )
    assert (values > threshold).sum() == fewest


def test_labelled_thresholds_of_a_small_example() -> None:
    labels, scores = [0, 0, 1, 0, 1, 1], [1, 2, 3, 4, 5, 6]
    for objective, target, expected in [
        ("f1", None, 2.5),
        ("youden", None, 4.5),
        ("f_beta", 0.5, 4.5),
        ("recall", 0.0, 4.5),
        ("recall", 0.4, 2.5),
        ("fpr", 1.0, 2.5),
        ("fpr", 0.3, 5.5),
        ("precision", 0.7, 2.5),
        ("precision", 1.0, 4.5),
    ]:
        assert labelled_threshold(labels, scores, objective, target) == expected, (objective, target)
    # If misses are cheap, none is worth a false alarm; if they are dear, all down to the lowest anomaly is flagged.
    assert labelled_threshold(labels, scores, "cost", costs=((0, 100), (1, 0))) == 4.5
    assert labelled_threshold([1, 0], [1, 2], "cost", costs=((0, 100), (1, 0))) == 2
    assert labelled_threshold([0, 1, 0], [1, 2, 3], "cost", costs=((0, 1), (100, 0))) == 1.5


def test_a_threshold_separates_neighbouring_floats() -> None:
    low = 1.0
    high = float(np.nextafter(low, 2))
    threshold = labelled_threshold([0, 1], [low, high], "f1")
    assert low <= threshold < high


@pytest.mark.parametrize(
    ("objective", "target", "costs", "says"),
    [
        ("auc", None, COSTS, "objective='auc': expected one of f1"),
        ("f1", 0.5, COSTS, "f1 takes none"),
        ("recall", None, COSTS, "expects its largest false-alarm rate"),
        ("precision", 1.1, COSTS, "from 0 to 1"),
        ("f_beta", 0.0, COSTS, "weight of recall"),
        ("fpr", math.nan, COSTS, "least recall"),
        ("cost", None, ((0, 1), (0, 0)), "must cost more"),
        ("cost", None, ((0, 1, 2), (1, 0, 2)), "two rows"),
        ("cost", None, ((0, math.inf), (1, 0)), "two finite costs"),
    ],
)
def test_bad_arguments_are_refused(
    objective: str, target: float | None, costs: Sequence[Sequence[float]], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        labelled_threshold([0, 1], [1, 2], objective, target, costs)


def test_labels_are_0_and_1_for_each_score() -> None:
    with pytest.raises(ValueError, match="expected 0"):
        labelled_threshold([0, 2], [1, 2], "f1")
    with pytest.raises(ValueError, match=r"labels of shape \(2,\) and scores of shape \(3,\)"):
        labelled_threshold([0, 1], [1, 2, 3], "f1")


def test_the_review_band_reaches_the_requested_recall(random: np.random.Generator) -> None:
    labels = np.repeat([0, 1], [300, 100])
    scores = random.normal(size=400) + 2 * labels
    threshold = Threshold.from_labels(labels, scores, "precision", target=0.95, review_recall=0.99)
    assert threshold.review is not None
    words = verdicts(scores, threshold.value, threshold.review)
    assert (words[labels == 1] != "normal").mean() >= 0.99
    assert labels[words == "anomalous"].mean() >= 0.95
    assert (threshold.fpr, threshold.supported, threshold.n_calibration) == (None, None, 300)


def test_there_is_no_review_band_if_the_threshold_is_as_low() -> None:
    threshold = Threshold.from_labels([0, 0, 1, 1], [1, 2, 3, 4], "f1", review_recall=1.0)
    assert threshold.review is None
