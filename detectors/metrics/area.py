"""Area under the ROC curve, with an interval that holds for few images and for kinds that hardly overlap."""

from bisect import bisect_left
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from nelbo.detectors.checks import check_both_kinds
from nelbo.detectors.interval import WIDTH, Interval

#: An end of an interval is found to within this fraction of the area. SciPy's root finder takes longer to load than
#: this search takes for everything that a page shows.
_STEPS = 1 << 40


class Components(NamedTuple):
    """Shares of pairs in the right order, a tie counting half: their mean is the AUROC.

    normal: (n_normal,) share of the anomalous images that each normal one lies below.
    anomalous: (n_anomalous,) share of the normal images that each anomalous one lies above.
    """

    normal: NDArray[np.float64]
    anomalous: NDArray[np.float64]

    @classmethod
    def of(cls, truth: NDArray[np.int64], values: NDArray[np.float64]) -> "Components":
        """The components of labels and scores, in time n log n, by midranks.

        Source: Sun and Xu 2014, "Fast implementation of DeLong's algorithm".
        """
        normal, anomalous = truth == 0, truth == 1
        n_normal, n_anomalous = int(normal.sum()), int(anomalous.sum())
        ranks = scipy.stats.rankdata(values)
        return cls(
            (n_anomalous - (ranks[normal] - scipy.stats.rankdata(values[normal]))) / n_anomalous,
            (ranks[anomalous] - scipy.stats.rankdata(values[anomalous])) / n_normal,
        )

    @property
    def area(self) -> float:
        """The AUROC."""
        return float(self.anomalous.mean())

    @property
    def variance(self) -> float:
        """DeLong's variance of the area; what a kind with a single image would add is unknown, and left out."""
        return float(sum(shares.var(ddof=1) / len(shares) for shares in self if len(shares) > 1))

    @property
    def interval(self) -> Interval:
        """See `auroc`."""
        sizes = len(self.normal), len(self.anomalous)
        return area_interval(self.area, max(1.0, inflation(self.area, self.variance, *sizes)), *sizes)

    def minus(self, other: "Components") -> "Components":
        """The components of the difference between two models on the same images."""
        return Components(self.normal - other.normal, self.anomalous - other.anomalous)


def auroc(labels: ArrayLike, scores: ArrayLike) -> Interval:
    """Area under the ROC curve, with Newcombe's interval (`area_interval`), wider where DeLong's variance is larger.

    Newcombe's interval assumes that the scores of the two kinds differ in location only. With enough images, DeLong's
    variance shows any other difference, for example where some defects are obvious and others are not found at all.
    docs/how-to/evaluating.md shows how often the combined interval covers the truth.

    Args:
        labels: (n,) 0 normal, 1 anomalous; both must occur.
        scores: (n,) higher = more anomalous.

    Raises:
        ValueError: a kind is missing, lengths differ, other labels, a score that is not finite.

    Source: Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve": the share of pairs in the
    right order, a tie counting half.

    >>> print(auroc([0, 0, 1, 1], [1, 3, 2, 4]), auroc([0, 0, 1, 1], [1, 2, 3, 4]))
    0.750 [0.178, 0.975] 1.000 [0.386, 1.000]
    """
    return Components.of(*check_both_kinds(labels, scores)).interval


def area_interval(area: float, inflation: float, n_normal: int, n_anomalous: int) -> Interval:
    """An AUROC with the interval of all true areas that are compatible with it.

    The ends are the areas from which it lies 1.96 standard deviations away, with Hanley and McNeil's variance at these
    areas: the interval has a width even where the kinds do not overlap, and stays in [0, 1].

    Args:
        area: in [0, 1].
        inflation: the factor by which its variance is larger than that, above 0.
        n_normal, n_anomalous: images of each kind.

    Source: Newcombe 2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic", part
    2, method 5, whose inflation is 1.

    >>> print(area_interval(1.0, 1.0, n_normal=10, n_anomalous=10))
    1.000 [0.800, 1.000]
    """
    deviations = WIDTH * inflation**0.5

    def lower(area: float) -> float:
        def short(step: int) -> float:
            truth = area * step / _STEPS
            return truth + deviations * _expected_variance(truth, n_normal, n_anomalous) ** 0.5 - area

        # An area of 1 has no deviation from itself: the other root is wanted, below which all areas are too far away.
        return area * bisect_left(range(_STEPS), 0.0, key=short) / _STEPS

    return Interval(area, lower(area), 1 - lower(1 - area))


def inflation(area: float, variance: float, n_normal: int, n_anomalous: int) -> float:
    """The ratio of another estimate of the variance to Hanley and McNeil's.

    >>> round(inflation(0.75, 0.0375, n_normal=10, n_anomalous=10), 2)
    2.98
    """
    n_pairs = n_normal * n_anomalous
    # An area of 0 or 1 may hide half a pair in the wrong order.
    return variance / _expected_variance((area * n_pairs + 0.5) / (n_pairs + 1), n_normal, n_anomalous)


def _expected_variance(area: float, n_normal: int, n_anomalous: int) -> float:
    """The variance of an AUROC whose true value is `area`, where the scores of the kinds differ in location only.

    Source: Hanley and McNeil 1982, equation 1, with Newcombe's mean of the numbers, so that both kinds count alike.
    """
    others = (n_normal + n_anomalous) / 2 - 1
    shared = (1 - area) / (2 - area) + area / (1 + area)
    return area * (1 - area) * (1 + others * shared) / (n_normal * n_anomalous)
