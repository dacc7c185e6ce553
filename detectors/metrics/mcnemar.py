"""How often two judges flag the same images: shares compared image by image."""

import math
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from nelbo.detectors.interval import WIDTH, Interval, binomial_interval
from nelbo.detectors.metrics.delong import PairedTest


def mcnemar_test(flagged_a: ArrayLike, flagged_b: ArrayLike) -> PairedTest:
    """Whether two judges flag different shares of the same images.

    Only the images that exactly one of the two flags tell them apart. If both flag at the same rate, each of these is
    flagged by either with probability 1/2: the p-value is exact.

    Args:
        flagged_a: (n,) booleans of one judge, n >= 1.
        flagged_b: (n,) of the other, on the same images in the same order.

    Returns:
        The share of each with its exact interval, and the difference with Bonett and Price's interval: a normal one,
        after one more image has been added to either side.

    Raises:
        ValueError: no image, lengths that differ, or values that are not booleans.

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated proportions or
    percentages", in its exact form; Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of
    binomial proportions based on paired data".

    >>> test = mcnemar_test([True] * 6 + [False] * 14, [True] + [False] * 19)
    >>> print(test.difference, test.p_value)
    0.250 [0.012, 0.443] 0.0625
    """
    n_a, n_b, only_a, only_b, _ = mcnemar_excess(flagged_a, flagged_b)
    n = len(np.asarray(flagged_a))
    if not n:
        raise ValueError("got no images, expected at least one, the same for both")
    p_value = scipy.stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    share_a, share_b = (binomial_interval(k, n) for k in (n_a, n_b))
    return PairedTest(share_a, share_b, _difference(only_a, only_b, n), float(p_value))


class Excess(NamedTuple):
    """How much more often one of two judges flags the same images.

    a, b: images that each flags.
    only_a, only_b: images that only this one flags.
    p_value: probability that a flags so large a share of the images where they differ, or a larger one, if each of
        these is equally likely flagged by either.
    """

    a: int
    b: int
    only_a: int
    only_b: int
    p_value: float


def mcnemar_excess(flags_a: ArrayLike, flags_b: ArrayLike) -> Excess:
    """McNemar's exact test, one-sided: small where a has more than b.

    Args:
        flags_a: (n,) booleans, n may be 0.
        flags_b: (n,) on the same images in the same order.

    Raises:
        ValueError: lengths that differ, or values that are not booleans.

    >>> mcnemar_excess([True] * 6 + [False] * 14, [True] + [False] * 19)
    Excess(a=6, b=1, only_a=5, only_b=0, p_value=0.03125)
    """
    a, b = _booleans(flags_a), _booleans(flags_b)
    if len(a) != len(b):
        raise ValueError(f"got {len(a)} and {len(b)} images, expected the same ones twice")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p_value = float(scipy.stats.binom.sf(only_a - 1, only_a + only_b, 0.5))
    return Excess(int(a.sum()), int(b.sum()), only_a, only_b, p_value)


def _difference(only_a: int, only_b: int, n: int) -> Interval:
    centre = (only_a - only_b) / (n + 2)
    apart = (only_a + only_b + 2) / (n + 2)
    half = WIDTH * math.sqrt((apart - centre**2) / (n + 2))
    return Interval((only_a - only_b) / n, max(-1.0, centre - half), min(1.0, centre + half))


def _booleans(flagged: ArrayLike) -> NDArray[np.bool_]:
    values = np.asarray(flagged)
    if values.ndim != 1 or values.dtype != bool:
        raise ValueError(f"got flags of type {values.dtype} and shape {values.shape}, expected (n,) booleans")
    return values
