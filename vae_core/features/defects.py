"""Simulated defects, made of nothing but the normal images; for training only."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

Images = NDArray[np.float32]
Mask = NDArray[np.float32]
Size = tuple[int, int]

#: A defect that changes a value by less is not seen as one.
_VISIBLE = 0.03
#: Most shapes that one defect is made of.
_MOST_SHAPES = 2


def with_defects(images: Images, share: float, random: np.random.Generator) -> Images:
    """Copies, of which a share carries one simulated defect each.

    Args:
        images: (n, h, w, c) in [0, 1].
        share: probability that an image gets a defect.
        random: where the choices come from.

    Returns:
        (n, h, w, c) in [0, 1].

    >>> grey = np.full((50, 16, 16, 1), 0.5, np.float32)
    >>> broken = with_defects(grey, 1.0, np.random.default_rng(0))
    >>> broken.shape, bool((broken != grey).any(axis=(1, 2, 3)).mean() > 0.5)
    ((50, 16, 16, 1), True)
    """
    broken = images.copy()
    for row in np.flatnonzero(random.random(len(images)) < share):
        other = images[random.integers(len(images))]
        broken[row], _ = break_image(images[row], other, random)
    return broken


def break_image(image: Images, other: Images, random: np.random.Generator) -> tuple[Images, NDArray[np.bool_]]:
    """A copy with one simulated defect, and where it is.

    A defect is one or two shapes (an ellipse, a rectangle, a crack or a blot), some with soft edges, each filled with a
    place of another image, with its own place made brighter or darker, or with clouds.

    Args:
        image, other: (h, w, c) in [0, 1].
        random: where the choices come from.

    Returns:
        (h, w, c) in [0, 1], and (h, w) whether a pixel is defective.

    Source: Schlueter et al. 2022, "Natural synthetic anomalies for self-supervised anomaly detection and
    localization" (patches of other images that keep the mean of what they cover); Li et al. 2021, "CutPaste" (scars);
    Zavrtanik et al. 2021, "DRAEM" (thresholded noise as a shape).

    >>> grey = np.full((16, 16, 1), 0.5, np.float32)
    >>> broken, where = break_image(grey, grey, np.random.default_rng(1))
    >>> bool(where.any()), bool(((broken != grey).any(axis=-1) >= where).all())
    (True, True)
    """
    broken = image
    defective = np.zeros(image.shape[:2], bool)
    for _ in range(random.integers(1, _MOST_SHAPES + 1)):
        shape = _SHAPES[random.integers(len(_SHAPES))](image.shape[:2], random)
        filling = _FILLINGS[random.integers(len(_FILLINGS))](broken, other, shape, random)
        changed = broken + shape[..., None] * (np.clip(filling, 0, 1) - broken)
        defective |= (np.abs(changed - broken).max(axis=-1) > _VISIBLE) & (shape > 0.3)
        broken = changed
    return broken.astype(np.float32), defective


def _ellipse(size: Size, random: np.random.Generator) -> Mask:
    half = _between(0.02, 0.2, random, 2) * np.sqrt(size[0] * size[1])
    along, across = _turned(size, random)
    radius = np.hypot(along / half[0], across / half[1])
    softness = max(1 / half.min(), random.uniform(0, 0.5))
    return np.clip((1 - radius) / softness + 0.5, 0, 1)


def _rectangle(size: Size, random: np.random.Generator) -> Mask:
    half = _between(0.015, 0.18, random, 2) * np.sqrt(size[0] * size[1])
    rows, columns = (np.arange(n) - random.uniform(0, n) for n in size)
    return np.asarray((np.abs(rows)[:, None] < half[0]) & (np.abs(columns) < half[1]), np.float32)


def _crack(size: Size, random: np.random.Generator) -> Mask:
    """A thin line with a few bends."""
    side = np.sqrt(size[0] * size[1])
    step, width = random.uniform(0.05, 0.25) * side, max(0.7, _between(0.006, 0.03, random) * side)
    rows, columns = np.arange(size[0], dtype=np.float32)[:, None], np.arange(size[1], dtype=np.float32)
    row, column = random.uniform(0, size[0]), random.uniform(0, size[1])
    angle = random.uniform(0, 2 * np.pi)
    crack = np.zeros(size, np.float32)
    for _ in range(random.integers(2, 5)):
        down, right = step * np.sin(angle), step * np.cos(angle)
        share = np.clip(((rows - row) * down + (columns - column) * right) / step**2, 0, 1)
        distance = np.hypot(rows - row - share * down, columns - column - share * right)
        crack = np.maximum(crack, np.clip(width / 2 - distance + 0.5, 0, 1))
        row, column, angle = row + down, column + right, angle + 0.6 * random.normal()
    return crack


def _blot(size: Size, random: np.random.Generator) -> Mask:
    """What stands out from clouds, near one place."""
    clouds = _clouds(size, int(random.integers(3, 9)), random)
    level = np.quantile(clouds, random.uniform(0.9, 0.985))
    along, across = _turned(size, random)
    near = np.hypot(along, across) < random.uniform(0.2, 0.5) * np.sqrt(size[0] * size[1])
    return np.clip((clouds - level) / 0.15, 0, 1) * near


def _patch(image: Images, other: Images, shape: Mask, random: np.random.Generator) -> Images:
    """Another image, moved and mirrored; mostly with the mean of what it covers, as if blended in."""
    patch = np.roll(other, (random.integers(other.shape[0]), random.integers(other.shape[1])), (0, 1))
    for axis in (0, 1):
        if random.random() < 0.5:
            patch = np.flip(patch, axis)
    if random.random() < 0.6:
        weights = shape[..., None] / max(float(shape.sum()), 1e-6)
        patch = patch + (weights * (image - patch)).sum(axis=(0, 1))
    return patch


def _lighter(image: Images, other: Images, shape: Mask, random: np.random.Generator) -> Images:  # noqa: ARG001
    """The image, lighter or darker."""
    return image + np.float32(random.choice([-1, 1]) * _between(0.08, 0.6, random))


def _cloudy(image: Images, other: Images, shape: Mask, random: np.random.Generator) -> Images:  # noqa: ARG001
    n = random.integers(2, max(3, image.shape[0] // 4))
    clouds = _clouds(image.shape[:2], int(n), random)
    return image + np.float32(random.uniform(0.05, 0.25)) * clouds[..., None]


_SHAPES: tuple[Callable[..., Mask], ...] = (_ellipse, _rectangle, _crack, _blot)
_FILLINGS: tuple[Callable[..., Images], ...] = (_patch, _lighter, _cloudy)


def _between(low: float, high: float, random: np.random.Generator, n: int | None = None) -> NDArray[np.float64]:
    """Uniform on a logarithmic scale."""
    return np.exp(random.uniform(np.log(low), np.log(high), n))


def _turned(size: Size, random: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates of all pixels along two axes of any direction, from a place of the image."""
    angle = random.uniform(0, np.pi)
    rows = np.arange(size[0])[:, None] - random.uniform(0, size[0])
    columns = np.arange(size[1]) - random.uniform(0, size[1])
    return columns * np.cos(angle) + rows * np.sin(angle), rows * np.cos(angle) - columns * np.sin(angle)


def _clouds(size: Size, n: int, random: np.random.Generator) -> Mask:
    """Noise of n x n values, enlarged smoothly."""
    noise = random.standard_normal((n, n)).astype(np.float32)
    return zoom(noise, (size[0] / n, size[1] / n), order=1, mode="nearest", grid_mode=True)
