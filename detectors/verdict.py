"""From scores to p-values, q-values and verdicts. Scores have the anomalous side up."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control

from detectors.checks import check_scores


def p_values(scores: ArrayLike, calibration_scores: ArrayLike) -> NDArray[np.float64]:
    """How extreme each score is among held-out normal ones.

        (1 + #{calibration score >= score}) / (n_calibration + 1)

    Args:
        scores: (m,).
        calibration_scores: (n,) of normal images, n >= 1.

    Returns:
        (m,) in (0, 1]; P(p <= a) <= a for a fresh normal image.

    >>> p_values([5.0, 0.0], [1.0, 2.0, 3.0]).tolist()
    [0.25, 1.0]
    """
    ordered = np.sort(check_scores(calibration_scores))
    if not len(ordered):
        raise ValueError("p-values need at least one calibration score, got none")
    at_least = len(ordered) - np.searchsorted(ordered, check_scores(scores), side="left")
    return (1 + at_least) / (len(ordered) + 1)


def q_values(p_values: ArrayLike) -> NDArray[np.float64]:
    """Benjamini-Hochberg adjusted p-values over one batch.

    Flagging the images with q <= a keeps the expected share of false alarms among the flagged at a or below.

    Source: Benjamini and Hochberg 1995, "Controlling the false discovery rate", by SciPy.

    >>> q_values([0.01, 0.02, 0.9]).round(3).tolist()
    [0.03, 0.03, 0.9]
    """
    values = np.asarray(p_values, np.float64)
    return false_discovery_control(values) if len(values) else values


def verdicts(scores: ArrayLike, threshold: float) -> NDArray[np.str_]:
    """ "anomalous" where the score is strictly above the threshold, else "normal".

    >>> verdicts([1.0, 2.0, 3.0], 2.0).tolist()
    ['normal', 'normal', 'anomalous']
    """
    if not np.isfinite(threshold):
        raise ValueError(f"threshold={threshold}: expected a finite number")
    return np.where(check_scores(scores) > threshold, "anomalous", "normal")
