"""Checks of the arguments that callers give."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def check_labels(labels: ArrayLike) -> NDArray[np.int64]:
    """Labels as an array of 0 and 1, or a ValueError."""
    truth = np.asarray(labels)
    if not np.isin(truth, (0, 1)).all():
        raise ValueError(f"labels {sorted(set(truth.tolist()) - {0, 1})[:5]}: expected 0 (normal) or 1 (anomalous)")
    return truth.astype(np.int64)


def check_scores(scores: ArrayLike) -> NDArray[np.float64]:
    """Scores as a float64 array (n,), or a ValueError."""
    values = np.asarray(scores, np.float64)
    if values.ndim != 1:
        raise ValueError(f"scores have shape {values.shape}, expected (n,)")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {len(values)} scores are NaN or infinite")
    return values


def check_pairs(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels and scores as arrays of one length, or a ValueError."""
    truth, values = check_labels(labels), check_scores(scores)
    if truth.shape != values.shape:
        raise ValueError(
            f"got labels of shape {truth.shape} and scores of shape {values.shape}, expected one label for each score"
        )
    return truth, values


def check_both_kinds(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels and scores as arrays of one length with normal and anomalous images, or a ValueError."""
    truth, values = check_pairs(labels, scores)
    n_normal, n_anomalous = np.bincount(truth, minlength=2)
    if not (n_normal and n_anomalous):
        raise ValueError(
            f"got {n_normal} normal and {n_anomalous} anomalous images, expected both kinds. Label some of the other"
        )
    return truth, values
