"""An estimate with its uncertainty."""

from typing import NamedTuple

import scipy
from scipy.special import ndtri

#: Half the 95 % interval of a normal distribution, in its standard deviations.
WIDTH = float(ndtri(0.975))


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def binomial_interval(k: int, n: int) -> Interval:
    """A rate seen as `k` of `n`, with its exact 95 % interval.

    Raises:
        ValueError: k outside 0..n, or n = 0.

    Source: Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the
    binomial", by SciPy.

    >>> [round(v, 3) for v in binomial_interval(2, 134)]
    [0.015, 0.002, 0.053]
    """
    interval = scipy.stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    return Interval(k / n, float(interval.low), float(interval.high))


def share_interval(value: float, n: float) -> Interval:
    """A share of n images, or of an equivalent number of others, with Wilson's interval; n need not be whole.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    >>> print(share_interval(1.0, 10))
    1.000 [0.722, 1.000]
    """
    extra = WIDTH**2 / n
    middle, half = value + extra / 2, WIDTH * (value * (1 - value) / n + extra / 4 / n) ** 0.5
    low, high = (middle - half) / (1 + extra), (middle + half) / (1 + extra)
    return Interval(value, max(0.0, min(low, value)), min(1.0, max(high, value)))
