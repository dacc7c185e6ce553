"""What sets a detector's threshold: scores of normal images, for each variant of the product if there are several."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nelbo.detectors.promise import n_needed
from nelbo.detectors.threshold import conformal_threshold
from nelbo.detectors.verdict import p_values

Scores = NDArray[np.float64]


class Calibration(NamedTuple):
    """A rate, and the (n,) scores of normal images that promise it.

    cross: each score is from a model that had not seen the image, and none from the final model.
    variants: (n,) number of each image's variant; None where there is only one.

    >>> scores, variants = np.arange(1.0, 41), np.repeat([0, 1], 20)
    >>> calibration = Calibration(0.1, scores, variants=variants)
    >>> (calibration.levelled(scores, variants) > calibration.threshold).reshape(2, 20).sum(axis=1).tolist()
    [1, 1]
    """

    fpr: float
    scores: Scores
    cross: bool = False
    variants: NDArray[np.int64] | None = None

    @property
    def threshold(self) -> float:
        """Levelled scores above it are anomalous."""
        return conformal_threshold(self.scores, self.fpr)

    @property
    def levels(self) -> dict[Hashable, float]:
        """See `variant_levels`."""
        if self.variants is None:
            return {}
        return variant_levels(
            self.scores,
            self.variants,
            self.threshold,
            lambda scores: conformal_threshold(scores, self.fpr),
            n_needed(self.fpr),
        )

    def levelled(self, scores: Scores, variants: NDArray[Any] | None) -> Scores:
        """Scores to compare with the threshold: less the level of each image's variant."""
        return scores if variants is None else levelled(scores, variants, self.levels)

    def p_values(self, scores: Scores, variants: NDArray[Any] | None) -> NDArray[np.float64]:
        """(n,) p-values of levelled scores, each against the normal images of its own variant."""
        known, own = self.variants, self.levelled(self.scores, self.variants)
        if variants is None or known is None:
            return p_values(scores, own)
        normal = {variant: own[known == variant] for variant in self.levels}
        return variant_p_values(scores, variants, lambda variant: normal.get(variant, own))


def variant_levels(
    scores: Scores, variants: NDArray[Any], common: float, threshold: Callable[[Scores], float], least: int
) -> dict[Hashable, float]:
    """What to subtract from the scores of each variant, so that the common threshold keeps the promise for each.

    Args:
        scores: (n,) of normal images that set the threshold.
        variants: (n,) what variant each image is of.
        common: threshold of all the scores together.
        threshold: gives the threshold of scores.
        least: scores that a threshold needs; a variant with fewer has no level, and is judged with all others.

    Returns:
        Levels by variant; empty where there is only one variant.

    >>> scores, variants = np.array([1.0, 2.0, 3.0, 11.0, 12.0, 13.0]), np.array(["a"] * 3 + ["b"] * 3)
    >>> levels = variant_levels(scores, variants, scores.max(), max, least=3)
    >>> {str(name): float(level) for name, level in levels.items()}
    {'a': -10.0, 'b': 0.0}
    """
    names = np.unique(variants)
    if len(names) < 2:
        return {}
    own = {name: scores[variants == name] for name in names.tolist()}
    return {name: float(threshold(some) - common) for name, some in own.items() if len(some) >= least}


def variant_p_values(scores: Scores, variants: NDArray[Any], against: Callable[[Any], Scores]) -> NDArray[np.float64]:
    """(n,) p-values of scores, each against the normal scores of its image's variant.

    Args:
        scores: (n,) higher = more anomalous.
        variants: (n,) what variant each image is of.
        against: gives the scores of held-out normal images of a variant.

    >>> variant_p_values(np.array([2.0, 2.0]), np.array(["a", "b"]), {"a": [1.0], "b": [3.0]}.get).tolist()
    [0.5, 1.0]
    """
    found = np.empty(len(scores))
    for variant in set(variants.tolist()):
        own = variants == variant
        found[own] = p_values(scores[own], against(variant))
    return found


def levelled(scores: Scores, variants: Iterable[Hashable], levels: Mapping[Any, float]) -> Scores:
    """(n,) scores less the level of each image's variant, unchanged for a variant without a level.

    Args:
        scores: (n,) higher = more anomalous.
        variants: (n,) what variant each image is of.
        levels: of each variant, see `variant_levels`.

    >>> levelled(np.array([1.0, 2.0]), ["a", "b"], {"a": -10.0}).tolist()
    [11.0, 2.0]
    """
    return scores - np.array([levels.get(variant, 0.0) for variant in variants]) if levels else scores
