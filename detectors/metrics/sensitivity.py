"""How well scores tell normal images from the same images with a simulated defect."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nelbo.detectors.interval import Interval
from nelbo.detectors.metrics.area import area_interval, inflation
from nelbo.detectors.metrics.metrics import percentiles

#: With so many images, half of the AUROC's variance is the bootstrap's, and half what independent images would have.
_HALF_TRUSTED = 5

#: An AUROC whose interval reaches down to here may be no better than chance.
CHANCE = 0.55


class Sensitivity(NamedTuple):
    """How well some simulated defects are seen.

    n: painted images.
    auroc: of the painted images against other normal images; see `sensitivity`.
    found: share of the painted images that are flagged; None without verdicts.
    """

    n: int
    auroc: Interval
    found: Interval | None

    def is_blind(self, false_alarms: float | None = None) -> bool:
        """Whether defects are seen no better than chance, or flagged no more often than normal images.

        Args:
            false_alarms: share of normal images that are flagged; None where none are.

        >>> seen, chance = Interval(0.9, 0.8, 0.95), Interval(0.6, 0.5, 0.7)
        >>> Sensitivity(9, seen, seen).is_blind(0.05), Sensitivity(9, chance, None).is_blind()
        (False, True)
        """
        unseen = self.auroc.low <= CHANCE
        return unseen or (self.found is not None and false_alarms is not None and self.found.value <= false_alarms)


def sensitivity(
    clean: ArrayLike,
    painted: ArrayLike,
    images: ArrayLike,
    flagged: ArrayLike | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Sensitivity:
    """AUROC of painted images against clean ones, and the share that is flagged.

    Each painted image is compared with all clean ones but the one that it was painted on, which it mostly exceeds. The
    intervals come from a bootstrap over unpainted images, each drawn with all that was painted on it. That of the AUROC
    comes from the bootstrap's variance, which few images show too small (see `area_interval`).

    Args:
        clean: (m,) scores of normal images, higher = more anomalous; m >= 2.
        painted: (n,) scores of the same images with simulated defects, any number of each; n >= 1.
        images: (n,) which image each was painted on, 0 to m - 1.
        flagged: (n,) whether each is; None without verdicts.
        n_resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        ValueError: lengths that differ, no images, or the number of an image that does not exist.

    Source: Field and Welsh 2007, "Bootstrapping clustered data", section 2.1: clusters are drawn whole.

    >>> found = sensitivity([0, 1, 2], [5, 6, 7, 1], [0, 1, 2, 0], [True, True, True, False])
    >>> found.n, found.auroc.value, found.found.value
    (4, 0.8125, 0.75)
    """
    before, after, of = np.asarray(clean, float), np.asarray(painted, float), np.asarray(images, int)
    if not len(after) or len(of) != len(after):
        raise ValueError(f"got {len(after)} painted images, and {len(of)} that they were painted on; expected as many")
    if len(before) < 2:
        raise ValueError(
            f"got {len(before)} unpainted images, expected at least 2: each painted one is compared with others"
        )
    if of.min() < 0 or of.max() >= len(before):
        raise ValueError(f"images lie in [{of.min()}, {of.max()}], expected 0 to {len(before) - 1}: rows of clean")
    counts = np.bincount(of, minlength=len(before)).astype(float)
    weights = np.vstack([np.ones(len(before)), _resampled(len(before), n_resamples, seed)])
    n_pairs = _weighted(weights, np.broadcast_to(counts, (len(before),) * 2))
    # A sample in which nothing was painted, or all on one image, says nothing.
    weights, n_pairs = weights[n_pairs > 0], n_pairs[n_pairs > 0]
    areas = _weighted(weights, _pairs_in_order(before, after, of)) / n_pairs
    found = None
    if flagged is not None:
        hits = np.bincount(of, np.asarray(flagged, float), minlength=len(before))
        shares = weights @ hits / (weights @ counts)
        found = percentiles(float(shares[0]), shares[1:])
    area, variance = float(areas[0]), float(areas[1:].var()) if len(areas) > 1 else 0.0
    sizes, trust = (len(before), len(after)), len(before) / (len(before) + _HALF_TRUSTED)
    factor = trust * inflation(area, variance, *sizes) + 1 - trust
    return Sensitivity(len(after), area_interval(area, factor, *sizes), found)


@lru_cache(maxsize=4)
def _resampled(n: int, n_resamples: int, seed: int) -> NDArray[np.int64]:
    """(n_resamples, n) how often each image is drawn: the same for all kinds of defects on the same images."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), n_resamples)


def _weighted(weights: NDArray[np.float64], pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """(b,) sum over pairs of different images, of (m, m) numbers, in samples that draw each so often."""
    apart = pairs * (1 - np.eye(len(pairs)))
    return np.asarray(((weights @ apart) * weights).sum(axis=1))


def _pairs_in_order(
    before: NDArray[np.float64], after: NDArray[np.float64], of: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(m, m) for each image, how many painted on each other one score higher; a tie counts half."""
    higher = (after[None] > before[:, None]) + 0.5 * (after[None] == before[:, None])
    painted_on = np.zeros((len(after), len(before)))
    painted_on[np.arange(len(after)), of] = 1
    return np.asarray(higher @ painted_on)
