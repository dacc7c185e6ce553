"""Area under the ROC curve, with an interval that holds for few images and for kinds that hardly overlap."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import rankdata

from nelbo.detectors.checks import check_both_kinds
from nelbo.detectors.interval import WIDTH, Interval

#: A share of an area that is no distance.
_TINY = 1e-12


class Components(NamedTuple):
    """Shares of pairs in the right order, a tie counting half: their mean is the AUROC.

    normal: (n_normal,) of anomalous images that each normal one lies below.
    anomalous: (n_anomalous,) of normal images that each anomalous one lies above.
    """

    normal: NDArray[np.float64]
    anomalous: NDArray[np.float64]

    @classmethod
    def of(cls, truth: NDArray[np.int64], values: NDArray[np.float64]) -> "Components":
        """Those of labels and scores, in time n log n, by midranks.

        Source: Sun and Xu 2014, "Fast implementation of DeLong's algorithm".
        """
        normal, anomalous = truth == 0, truth == 1
        n_normal, n_anomalous = int(normal.sum()), int(anomalous.sum())
        ranks = rankdata(values)
        return cls(
            (n_anomalous - (ranks[normal] - rankdata(values[normal]))) / n_anomalous,
            (ranks[anomalous] - rankdata(values[anomalous])) / n_normal,
        )

    @property
    def area(self) -> float:
        """The AUROC."""
        return float(self.anomalous.mean())

    @property
    def variance(self) -> float:
        """DeLong's, of the area; what a kind with a single image would add to it is not known, and left out."""
        return float(sum(shares.var(ddof=1) / len(shares) for shares in self if len(shares) > 1))

    @property
    def interval(self) -> Interval:
        """See `auroc`."""
        sizes = len(self.normal), len(self.anomalous)
        return area_interval(self.area, max(1.0, inflation(self.area, self.variance, *sizes)), *sizes)

    def minus(self, other: "Components") -> "Components":
        """Those of a difference between two models on the same images."""
        return Components(self.normal - other.normal, self.anomalous - other.anomalous)


def auroc(labels: ArrayLike, scores: ArrayLike) -> Interval:
    """Area under the ROC curve, with Newcombe's interval (`area_interval`), wider where DeLong's variance is larger.

    Newcombe's expects the kinds' scores to differ in no more than their place; DeLong's variance sees what else they
    differ in, where there are enough images to see it, as where some defects are found at once and others not at all.
    docs/evaluating.md shows how often the whole covers the truth.

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
    """An AUROC with all areas that would not be strange to have given it.

    The ends are the areas from which it lies 1.96 standard deviations away, with Hanley and McNeil's variance at these
    areas: so it has a width even where kinds do not overlap, and stays in [0, 1].

    Args:
        area: in [0, 1].
        inflation: how many times that variance it has, above 0.
        n_normal, n_anomalous: images of each kind.

    Source: Newcombe 2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic", part
    2, method 5, whose inflation is 1.

    >>> print(area_interval(1.0, 1.0, n_normal=10, n_anomalous=10))
    1.000 [0.800, 1.000]
    """
    deviations = WIDTH * inflation**0.5

    def lower(area: float) -> float:
        def beyond(truth: float) -> float:
            return area - truth - deviations * _expected_variance(truth, n_normal, n_anomalous) ** 0.5

        # An area of 1 lies no deviation away from itself, nor from one below it: the other end is wanted.
        return float(brentq(beyond, 0.0, area * (1 - _TINY))) if area > 0 else 0.0

    return Interval(area, lower(area), 1 - lower(1 - area))


def inflation(area: float, variance: float, n_normal: int, n_anomalous: int) -> float:
    """How many times Hanley and McNeil's variance another estimate of it is.

    >>> round(inflation(0.75, 0.0375, n_normal=10, n_anomalous=10), 2)
    2.98
    """
    n_pairs = n_normal * n_anomalous
    # Half a pair in the wrong order is what an area of 0 or 1 may hide.
    return variance / _expected_variance((area * n_pairs + 0.5) / (n_pairs + 1), n_normal, n_anomalous)


def _expected_variance(area: float, n_normal: int, n_anomalous: int) -> float:
    """The variance of an AUROC whose truth is `area`, where the kinds' scores differ in no more than their place.

    Source: Hanley and McNeil 1982, equation 1, with Newcombe's mean of the numbers, so that both kinds count alike.
    """
    others = (n_normal + n_anomalous) / 2 - 1
    shared = (1 - area) / (2 - area) + area / (1 + area)
    return area * (1 - area) * (1 + others * shared) / (n_normal * n_anomalous)
