"""Are two samples of one distribution? The exact test of Kolmogorov and Smirnov.

A batch of a few images is compared here, because SciPy's statistics take longer to load than all else that such a batch
needs; SciPy, whose loops are compiled, compares larger ones.
"""

import warnings

import numpy as np
import scipy
from numpy.typing import NDArray

#: Up to this many pairs of values, the test here takes milliseconds.
MOST_PAIRS = 20_000

Values = NDArray[np.float64]


def smirnov_p_value(one: Values, other: Values) -> float:
    """P(the two empirical distributions are as far apart as these, or farther) if both samples have one source.

    Exact up to 10,000 values a side, if no two are equal; with ties it is too large, if anything. Larger samples get
    the asymptotic one.

    Args:
        one, other: (m,) and (n,) finite numbers, m and n >= 1.

    Source: Smirnov 1939; Hodges 1958, "The significance probability of the Smirnov two-sample test", whose recursion
    is scaled as SciPy does it, so that both have the same result.

    >>> normal = np.arange(19.0)
    >>> smirnov_p_value(np.array([30.0]), normal), smirnov_p_value(np.array([9.5]), normal)
    (0.1, 1.0)
    """
    m, n = sorted((len(one), len(other)), reverse=True)
    # SciPy has a formula for samples of one size.
    if m == n or m * n > MOST_PAIRS:
        return _by_scipy(one, other)
    return min(1.0, _share_outside(m, n, _distance(one, other)))


def _by_scipy(one: Values, other: Values) -> float:
    with warnings.catch_warnings():
        # Where rounding defeats the exact p-value, SciPy says so and takes the asymptotic one.
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(scipy.stats.ks_2samp(one, other).pvalue)


def _distance(one: Values, other: Values) -> int:
    """The largest distance between the two empirical distributions, times the product of their sizes."""
    everything = np.concatenate([one, other])
    below_one, below_other = (np.searchsorted(np.sort(of), everything, side="right") for of in (one, other))
    return int(np.abs(below_one * len(other) - below_other * len(one)).max())


def _share_outside(m: int, n: int, distance: int) -> float:
    """The share of the paths in steps of one from (0, 0) to (m, n), m > n, that come so far from the diagonal.

    Column by column, ``shares[y]`` is that of the paths to (x, y): the last step came from the left x times in x + y,
    else from below.
    """
    if distance == 0:
        return 1.0
    shares = [0.0 if m * y < distance else 1.0 for y in range(n + 1)]
    for x in range(1, m + 1):
        share = 0.0
        for y in range(n + 1):
            is_inside = abs(n * x - m * y) < distance
            share = (shares[y] * x + share * y) / (x + y) if is_inside else 1.0
            shares[y] = share
    return shares[n]
