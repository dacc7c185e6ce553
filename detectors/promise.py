"""What a calibration set of a given size can promise, before any score is looked at.

The threshold is the j-th largest of n calibration scores. The share of fresh normal images above it, in the long run,
depends on which n images they were: over calibration sets it follows the law Beta(j, n + 1 - j).

Source: Vovk 2012, "Conditional validity of inductive conformal predictors", section 2.
"""

import bisect
import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv, betaln

from nelbo.detectors.errors import CalibrationError
from nelbo.detectors.interval import Interval

#: Rarer false alarms would need more calibration images than anyone has.
MIN_FPR = 1e-9


def n_above(n: int, fpr: float, confidence: float | None = None) -> int:
    """The rank j of the threshold among n calibration scores, counted from the largest; 0 if n is too small.

    Without `confidence` the largest j whose expected rate j / (n + 1) is at most `fpr`: the promise holds on average
    over calibration sets. With it the largest j for which the rate is at most `fpr` in that share of the
    calibration sets.

    >>> n_above(99, 0.05), n_above(99, 0.05, confidence=0.95), n_above(18, 0.05)
    (5, 2, 0)
    """
    check_rates(fpr, confidence)
    if confidence is not None:
        # From 1 up: the larger j, the less surely its rate stays below fpr.
        return bisect.bisect_right(range(1, n + 1), -confidence, key=lambda j: -betainc(j, n + 1 - j, fpr))
    # The same arithmetic as where p-values are compared with fpr.
    j = math.floor(fpr * (n + 1))
    while j > 0 and j / (n + 1) > fpr:
        j -= 1
    while (j + 1) / (n + 1) <= fpr:
        j += 1
    return j


def n_needed(fpr: float, confidence: float | None = None) -> int:
    """Smallest number of calibration images that can promise `fpr`.

    ceil(1 / fpr) - 1 on average; ceil(log(1 - confidence) / log(1 - fpr)) with a confidence.

    Args:
        fpr: false-alarm rate, in (0, 1).
        confidence: share of calibration sets for which the promise holds; None for on average over them.

    >>> n_needed(0.05), n_needed(0.01), n_needed(0.05, confidence=0.95)
    (19, 99, 59)
    """
    check_rates(fpr, confidence)
    n = 1 / fpr - 1 if confidence is None else math.log1p(-confidence) / math.log1p(-fpr)
    n = max(1, math.ceil(n))
    # Division rounds.
    while not n_above(n, fpr, confidence):
        n += 1
    while n > 1 and n_above(n - 1, fpr, confidence):
        n -= 1
    return n


def check_size(n: int, fpr: float, confidence: float | None = None) -> None:
    """Refuse a calibration set that cannot promise `fpr`.

    Args:
        n: its images.
        fpr: false-alarm rate, in (0, 1).
        confidence: share of calibration sets for which the promise holds; None for on average over them.

    Raises:
        CalibrationError: how many are needed, and what `n` could promise.

    >>> check_size(19, 0.05)
    """
    if n >= n_needed(fpr, confidence):
        return
    least = 1 / (n + 1) if confidence is None else 1 - (1 - confidence) ** (1 / max(1, n))
    lower = f", or ask for fpr >= {math.ceil(10_000 * least) / 10_000:.4g}" if n else ""
    surely = "" if confidence is None else f" with confidence {confidence:g}"
    raise CalibrationError(
        f"fpr={fpr}{surely} needs at least {n_needed(fpr, confidence)} calibration images, got {n}. "
        f"Add normal images{lower}."
    )


def rate_law(j: int, n: int) -> Interval:
    """Mean and 95 % interval of the share of normal images that fall into j of the n + 1 gaps between n scores.

    >>> [round(v, 3) for v in rate_law(1, 19)]
    [0.05, 0.001, 0.176]
    """
    low, high = betaincinv(j, n + 1 - j, [0.025, 0.975])
    return Interval(j / (n + 1), float(low), float(high))


def check_rates(fpr: float, confidence: float | None = None) -> None:
    """Refuse a rate or a confidence that is out of range."""
    if not MIN_FPR <= fpr < 1:
        raise ValueError(f"fpr={fpr}: expected a rate between {MIN_FPR:g} and 1, for example 0.05")
    if confidence is not None and not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: expected a number between 0 and 1, for example 0.95")


def false_alarm_probability(counts: range, m: int, n: int, rank: int) -> float:
    """P(K in counts), where K of m fresh normal scores exceed the `rank`-th highest of n calibration scores.

    K is beta-binomial (m, rank, n + 1 - rank), whatever the scores' distribution, if it is continuous.

    >>> round(false_alarm_probability(range(1, 2), 1, 99, 5), 6)
    0.05
    """
    if not 0 < rank <= n:
        return float((m if rank else 0) in counts)
    return min(1.0, float(_count_law(np.arange(counts.start, counts.stop), m, rank, n + 1 - rank).sum()))


@lru_cache(maxsize=4096)
def false_alarm_interval(m: int, n: int, rank: int) -> Interval:
    """How many of `m` normal images lie above a threshold: the mean, and the central 95 % of its chance variation.

    The law is that of `false_alarm_probability`.

    Args:
        m: fresh normal images.
        n: calibration images.
        rank: of the threshold among their scores, from the largest.

    >>> false_alarm_interval(100, 199, 10), false_alarm_interval(100, 199, 200)
    (Interval(value=5.0, low=1, high=11), Interval(value=100.0, low=100, high=100))
    """
    if rank > n:
        return Interval(float(m), m, m)
    below = np.cumsum(_count_law(np.arange(m + 1), m, rank, n + 1 - rank))
    low, high = np.searchsorted(below, [0.025, 0.975])
    return Interval(m * rank / (n + 1), int(low), min(m, int(high)))


def _count_law(counts: NDArray[np.int64], m: int, a: int, b: int) -> NDArray[np.float64]:
    """P(K = k) of each count k of 0 to m, beta-binomial (m, a, b)."""
    ways = -np.log(m + 1) - betaln(m - counts + 1, counts + 1)
    found: NDArray[np.float64] = np.exp(ways + betaln(counts + a, m - counts + b) - betaln(a, b))
    return found
