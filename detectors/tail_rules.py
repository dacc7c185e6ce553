"""Rules of version 0.1 that join several statistics of an image into one score; only its calibrations use them.

Each statistic becomes a tail probability among normal images; a rule combines them. The statistics depend on each
other in ways nobody knows, so the combined number is no p-value: it is a score like any other, and was
calibrated as one, on normal images other than those of the tails. The promise then holds whatever the dependence.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from nelbo.detectors.checks import check_scores
from nelbo.detectors.errors import CalibrationError

#: A statistic whose name ends with this counts as strange if it is too high, or too low.
TWO_SIDED = "_two_sided"

#: Share of the reference scores, and least number of them, that a tail is fitted to.
TAIL_SHARE, TAIL_LEAST = 0.1, 10
#: Enough for two tails, and a score between them.
MIN_REFERENCE = 2 * TAIL_LEAST + 1

Array = NDArray[np.float64]


class Tail:
    """The logarithm of P(score of a normal image >= s), continuous and falling everywhere.

    Rank p-values stop at 1 / (n + 1), so that all strong defects would tie. Between the reference scores this
    interpolates their ranks, log-linearly; beyond them it goes on as an exponential tail with the mean excess of the
    highest tenth (Pickands 1975 with shape 0), and in the same way below them.

    Args:
        reference: (n,) scores of normal images, n >= 21.

    Raises:
        CalibrationError: too few normal images.

    >>> Tail(range(1, 100)).log_p([50.0, 99.0, 1000.0]).round(2).tolist()
    [-0.69, -4.03, -167.84]
    """

    def __init__(self, reference: ArrayLike) -> None:
        ordered = np.sort(check_scores(reference))
        n = len(ordered)
        if n < MIN_REFERENCE:
            raise CalibrationError(f"a tail needs at least {MIN_REFERENCE} normal images, got {n}. Add normal images.")
        knots, first = np.unique(ordered, return_index=True)
        n_tail = max(TAIL_LEAST, round(TAIL_SHARE * n))
        self._upper, self._upper_scale = _end(ordered, n_tail)
        lower, self._lower_scale = _end(-ordered[::-1], n_tail)
        inside = (knots <= self._upper) & (knots >= -lower)
        # The share of the n + 1 gaps between the scores that lie above.
        self._knots, self._log_p = knots[inside], np.log((n - first[inside]) / (n + 1))

    def log_p(self, scores: ArrayLike) -> Array:
        """(m,) natural logarithms of the upper tail probabilities, at most 0."""
        values = check_scores(scores)
        result = _interpolate(values, self._knots, self._log_p)
        result -= np.maximum(values - self._knots[-1], 0) / self._upper_scale
        below = values < self._knots[0]
        missing = -np.expm1(self._log_p[0]) * np.exp((values[below] - self._knots[0]) / self._lower_scale)
        result[below] = np.log1p(-missing)
        return result


class TailRule:
    """Several statistics and a rule.

    Args:
        reference: name -> (n,) scores of the same normal images, which serve nothing else.
        statistics: names in `reference`; with the suffix ``_two_sided`` a statistic counts as strange when it
            is too low, too.
        rule: how the tail probabilities p of k statistics become one score:

            * ``fisher``: - sum log p (Fisher 1925): evidence adds up;
            * ``cauchy``: - log of the p-value of mean tan((1/2 - p) pi) (Liu and Xie 2020): led by the strongest;
            * ``minimum``: - log min p (Tippett 1931): the strongest alone.

    Raises:
        KeyError: the rule or a statistic is unknown.
        CalibrationError: too few normal images.

    >>> rule = TailRule({"nelbo": range(1, 100), "rate": range(1, 100)}, ["nelbo", "rate_two_sided"], "minimum")
    >>> rule.scores({"nelbo": [50.0, 50.0], "rate": [50.0, -100.0]}).round(1).tolist()
    [0.7, 21.7]
    """

    def __init__(self, reference: Mapping[str, ArrayLike], statistics: Sequence[str], rule: str) -> None:
        self.statistics, self.rule, self._combine = tuple(statistics), rule, RULES[rule]
        self._sides = {}
        for statistic in statistics:
            values = check_scores(reference[statistic.removesuffix(TWO_SIDED)])
            two_sided = statistic.endswith(TWO_SIDED)
            self._sides[statistic] = (Tail(values), Tail(-values) if two_sided else None)

    def scores(self, measures: Mapping[str, ArrayLike]) -> Array:
        """(m,) joint scores, higher = more anomalous; minus the logarithm of a probability."""
        log_p = [self._log_p(name, check_scores(measures[name.removesuffix(TWO_SIDED)])) for name in self.statistics]
        return self._combine(np.stack(log_p))

    def _log_p(self, statistic: str, values: Array) -> Array:
        upper, lower = self._sides[statistic]
        if lower is None:
            return upper.log_p(values)
        return np.minimum(0, np.log(2) + np.minimum(upper.log_p(values), lower.log_p(-values)))


def _interpolate(x: Array, knots: Array, values: Array) -> Array:
    """As numpy.interp, whose slopes overflow between knots that are nearer than 1e-307."""
    left = np.clip(np.searchsorted(knots, x, "right") - 1, 0, len(knots) - 1)
    right = np.minimum(left + 1, len(knots) - 1)
    width = np.where(right > left, knots[right] - knots[left], 1.0)
    share = (np.clip(x, knots[left], knots[right]) - knots[left]) / width
    return (1 - share) * values[left] + share * values[right]


def _end(ordered: Array, n_tail: int) -> tuple[float, float]:
    """Where the upper tail of sorted scores begins, and its mean excess."""
    start = float(ordered[-n_tail - 1])
    excess = float(np.mean(ordered[-n_tail:] - start))
    # Scores that are all equal have no spread: whatever differs at all is then far away.
    return start, max(excess, 1e-9 * max(1.0, abs(start)))


def _cauchy(log_p: Array) -> Array:
    # A probability of 1 would count as minus infinity and hide every other statistic.
    p = np.minimum(np.exp(log_p), 0.99)
    # Beyond where arctan can tell, tan((1/2 - p) pi) is 1 / (p pi), and the same rule goes on in logarithms.
    far = log_p.min(axis=0) < -30
    result = np.empty(log_p.shape[1])
    result[far] = np.log(len(log_p)) - logsumexp(-log_p[:, far], axis=0)
    mean = np.mean(1 / np.tan(np.pi * p[:, ~far]), axis=0)
    result[~far] = np.log(np.arctan2(1, mean) / np.pi)
    return -result


RULES: dict[str, Callable[[Array], Array]] = {
    "fisher": lambda log_p: -log_p.sum(axis=0),
    "cauchy": _cauchy,
    "minimum": lambda log_p: -log_p.min(axis=0),
}
