"""How many defects were missed, estimated from random samples of images that were not flagged."""

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from nelbo.detectors.interval import Interval

#: What lies outside a 95 % interval, on each side.
_TAIL = 0.025


def missed_defects(n_unflagged: ArrayLike, n_decided: ArrayLike, n_found: ArrayLike) -> Interval:
    """The number of defects among images that were not flagged, from simple random samples of some batches.

    Each defect that is found stands for ``n_unflagged / n_decided`` defects. The interval is that of a weighted sum of
    Poisson counts. These vary more than draws without replacement: the interval is too wide rather than too narrow. It
    is limited to what is possible: at least the defects found, and none among images decided to be normal.

    Args:
        n_unflagged: (b,) images of each batch that were not flagged, 1 or more.
        n_decided: (b,) of these, drawn at random and decided on, 1 or more.
        n_found: (b,) of these, defects.

    Raises:
        ValueError: no batch, or numbers that contradict each other.

    Source: Fay and Feuer 1997, "Confidence intervals for directly standardized rates: a method based on the gamma
    distribution", Statistics in Medicine 16, section 2.

    >>> found = missed_defects([1000, 500], [10, 10], [1, 0])
    >>> found.value, round(found.low, 1), round(found.high, 1)
    (100.0, 2.5, 557.2)
    """
    numbers = [np.atleast_1d(np.asarray(given)) for given in (n_unflagged, n_decided, n_found)]
    unflagged, decided, found = numbers
    if not (unflagged.shape == decided.shape == found.shape) or not unflagged.size:
        raise ValueError(f"got numbers of {[one.size for one in numbers]} batches, expected as many of each, 1 or more")
    if (decided < 1).any() or (decided > unflagged).any() or (found < 0).any() or (found > decided).any():
        raise ValueError("expected 0 <= n_found <= n_decided <= n_unflagged and n_decided >= 1 in each batch")
    value, low, high = missed_limits(unflagged, decided, found)
    return Interval(float(value), float(low), float(high))


def missed_limits(
    n_unflagged: NDArray[np.integer], n_decided: NDArray[np.integer], n_found: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Estimates and their intervals, for many sets of batches at once; see `missed_defects`.

    Args:
        n_found: (..., b).

    Returns:
        Estimate, lower and upper end, each (...).
    """
    # In a batch whose images were all decided on, the number is known.
    weights = np.where(n_decided < n_unflagged, n_unflagged / n_decided, 0.0)
    known = (n_found * (weights == 0)).sum(axis=-1)
    sums, squares = (n_found * weights).sum(axis=-1), (n_found * weights**2).sum(axis=-1)
    low, _ = _gamma_limits(sums, squares)
    _, high = _gamma_limits(sums + weights.max(), squares + weights.max() ** 2)
    found = n_found.sum(axis=-1)
    undecided = int((n_unflagged - n_decided).sum())
    return known + sums, np.clip(known + low, found, found + undecided), np.minimum(known + high, found + undecided)


def _gamma_limits(mean: NDArray[np.float64], variance: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Quantiles of gamma distributions; 0 where both are 0."""
    scale = np.divide(variance, mean, out=np.zeros_like(mean, float), where=mean > 0)
    degrees = 2 * np.divide(mean, scale, out=np.zeros_like(mean, float), where=scale > 0)
    return [np.where(degrees > 0, scale / 2 * scipy.stats.chi2.ppf(tail, degrees), 0.0) for tail in (_TAIL, 1 - _TAIL)]
