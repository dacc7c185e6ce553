"""Other images that are as normal as those given, and copies with a defect, for training only."""

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]

#: Sides of a simulated defect, as shares of the image's.
_SMALLEST, _LARGEST = 0.05, 0.35


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


def with_defects(images: Images, share: float, random: np.random.Generator) -> Images:
    """Copies, of which a share carries one simulated local defect each.

    A defect is a rectangle or an ellipse with sides of 5 to 35 % of the image's, filled with one grey level, with
    noise, or with another place of the same image.

    Args:
        images: (n, h, w, c) in [0, 1].
        share: probability that an image gets a defect.
        random: where the choices come from.

    Returns:
        (n, h, w, c) in [0, 1].

    Source: random rectangles lose little to defects made from further images (Zavrtanik et al. 2021, "DRAEM",
    ablation); pasting from the same image is that of Li et al. 2021, "CutPaste".

    >>> grey = np.full((50, 16, 16, 1), 0.5, np.float32)
    >>> broken = with_defects(grey, 1.0, np.random.default_rng(0))
    >>> bool(((broken != grey).mean(axis=(1, 2, 3)) < 0.25).all())
    True
    """
    broken = images.copy()
    for image, chosen in zip(broken, random.random(len(images)) < share, strict=True):
        if chosen:
            _break(image, random)
    return broken


def _break(image: Images, random: np.random.Generator) -> None:
    """Put a defect into (h, w, c), in place."""
    shape = np.array(image.shape[:2])
    size = np.maximum(1, np.rint(shape * random.uniform(_SMALLEST, _LARGEST, 2))).astype(int)
    top, left = random.integers(0, shape - size + 1)
    place = image[top : top + size[0], left : left + size[1]]
    filling = random.integers(3)
    if filling == 0:
        content = np.broadcast_to(random.random(image.shape[2], np.float32), place.shape)
    elif filling == 1:
        content = random.random(place.shape, np.float32)
    else:
        y, x = random.integers(0, shape - size + 1)
        content = image[y : y + size[0], x : x + size[1]].copy()
    if random.random() < 0.5:
        place[...] = content
        return
    rows, columns = (2 * (np.arange(n) + 0.5) / n - 1 for n in size)
    inside = rows[:, None] ** 2 + columns**2 <= 1
    place[inside] = content[inside]
