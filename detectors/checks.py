"""Checks of what callers give."""

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
