"""May a new threshold replace the current one of the same model? Only with enough images, and no evidence against it.

The verdicts of both are compared on labelled images that were used to choose neither of them. If the answer is no, the
threshold is a candidate: a person may still take it, and is told why it was not taken automatically.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from nelbo.detectors.checks import check_labels
from nelbo.detectors.metrics.labelled import EQUAL_COSTS, Counts, attained
from nelbo.detectors.metrics.mcnemar import mcnemar_excess

#: The fewest labelled images of a kind behind a threshold, and the fewest of them that choose it, or judge it.
MIN_LABELLED, MIN_PART = 20, 10

#: How often an equally good threshold is said to be worse, over all reasons together.
LEVEL = 0.1

#: The names of labels 0 and 1.
KINDS = ("normal", "anomalous")

#: The rounding error of sums that ought to be equal, and the probability that a sum may leave out.
_TINY = 1e-12


def too_few(kind: str, n_choosing: int, n_judging: int) -> str | None:
    """Why this number of labelled images of a kind is too small for a threshold; None if it is enough.

    >>> too_few("anomalous", 2, 2)
    '4 anomalous images with a label, and at least 20 are needed'
    >>> too_few("anomalous", 10, 10)
    """
    n = n_choosing + n_judging
    if n < MIN_LABELLED:
        return f"{n} {kind} images with a label, and at least {MIN_LABELLED} are needed"
    if min(n_choosing, n_judging) < MIN_PART:
        return f"of {n} {kind} images {n_choosing} choose and {n_judging} judge it, and each needs at least {MIN_PART}"
    return None


def blind(labels: ArrayLike, flagged: ArrayLike) -> str | None:
    """Why a threshold sees nothing: it finds none of `MIN_PART` anomalous images or more. None if it finds some.

    Args:
        labels: (n,) 0 normal, 1 anomalous.
        flagged: (n,) booleans.

    >>> blind([1] * 12, [False] * 12)
    'it finds none of 12 anomalous images that did not choose it'
    """
    found = np.asarray(flagged, bool)[check_labels(labels) == 1]
    if len(found) < MIN_PART or found.any():
        return None
    return f"it finds none of {len(found)} anomalous images that did not choose it"


def worse(
    labels: ArrayLike,
    flagged: ArrayLike,
    by_current: ArrayLike,
    objective: str | None = None,
    target: float | None = None,
    costs: Sequence[Sequence[float]] = EQUAL_COSTS,
) -> str | None:
    """What a new threshold does significantly worse than the current one on the same images; None if nothing.

    With an objective, a threshold is worse by that: it misses the target by more or, where both miss it by as much, has
    less of what is maximised. `objective_p_value` says whether that is more than chance, at half of ``LEVEL``. A
    requested trade of misses against false alarms is therefore not worse. But there is a limit: a threshold that is
    right about less than half as many images of either kind as the current one is worse whatever the objective, by
    McNemar's exact test of each kind, one-sided, at a quarter of ``LEVEL``.

    Without an objective, or where one of the two kinds is missing, it is worse if it misses more anomalous images or
    flags more normal ones, by McNemar's test again, each at half of ``LEVEL``.

    An equally good threshold, which is as likely wrong as the current one on an image where the two differ, is said to
    be worse with a probability of at most ``LEVEL`` (Bonferroni).

    Args:
        labels: (n,) 0 normal, 1 anomalous; n may be 0.
        flagged: (n,) booleans, by the new threshold.
        by_current: (n,) by the current one.
        objective, target, costs: as in `detectors.labelled_threshold`.

    Raises:
        ValueError: lengths that differ, or other labels.

    >>> labels = [0] * 12 + [1] * 12
    >>> current, higher = [False] * 12 + [True] * 10 + [False] * 2, [False] * 12 + [True] * 3 + [False] * 9
    >>> print(worse(labels, higher, current, "f1"))  # doctest: +NORMALIZE_WHITESPACE
    by f1 it is worse: it misses 9 of 12 anomalous images and flags 0 of 12 normal ones, the current one 2 and 0
    (p = 0.00781)
    >>> worse(labels, current, higher, "f1")
    """
    truth, new, old = check_labels(labels), np.asarray(flagged, bool), np.asarray(by_current, bool)
    if not len(truth) == len(new) == len(old):
        raise ValueError(f"got {len(truth)} labels, and verdicts on {len(new)} and {len(old)} images: expected as many")
    if objective is None or len(np.unique(truth)) < 2:
        return _more_errors(truth, new, old, LEVEL / 2, least_kept=1)
    p_value = objective_p_value(truth, new, old, objective, target, costs)
    if p_value > LEVEL / 2:
        return _more_errors(truth, new, old, LEVEL / 4, least_kept=0.5)
    normal, anomalous = truth == 0, truth == 1
    return (
        f"by {objective} it is worse: it misses {(anomalous & ~new).sum()} of {anomalous.sum()} anomalous images and "
        f"flags {(normal & new).sum()} of {normal.sum()} normal ones, the current one {(anomalous & ~old).sum()} and "
        f"{(normal & old).sum()} (p = {p_value:.3g})"
    )


def objective_p_value(
    labels: ArrayLike,
    flagged: ArrayLike,
    by_current: ArrayLike,
    objective: str,
    target: float | None = None,
    costs: Sequence[Sequence[float]] = EQUAL_COSTS,
) -> float:
    """The probability that one of two equally good judges looks as much worse than the other by an objective, or more.

    A randomisation test: if both are equally good, either may have given either verdict on an image. All ways to swap
    their verdicts on the images where they differ are then equally likely; the number of swaps of each kind is
    binomial, and the p-value is exact. Where they differ on images of one kind only, it is that of McNemar's test.

    Args:
        labels: (n,) 0 normal, 1 anomalous; both occur.
        flagged, by_current: (n,) booleans of the two.
        objective, target, costs: as in `detectors.labelled_threshold`.

    Source: Yeh 2000, "More accurate tests for the statistical significance of result differences", for F1; here all
    cases are counted instead of drawing some.

    >>> round(objective_p_value([0] * 9 + [1] * 9, [False] * 13 + [True] * 5, [False] * 9 + [True] * 9, "f1"), 6)
    0.0625
    """
    truth, new, old = check_labels(labels), np.asarray(flagged, bool), np.asarray(by_current, bool)
    normal, anomalous = (_Flagged.of(truth == label, new, old) for label in (0, 1))

    def results(alarms: NDArray[np.int64], finds: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        fp, tp = (normal.by_both + alarms).astype(np.float64), (anomalous.by_both + finds).astype(np.float64)
        return attained(objective, target, costs, Counts(normal.n - fp, fp, anomalous.n - tp, tp))

    alarms, finds = (swaps.ravel() for swaps in np.meshgrid(normal.swaps(), anomalous.swaps()))
    chance = scipy.stats.binom.pmf(alarms, normal.by_one, 0.5) * scipy.stats.binom.pmf(finds, anomalous.by_one, 0.5)
    # The observed case comes first; its probability is among those of all cases.
    alarms, finds = np.append(normal.by_new, alarms), np.append(anomalous.by_new, finds)
    missed_new, value_new = results(alarms, finds)
    missed_old, value_old = results(normal.by_one - alarms, anomalous.by_one - finds)
    nearer, better = missed_old - missed_new, value_new - value_old
    room = _TINY * max(1.0, float(np.abs(better).max()))
    as_bad = (nearer < nearer[0] - _TINY) | ((nearer <= nearer[0] + _TINY) & (better <= better[0] + room))
    return float(chance[as_bad[1:]].sum())


class _Flagged(NamedTuple):
    """How many images of a kind there are, and how many both flag, only the new one does, and only one of the two."""

    n: int
    by_both: int
    by_new: int
    by_one: int

    @classmethod
    def of(cls, kind: NDArray[np.bool_], new: NDArray[np.bool_], old: NDArray[np.bool_]) -> "_Flagged":
        parts = (kind, kind & new & old, kind & new & ~old, kind & (new != old))
        return cls(*(int(part.sum()) for part in parts))

    def swaps(self) -> NDArray[np.int64]:
        """How many of the images that only one flags may be flagged by the new one, without very unlikely numbers."""
        low, high = scipy.stats.binom.ppf(_TINY, self.by_one, 0.5), scipy.stats.binom.isf(_TINY, self.by_one, 0.5)
        return np.arange(low, high + 1).astype(np.int64)


def _more_errors(
    truth: NDArray[np.int64], new: NDArray[np.bool_], old: NDArray[np.bool_], level: float, least_kept: float
) -> str | None:
    """The kind of images that the new threshold gets wrong significantly more often, if it keeps too few right ones."""
    for kind, does in (("anomalous", "misses"), ("normal", "flags")):
        of_kind = truth == KINDS.index(kind)
        # The right verdict on an anomalous image is to flag it.
        wrong_new, wrong_old = (flags[of_kind] != (kind == "anomalous") for flags in (new, old))
        found, n = mcnemar_excess(wrong_new, wrong_old), len(wrong_new)
        if found.p_value <= level and n - found.a < least_kept * (n - found.b):
            return (
                f"it {does} {found.a} of {n} {kind} images, and the current one {found.b}: {found.only_a} "
                f"that only it {does} and {found.only_b} that only the current one does (p = {found.p_value:.3g})"
            )
    return None
