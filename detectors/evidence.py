"""May a new threshold replace the current one of the same model? Enough images, and none that speak against it.

Verdicts of both on the same labelled images are compared, on images that chose neither of the two. Where the answer is
no, the threshold is a candidate: somebody may take it anyway, and knows why it was not taken by itself.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detectors.checks import check_labels
from detectors.labelled import EQUAL_COSTS, Counts, attained
from detectors.mcnemar import mcnemar_excess

#: Labelled images of a kind behind a threshold, and of them those that choose and those that judge, at least.
MIN_LABELLED, MIN_PART = 20, 10

#: How often an equally good threshold is said to be worse, by misses and false alarms together: half of it for each.
LEVEL = 0.1

#: What labels are called.
KINDS = ("normal", "anomalous")

_ROUNDING = 1e-12

#: What is wrong of an image of a kind.
_ERRORS = {"normal": "flags", "anomalous": "misses"}


def too_few(kind: str, n_choosing: int, n_judging: int) -> str | None:
    """Why so many labelled images of a kind make no threshold that can be trusted; None if they are enough.

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
    kinds: Sequence[str] = KINDS,
) -> str | None:
    """What a new threshold does significantly worse than the current one on the same images; None if nothing.

    It misses more anomalous images, or flags more normal ones: McNemar's exact test of each, one-sided, at half of
    ``LEVEL``. So an equally good threshold, by which an image that tells the two apart is as likely wrong as by the
    current one, is said to be worse with a probability of at most ``LEVEL`` (Bonferroni).

    A trade that was asked for is not worse. By the objective that chose it the new threshold then does at least as
    well as the current one on these images: it comes at least as near to the target and, where both are as near, has
    no less of what is maximised. A trade has an end: of the images of a kind that the current threshold gets right,
    the new one gets at least half as many right, or it is worse whatever was asked.

    Args:
        labels: (n,) 0 normal, 1 anomalous; n may be 0.
        flagged: (n,) booleans, by the new threshold.
        by_current: (n,) by the current one.
        objective, target, costs: as in `detectors.labelled_threshold`; None where labels did not choose.
        kinds: on which of the two the thresholds are compared.

    Raises:
        ValueError: lengths that differ, or other labels.

    Source: :func:`detectors.mcnemar_excess`.

    >>> labels = [0] * 12 + [1] * 12
    >>> current, higher = [False] * 12 + [True] * 10 + [False] * 2, [False] * 12 + [True] * 3 + [False] * 9
    >>> print(worse(labels, higher, current, "f1"))  # doctest: +NORMALIZE_WHITESPACE
    it misses 9 of 12 anomalous images, and the current one 2: 7 that only it misses and 0 that only the current one
    does (p = 0.00781)
    >>> worse(labels, current, higher, "f1")
    """
    truth, new, old = check_labels(labels), np.asarray(flagged, bool), np.asarray(by_current, bool)
    if not len(truth) == len(new) == len(old):
        raise ValueError(f"got {len(truth)} labels, and verdicts on {len(new)} and {len(old)} images: expected as many")
    as_asked = objective is not None and _as_asked(truth, new, old, objective, target, costs)
    for kind in kinds:
        of_kind = truth == KINDS.index(kind)
        # What is right of an anomalous image is that it is flagged.
        wrong_new, wrong_old = (flags[of_kind] != (kind == "anomalous") for flags in (new, old))
        found = mcnemar_excess(wrong_new, wrong_old)
        kept, had = int((~wrong_new).sum()), int((~wrong_old).sum())
        if found.p_value <= LEVEL / 2 and not (as_asked and 2 * kept >= had):
            does = _ERRORS[kind]
            return (
                f"it {does} {found.a} of {len(wrong_new)} {kind} images, and the current one {found.b}: {found.only_a} "
                f"that only it {does} and {found.only_b} that only the current one does (p = {found.p_value:.3g})"
            )
    return None


def _as_asked(
    truth: NDArray[np.int64],
    new: NDArray[np.bool_],
    old: NDArray[np.bool_],
    objective: str,
    target: float | None,
    costs: Sequence[Sequence[float]],
) -> bool:
    """Whether the new threshold does at least as well as the old one by the objective; both kinds are needed to say."""
    if len(set(truth.tolist())) < 2:
        return False
    flags = np.stack([new, old]).astype(np.float64)
    normal, anomalous = (flags[:, truth == label] for label in (0, 1))
    counts = Counts(*((1 - normal).sum(1), normal.sum(1), (1 - anomalous).sum(1), anomalous.sum(1)))
    missed, value = attained(objective, target, costs, counts)
    # Equally good ones may differ by a rounding; where nothing is flagged, precision is missed by infinitely much.
    if missed[0] < missed[1] - _ROUNDING or missed[1] < missed[0] - _ROUNDING:
        return bool(missed[0] < missed[1])
    return bool(value[0] >= value[1] - _ROUNDING * max(1.0, abs(value[1])))
