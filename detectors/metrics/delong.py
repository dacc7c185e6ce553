"""Area under the ROC curve without resampling: its interval, and a paired test between two models."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from nelbo.detectors.checks import check_both_kinds
from nelbo.detectors.interval import WIDTH, Interval


class PairedTest(NamedTuple):
    """Two models, or two calibrations, on the same images.

    a, b: AUROC, or a share, of each, with its interval.
    difference: that of a minus that of b, with its interval.
    p_value: two-sided, of no difference.
    """

    a: Interval
    b: Interval
    difference: Interval
    p_value: float


class _Components(NamedTuple):
    """Shares of pairs in the right order, a tie counting half: their mean is the AUROC.

    normal: (n_normal,) of anomalous images that each normal one lies below.
    anomalous: (n_anomalous,) of normal images that each anomalous one lies above.
    """

    normal: NDArray[np.float64]
    anomalous: NDArray[np.float64]

    def mean(self) -> float:
        return float(self.anomalous.mean())

    def variance(self) -> float:
        """Of the mean."""
        return float(sum(shares.var(ddof=1) / len(shares) for shares in self))

    def minus(self, other: "_Components") -> "_Components":
        return _Components(self.normal - other.normal, self.anomalous - other.anomalous)


def delong_interval(labels: ArrayLike, scores: ArrayLike) -> Interval:
    """Area under the ROC curve, with DeLong's 95 % interval.

    The interval is symmetric on the logit scale, so that it stays in [0, 1]; where the variance comes out as 0, as
    for perfectly separated kinds, it is the value alone. In time n log n, by midranks.

    Args:
        labels: (n,) 0 normal, 1 anomalous; at least two images of each kind.
        scores: (n,) higher = more anomalous.

    Raises:
        ValueError: fewer images of a kind, lengths that differ, other labels, a score that is not finite.

    Source: DeLong, DeLong and Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver
    operating characteristic curves", equations 5 and 6; Sun and Xu 2014, "Fast implementation of DeLong's
    algorithm"; Pepe 2003, "The statistical evaluation of medical tests", section 5.2.5, for the logit.

    >>> print(delong_interval([0, 0, 1, 1], [1, 3, 2, 4]))
    0.750 [0.069, 0.992]
    """
    truth, values = check_both_kinds(labels, scores)
    return _interval(_components(truth, values))


def delong_test(labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike) -> PairedTest:
    """Whether two models differ in their AUROC on the same images.

    Args:
        labels: (n,) 0 normal, 1 anomalous; at least two images of each kind.
        scores_a: (n,) of one model, higher = more anomalous.
        scores_b: (n,) of the other, on the same images in the same order; the unit may differ.

    Returns:
        Intervals as in :func:`delong_interval`; the one of the difference is the normal one, cut off at -1 and 1.
        Where the variance of the difference comes out as 0, it is the value alone, and p is 1 or 0.

    Raises:
        ValueError: as :func:`delong_interval`.

    Source: DeLong, DeLong and Clarke-Pearson 1988, equation 7.

    >>> round(delong_test([0, 0, 0, 1, 1, 1], [1, 2, 5, 4, 6, 7], [1, 4, 5, 2, 3, 6]).p_value, 3)
    0.221
    """
    truth, values_a = check_both_kinds(labels, scores_a)
    _, values_b = check_both_kinds(labels, scores_b)
    a, b = _components(truth, values_a), _components(truth, values_b)
    # The variance of differences rather than the difference of variances: exactly 0 for equal rankings.
    paired = a.minus(b)
    value, error = paired.mean(), paired.variance() ** 0.5
    difference = Interval(value, max(-1.0, value - WIDTH * error), min(1.0, value + WIDTH * error))
    p_value = 2 * norm.sf(abs(value) / error) if error else float(value == 0)
    return PairedTest(_interval(a), _interval(b), difference, float(p_value))


def _components(truth: NDArray[np.int64], values: NDArray[np.float64]) -> _Components:
    normal, anomalous = truth == 0, truth == 1
    n_normal, n_anomalous = int(normal.sum()), int(anomalous.sum())
    if min(n_normal, n_anomalous) < 2:
        raise ValueError(
            f"got {n_normal} normal and {n_anomalous} anomalous images, expected at least 2 of each kind: one alone "
            "has no variance. Add labelled images, or take auroc"
        )
    ranks = rankdata(values)
    return _Components(
        (n_anomalous - (ranks[normal] - rankdata(values[normal]))) / n_anomalous,
        (ranks[anomalous] - rankdata(values[anomalous])) / n_normal,
    )


def _interval(components: _Components) -> Interval:
    area, variance = components.mean(), components.variance()
    if variance == 0 or not 0 < area < 1:
        return Interval(area, area, area)
    half = WIDTH * variance**0.5 / (area * (1 - area))
    return Interval(area, float(expit(logit(area) - half)), float(expit(logit(area) + half)))
