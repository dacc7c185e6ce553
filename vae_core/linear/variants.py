"""Where variants of a product lie among features.

Every image has a place: the mean of its features over all positions, projected on the principal components of the
normal images. It belongs to the variant whose centre is the nearest.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nelbo.vae_core.linear.moments import MIN_IMAGES

#: The most principal components that places are projected on.
N_COMPONENTS = 20
#: Deviations from the usual distance to the centre that are not counted.
ALLOWED_Z = 3.0

Places = NDArray[np.float64]


class Variants(NamedTuple):
    """Where variants lie.

    projection: (c, k) mean features -> places along their principal components.
    centres: (v, k).
    usual: (v, 2) median and spread of the logarithm of the distance from the centre.
    """

    projection: Places
    centres: Places
    usual: Places

    def distances(self, means: NDArray[np.floating[Any]]) -> Places:
        """(n, v) from each centre, of (n, c) mean features."""
        places = np.asarray(means, np.float64) @ self.projection
        return np.asarray(np.linalg.norm(places[:, None] - self.centres, axis=-1))

    def beyond(self, distances: Places, variants: NDArray[np.int64]) -> Places:
        """(n,) deviations by which images are farther from their variant than normal ones, beyond `ALLOWED_Z`."""
        median, spread = self.usual[variants].T
        logarithms = np.log(np.maximum(distances, np.finfo(np.float32).tiny))
        return np.maximum(0, (logarithms - median) / spread - ALLOWED_Z)


def numbered(names: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The number of each image's variant, and the variants' names, in their order.

    >>> numbered(["b", "a", "b"])
    (array([1, 0, 1]), ('a', 'b'))
    """
    found, numbers = np.unique(np.asarray(names, str), return_inverse=True)
    return numbers.astype(np.int64), tuple(str(name) for name in found)


class VariantError(ValueError):
    """A variant has too few images."""


def check_variants(variants: NDArray[np.int64], names: Sequence[str], folds: ArrayLike) -> None:
    """Raise a VariantError for a variant of so few images, or images so alike, that nothing can be learnt of it."""
    numbers = np.asarray(folds)
    for number, name in enumerate(names):
        mine = numbers[variants == number]
        if len(mine) < MIN_IMAGES or len(np.unique(mine)) < 2:
            said = f"{len(mine)} images to train on" if len(mine) < MIN_IMAGES else "images of one group only"
            raise VariantError(
                f"variant {name!r} has {said}: expected {MIN_IMAGES} or more, of two groups at least. "
                "Add normal images of it, leave it out, or take variants=1"
            )


def numbered_names(name: str, n: int) -> list[str]:
    """The name, and numbered names for more of the same.

    >>> numbered_names("whitening", 2)
    ['whitening', 'whitening_2']
    """
    return [name, *(f"{name}_{number}" for number in range(2, n + 1))]
