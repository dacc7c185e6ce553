"""A paired test between the areas under the ROC curves of two models."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from nelbo.detectors.checks import check_both_kinds
from nelbo.detectors.interval import WIDTH, Interval
from nelbo.detectors.metrics.area import Components


class PairedTest(NamedTuple):
    """Two models, or two calibrations, on the same images.

    a, b: AUROC, or a share, of each, with its interval.
    difference: that of a minus that of b, with its interval.
    p_value: two-sided, for the hypothesis of no difference.
    """

    a: Interval
    b: Interval
    difference: Interval
    p_value: float


def delong_test(labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike) -> PairedTest:
    """Whether two models differ in their AUROC on the same images.

    Args:
        labels: (n,) 0 normal, 1 anomalous; at least two images of each kind.
        scores_a: (n,) of one model, higher = more anomalous.
        scores_b: (n,) of the other, on the same images in the same order; the unit may differ.

    Returns:
        Intervals of a and b as in :func:`auroc`; that of the difference is the normal interval, limited to [-1, 1].
        Where the variance of the difference is 0, the interval is the value alone, and p is 1 or 0.

    Raises:
        ValueError: fewer images of a kind, lengths that differ, other labels, a score that is not finite.

    Source: DeLong, DeLong and Clarke-Pearson 1988, equation 7.

    >>> round(delong_test([0, 0, 0, 1, 1, 1], [1, 2, 5, 4, 6, 7], [1, 4, 5, 2, 3, 6]).p_value, 3)
    0.221
    """
    truth, values_a = check_both_kinds(labels, scores_a)
    _, values_b = check_both_kinds(labels, scores_b)
    n_normal, n_anomalous = np.bincount(truth)
    if min(n_normal, n_anomalous) < 2:
        raise ValueError(
            f"got {n_normal} normal and {n_anomalous} anomalous images, expected at least 2 of each kind: one alone "
            "has no variance. Add labelled images, or take auroc of each"
        )
    a, b = Components.of(truth, values_a), Components.of(truth, values_b)
    # The variance of differences rather than the difference of variances: exactly 0 for equal rankings.
    paired = a.minus(b)
    value, error = paired.area, paired.variance**0.5
    difference = Interval(value, max(-1.0, value - WIDTH * error), min(1.0, value + WIDTH * error))
    p_value = 2 * ndtr(-abs(value) / error) if error else float(value == 0)
    return PairedTest(a.interval, b.interval, difference, float(p_value))
