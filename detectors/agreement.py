"""How many verdicts change when another calibration set is drawn: the yardstick for a difference in verdicts."""

import math

import numpy as np
from numpy.typing import ArrayLike

from nelbo.detectors.checks import check_scores


def chance_changes(
    scores: ArrayLike, threshold: float, *, share: float = 0.95, n_draws: int = 1000, seed: int = 0
) -> int:
    """The most verdicts on these images that differ between two calibrations, in a `share` of the draws.

    Each calibration has as many images, drawn from these with replacement, and takes the rank that `threshold` has:
    only which images were drawn makes their thresholds differ.

    Args:
        scores: (n,) of the images that `threshold` was made of.
        threshold: images above it are called anomalous.
        share: of the pairs of calibrations in which no more verdicts differ.
        n_draws: how many pairs are drawn.
        seed: of the draws.

    Raises:
        ValueError: no scores, or some that are not finite.

    >>> chance_changes(np.arange(1000.0), 949.5)
    19
    >>> chance_changes(np.arange(1000.0), 2000.0), chance_changes(np.zeros(10), 0.0)
    (0, 0)
    """
    ordered = np.sort(check_scores(scores))
    n, rank = len(ordered), int(np.searchsorted(ordered, threshold, "right"))
    if not rank or threshold > ordered[-1]:
        # Beyond all images, whichever of them are drawn.
        return 0
    random = np.random.default_rng(seed)
    drawn = np.sort(random.integers(0, n, (2, n_draws, n)), axis=-1)[..., rank - 1]
    n_above = n - np.searchsorted(ordered, ordered[drawn], "right")
    changed = np.sort(np.abs(n_above[0] - n_above[1]))
    return int(changed[math.ceil(share * n_draws) - 1])
