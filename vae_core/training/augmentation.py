"""Other images that are as normal as those given, for training only."""

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]


def mirror_and_shift(images: Images, flip: str, shift_px: int, random: np.random.Generator) -> Images:
    """Each image mirrored with probability 1/2 along each axis that allows it, and shifted by up to `shift_px`.

    Args:
        images: (n, h, w, c).
        flip: "none", "horizontal" (left and right change places), "vertical" or "both".
        shift_px: largest shift along each axis; edges are repeated.
        random: where the choices come from.

    >>> image = np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1)
    >>> flipped = [mirror_and_shift(image, "horizontal", 0, np.random.default_rng(s)).ravel().tolist() for s in (0, 3)]
    >>> sorted(flipped)
    [[0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]]
    """
    images = images.copy()
    for axis, allowed in ((2, ("horizontal", "both")), (1, ("vertical", "both"))):
        if flip in allowed:
            chosen = random.random(len(images)) < 0.5
            images[chosen] = np.flip(images[chosen], axis)
    if shift_px:
        height, width = images.shape[1:3]
        for image, (down, right) in zip(
            images, random.integers(-shift_px, shift_px + 1, (len(images), 2)), strict=True
        ):
            rows = np.clip(np.arange(height) - down, 0, height - 1)
            columns = np.clip(np.arange(width) - right, 0, width - 1)
            image[...] = image[rows[:, None], columns]
    return images
