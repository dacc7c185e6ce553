"""Thresholds for people who have labels: what is best on labelled images, by an objective of their choice."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nelbo.detectors.checks import check_pairs
from nelbo.detectors.errors import CalibrationError

#: Objective -> what its target is, and the range that the target lies in; None for those that take none.
OBJECTIVES: dict[str, tuple[str, float, float] | None] = {
    "f1": None,
    "f_beta": ("weight of recall against precision", 0.0, 100.0),
    "youden": None,
    "cost": None,
    "recall": ("largest false-alarm rate", 0.0, 1.0),
    "fpr": ("least recall", 0.0, 1.0),
    "precision": ("least precision", 0.0, 1.0),
}

#: A false alarm costs as much as a miss; rows are the truth, columns the verdict, normal first.
EQUAL_COSTS = ((0.0, 1.0), (1.0, 0.0))

Array = NDArray[np.float64]


class Counts(NamedTuple):
    """Confusion counts of k ways to judge the same labelled images; each (k,)."""

    tn: Array
    fp: Array
    fn: Array
    tp: Array


def labelled_threshold(
    labels: ArrayLike,
    scores: ArrayLike,
    objective: str,
    target: float | None = None,
    costs: Sequence[Sequence[float]] = EQUAL_COSTS,
) -> float:
    """The threshold that is best on labelled images; of several equally good ones the one that flags fewest.

    It lies halfway between two neighbouring scores, so that ``score > threshold`` picks exactly the images that
    the best was found for, ties included. "Flag nothing" is a candidate, unless the objective is a precision.

    Args:
        labels: (n,) 0 normal, 1 anomalous; both must occur.
        scores: (n,) higher = more anomalous.
        objective: what is best:

            * ``f1``, or ``f_beta`` with recall `target` times as important as precision (van Rijsbergen 1979);
            * ``youden``: recall minus false-alarm rate (Youden 1950);
            * ``cost``: the least cost over these images by `costs`; it depends on their share of anomalies;
            * ``recall``: the largest recall at a false-alarm rate of at most `target`;
            * ``fpr``: the least false-alarm rate at a recall of at least `target`;
            * ``precision``: the largest recall at a precision of at least `target`.
        target: see `objective`; None for the objectives that have none.
        costs: ((normal as normal, normal as anomalous), (anomalous as normal, anomalous as anomalous)).

    Raises:
        CalibrationError: one of the two kinds is missing, or no threshold reaches the target.
        ValueError: an unknown objective, a target that is missing or out of range, other labels, a score that is not
            finite.

    >>> labelled_threshold([0, 0, 1, 1], [1.0, 2.0, 4.0, 5.0], "f1")
    3.0
    >>> labelled_threshold([0, 1, 0, 1], [1.0, 2.0, 4.0, 5.0], "fpr", target=1.0)
    1.5
    """
    check_objective(objective, target)
    truth, values = check_pairs(labels, scores)
    if truth.min(initial=1) == 1 or truth.max(initial=0) == 0:
        raise CalibrationError(
            f"objective={objective} needs normal and anomalous images, got {int((truth == 0).sum())} and "
            f"{int((truth == 1).sum())}. Add labels 0 and 1, or calibrate on normals with fpr."
        )
    # It takes a second to load, for which thresholds from normal images need not wait.
    from sklearn.metrics import confusion_matrix_at_thresholds

    tn, fp, fn, tp, candidates = confusion_matrix_at_thresholds(truth, values)
    # As floats, and with "flag nothing" in front.
    counts = Counts(
        *(
            np.concatenate([[first], counted])
            for first, counted in (((truth == 0).sum(), tn), (0, fp), ((truth == 1).sum(), fn), (0, tp))
        )
    )
    missed, value = attained(objective, target, costs, counts)
    if missed.min() > 0:
        # Only a precision can be out of reach: flagging nothing, or everything, reaches the other targets.
        raise CalibrationError(
            f"no threshold reaches a precision of {target:g} on these images: the best is "
            f"{_given(target) - missed.min():.3g}. Ask for less, or add labelled images."
        )
    worth = np.where(missed > 0, -np.inf, value)
    # Equally good thresholds may differ by a rounding error.
    best = int(np.argmax(worth >= worth.max() - 1e-12 * max(1.0, abs(worth.max()))))
    if best == 0:
        return float(values.max())
    return _below(float(candidates[best - 1]), values)


def check_objective(objective: str, target: float | None) -> None:
    """Refuse an unknown objective, and a target that does not fit it.

    Args:
        objective: one of `OBJECTIVES`.
        target: the objective's target, for those that have one.

    Raises:
        ValueError: the objective is unknown, or the target does not fit it.

    >>> check_objective("f1", None)
    >>> try:
    ...     check_objective("f1", 0.5)
    ... except ValueError as error:
    ...     print(error)
    target=0.5: objective f1 takes none. Leave it out
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective={objective!r}: expected one of {', '.join(OBJECTIVES)}")
    expected = OBJECTIVES[objective]
    if expected is None:
        if target is not None:
            raise ValueError(f"target={target}: objective {objective} takes none. Leave it out")
        return
    meaning, low, high = expected
    if target is None or not low <= target <= high or (objective == "f_beta" and target == 0):
        raise ValueError(
            f"target={target}: objective {objective} expects its {meaning}, a number from {low:g} to {high:g}"
        )


