"""Thresholds from scores of held-out images. Scores have the anomalous side up; ``score > threshold`` flags."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import precision_recall_curve, roc_curve

from detectors.checks import check_labels, check_scores
from detectors.errors import CalibrationError

OBJECTIVES = ("f1", "youden")

#: Rarer false alarms would need more calibration images than anyone has.
MIN_FPR = 1e-9


@dataclass(frozen=True)
class Threshold:
    """What calibration made of held-out scores.

    value: scores strictly above it are anomalous.
    fpr: promised false-positive rate on fresh normal images; None where labels chose the threshold.
    objective: "conformal", "f1" or "youden".
    n_calibration: normal images behind it.
    """

    value: float
    fpr: float | None
    objective: str
    n_calibration: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def n_needed(fpr: float) -> int:
    """Smallest number of calibration images that can promise `fpr`: ceil(1 / fpr) - 1.

    >>> n_needed(0.05), n_needed(0.01)
    (19, 99)
    """
    _check_fpr(fpr)
    n = max(1, math.ceil(1 / fpr) - 1)
    # Division rounds: hold on to the comparison that p-values are judged by.
    while 1 / (n + 1) > fpr:
        n += 1
    while n > 1 and 1 / n <= fpr:
        n -= 1
    return n


def conformal_threshold(scores: ArrayLike, fpr: float) -> float:
    """The order statistic of calibration scores that a fresh normal image exceeds with probability <= fpr.

    With n scores it is the k-th smallest, k = ceil((n + 1)(1 - fpr)). The promise needs only that calibration
    and fresh normal images are exchangeable, and holds on average over calibration sets.

    Args:
        scores: (n,) of normal images that the model did not train on; higher = more anomalous.
        fpr: promised false-positive rate, in (0, 1).

    Raises:
        CalibrationError: n is too small for `fpr`.
        ValueError: fpr outside (0, 1), or a score that is NaN or infinite.

    Source: Vovk, Gammerman and Shafer 2005, "Algorithmic Learning in a Random World", section 2.2; Laxhammar
    and Falkman 2010 for anomaly detection.

    >>> conformal_threshold(range(1, 100), 0.05)
    95.0
    """
    _check_fpr(fpr)
    ordered = np.sort(check_scores(scores))
    n = len(ordered)
    check_size(n, fpr)
    # The largest j with j / (n + 1) <= fpr, in the arithmetic that p-values are compared with fpr in.
    n_above = math.floor(fpr * (n + 1))
    while n_above > 0 and n_above / (n + 1) > fpr:
        n_above -= 1
    while (n_above + 1) / (n + 1) <= fpr:
        n_above += 1
    return float(ordered[n - n_above])


def check_size(n: int, fpr: float) -> None:
    """Refuse a calibration set of n images that cannot promise `fpr`.

    Raises:
        CalibrationError: how many are needed, and what n could promise.

    >>> check_size(19, 0.05)
    """
    if n < n_needed(fpr):
        least = math.ceil(10_000 / (n + 1)) / 10_000
        lower = f", or ask for fpr >= {least:.4g}" if n else ""
        raise CalibrationError(
            f"fpr={fpr} needs at least {n_needed(fpr)} calibration images, got {n}. Add normal images{lower}."
        )


def labelled_threshold(labels: ArrayLike, scores: ArrayLike, objective: str) -> float:
    """The threshold that maximises an objective on labelled images.

    It lies halfway between two neighbouring scores, so that ``score > threshold`` picks exactly the images that
    the maximum was found for, ties included.

    Args:
        labels: (n,) 0 normal, 1 anomalous.
        scores: (n,) higher = more anomalous.
        objective: "f1", or "youden" (true-positive rate minus false-positive rate).

    Raises:
        CalibrationError: one of the two kinds is missing.
        ValueError: unknown objective, other labels, a score that is not finite.

    Source: Youden 1950, "Index for rating diagnostic tests".

    >>> labelled_threshold([0, 0, 1, 1], [1.0, 2.0, 4.0, 5.0], "f1")
    3.0
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective={objective!r}: expected one of {', '.join(OBJECTIVES)}")
    truth, values = check_labels(labels), check_scores(scores)
    if truth.min(initial=1) == truth.max(initial=0):
        raise CalibrationError(
            f"objective={objective} needs normal and anomalous images, got {int((truth == 0).sum())} and "
            f"{int((truth == 1).sum())}. Add labels 0 and 1, or calibrate on normals with fpr."
        )
    if objective == "f1":
        precision, recall, candidates = precision_recall_curve(truth, values)
        with np.errstate(invalid="ignore"):
            f1 = np.nan_to_num(2 * precision * recall / (precision + recall))
        lowest_flagged = candidates[np.argmax(f1[:-1])]
    else:
        false_rate, true_rate, candidates = roc_curve(truth, values)
        # The first candidate is infinity, "flag nothing", which is no score.
        lowest_flagged = candidates[1:][np.argmax((true_rate - false_rate)[1:])]
    below = values[values < lowest_flagged]
    if not len(below):
        return float(np.nextafter(lowest_flagged, -np.inf))
    halfway = below.max() / 2 + lowest_flagged / 2
    # Between two neighbouring floats there is nothing: the lower one then keeps the strict rule.
    return float(halfway if below.max() < halfway < lowest_flagged else below.max())


def _check_fpr(fpr: float) -> None:
    if not MIN_FPR <= fpr < 1:
        raise ValueError(f"fpr={fpr}: expected a rate between {MIN_FPR:g} and 1, for example 0.05")
