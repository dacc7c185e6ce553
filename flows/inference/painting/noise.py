"""Images unlike any that a model has learnt: copies of normal ones with noise painted over them."""

import numpy as np
from numpy.typing import NDArray

from nelbo import vae_core

#: Share of height and width that is painted over, in turn: from a spot to the whole image.
_SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
_SEED = 0


def painted(pixels: NDArray[np.float32], likelihood: str) -> NDArray[np.float32]:
    """A copy of each image with black and white noise in a rectangle, which grows over four images to the whole image.

    The noise is 0 and 1, for which every likelihood is defined. The same images are painted alike each time.

    Args:
        pixels: (n, h, w, c) in [0, 1], in the likelihood's support.

    >>> grey = np.full((4, 16, 16, 1), 0.5, np.float32)
    >>> (painted(grey, "gaussian_learned_sigma") != grey).sum(axis=(1, 2, 3)).tolist()
    [4, 16, 64, 256]
    """
    random = np.random.default_rng(_SEED)
    copies = pixels.copy()
    for i, image in enumerate(copies):
        rows, columns = (max(1, round(_SHARES[i % len(_SHARES)] * side)) for side in image.shape[:2])
        top, left = random.integers(image.shape[0] - rows + 1), random.integers(image.shape[1] - columns + 1)
        noise = random.integers(0, 2, (rows, columns, 1)).astype(np.float32)
        image[top : top + rows, left : left + columns] = noise
    return copies[vae_core.supported(copies, likelihood)]
