"""An estimate with its uncertainty."""

from typing import NamedTuple

from scipy.stats import binomtest, norm

#: Half the 95 % interval of a normal distribution, in its standard deviations.
WIDTH = float(norm.ppf(0.975))


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def binomial_interval(k: int, n: int) -> Interval:
    """A rate seen as k of n, with its exact interval.

    Source: Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the
    binomial", by SciPy.

    Raises:
        ValueError: k outside 0..n, or n = 0.

    >>> [round(v, 3) for v in binomial_interval(2, 134)]
    [0.015, 0.002, 0.053]
    """
    interval = binomtest(k, n).proportion_ci(0.95, method="exact")
    return Interval(k / n, float(interval.low), float(interval.high))