def _cost_matrix(costs: Sequence[Sequence[float]]) -> Array:
    matrix = np.asarray(costs, np.float64)
    if matrix.shape != (2, 2) or not np.isfinite(matrix).all():
        raise ValueError(
            f"costs={costs}: expected two rows (normal, anomalous) of two finite costs (called normal, called "
            "anomalous), for example [[0, 1], [10, 0]]"
        )
    if (matrix[0, 1] <= matrix[0, 0]) or (matrix[1, 0] <= matrix[1, 1]):
        raise ValueError(f"costs={costs}: a wrong verdict must cost more than the right one on the same image")
    return matrix


def attained(
    objective: str, target: float | None, costs: Sequence[Sequence[float]], counts: Counts
) -> tuple[Array, Array]:
    """How well verdicts do by an objective: the lower the first result, then the higher the second, the better.

    Args:
        objective, target, costs: as in `labelled_threshold`, checked before.
        counts: of each of k ways to judge the same images; both kinds occur.

    Returns:
        (k,) by how much the target is missed, 0 where it is reached; flagging nothing misses a precision by more than
        any precision does; and (k,) what is maximised.

    >>> counts = Counts(*np.array([[8.0, 10], [2, 0], [1, 4], [9, 6]]))
    >>> [values.tolist() for values in attained("recall", 0.1, EQUAL_COSTS, counts)]
    [[0.1, 0.0], [0.9, 0.6]]
    """
    tn, fp, fn, tp = counts
    flagged = tp + fp
    recall, false_rate = tp / (tp + fn), fp / (tn + fp)
    reached = np.zeros(len(tp))
    if objective in ("f1", "f_beta"):
        squared = 1.0 if objective == "f1" else _given(target) ** 2
        return reached, (1 + squared) * tp / ((1 + squared) * tp + squared * fn + fp)
    if objective == "youden":
        return reached, recall - false_rate
    if objective == "cost":
        matrix = _cost_matrix(costs)
        return reached, -(matrix[0, 0] * tn + matrix[0, 1] * fp + matrix[1, 0] * fn + matrix[1, 1] * tp)
    if objective == "recall":
        return np.maximum(false_rate - _given(target), 0), recall
    if objective == "fpr":
        return np.maximum(_given(target) - recall, 0), -false_rate
    precision = np.divide(tp, flagged, out=np.full(len(tp), -1.0), where=flagged > 0)
    return np.maximum(_given(target) - precision, 0), recall


def _given(target: float | None) -> float:
    return np.nan if target is None else target


def _below(lowest_flagged: float, values: Array) -> float:
    """A threshold below `lowest_flagged`, but not below the next lower score."""
    below = values[values < lowest_flagged]
    if not len(below):
        return float(np.nextafter(lowest_flagged, -np.inf))
    next_lower = float(below.max())
    halfway = next_lower / 2 + lowest_flagged / 2
    # Between two neighbouring floats there is nothing: the lower one then keeps the strict rule.
    return halfway if next_lower < halfway < lowest_flagged else next_lower
