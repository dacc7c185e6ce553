"""Near-duplicates: pictures of one thing, encoded again, taken twice, or under another light.

They are not independent: what a model says of one, it says of the others.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nelbo.data.cache import CachedPixels

#: Average correlation from which pictures are of one thing. Among MTD tiles, photographed at six exposures each, about
#: one pair in 5,000 of different tiles is as alike, and four in five pairs of one tile are;
#: docs/explanation/verdicts.md says what that does to false alarms.
ALIKE = 1 / 3
#: No more images than this are compared with each other: the work grows with their square.
MAX_COMPARED = 10_000

_SIDE = 32
#: Standard deviation, in the small picture's pixels, of the blur whose result counts as light and is subtracted.
_SMOOTH = 2.0
#: Difference of grey levels in [0, 1] that noise alone makes.
_NOISE = 2 / 255
#: One direction per this many images is common to a kind of product, as the bars of solar cells are; ten at most.
_IMAGES_A_DIRECTION, _MOST_DIRECTIONS = 100, 10
_CHUNK = 1024

Pictures = NDArray[np.float32]


def near_duplicates(pixels: CachedPixels) -> list[int]:
    """The number of the group of each image: images of one group look alike beyond what all images have in common.

    It compares small pictures without their light and without what is the same in all images, and whitens them:
    neither brightness, nor the outline of a product, nor smoothness makes images alike. Average linkage makes the
    groups. It is cut at a correlation of ``ALIKE``, or higher if unrelated images correlate more: at what no pair of so
    many images is expected to reach by chance. Images after the first ``MAX_COMPARED`` are each a group of their own.

    Args:
        pixels: (n, h, w, c) images of one size.

    Returns:
        (n,) numbers; the first image of each group comes before that of the next.

    Source: Bell and Sejnowski 1997, "The independent components of natural scenes are edge filters", for whitening by
    the spectrum; Sokal and Michener 1958 for average linkage.

    >>> random = np.random.default_rng(0)
    >>> things = random.integers(0, 120, (3, 32, 32, 1), np.uint8)
    >>> near_duplicates(CachedPixels(np.concatenate([things, 2 * things[:2]]), np.arange(5)))
    [0, 1, 2, 0, 1]
    """
    # They take a second to load.
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    n = min(len(pixels), MAX_COMPARED)
    if n < 2:
        return list(range(len(pixels)))
    alike = _correlations(_without_common(_whitened(np.concatenate(list(_unlit(pixels, n))))))
    tree = linkage(squareform(1 - alike, checks=False), "average")
    found = fcluster(tree, 1 - max(ALIKE, _by_chance(alike)), "distance")
    # The tree numbers the groups in an order of its own.
    number: dict[int, int] = {}
    numbers = [number.setdefault(group, len(number)) for group in found.tolist()]
    return numbers + list(range(len(number), len(number) + len(pixels) - n))


def _unlit(pixels: CachedPixels, n: int) -> Iterator[Pictures]:
    """(m, 32, 32) grey pictures less the mean around each pixel, in units of the variation there."""
    from scipy.ndimage import gaussian_filter

    _, height, width, _ = pixels.shape
    rows, columns = (np.linspace(0, side, min(side, _SIDE), endpoint=False).astype(int) for side in (height, width))
    areas = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))
    for start in range(0, n, _CHUNK):
        chunk = pixels[start : min(start + _CHUNK, n)]
        sums = np.add.reduceat(np.add.reduceat(chunk, rows, axis=1, dtype=np.float32), columns, axis=2)
        small = sums.mean(axis=3) / (areas * np.iinfo(pixels.dtype).max)
        detail = small - gaussian_filter(small, (0, _SMOOTH, _SMOOTH))
        contrast = np.sqrt(gaussian_filter(detail**2, (0, 2 * _SMOOTH, 2 * _SMOOTH)))
        yield (detail / (contrast + _NOISE)).astype(np.float32)


def _whitened(pictures: Pictures) -> Pictures:
    """(n, p) the pictures less their mean, with all frequencies equally strong over all pictures."""
    waves = np.fft.rfft2(pictures - pictures.mean(axis=0))
    strength = np.sqrt(np.mean(np.abs(waves) ** 2, axis=0))
    # Frequencies that are hardly there are noise.
    waves /= np.maximum(strength, max(0.05 * float(strength.max()), 1e-6))
    return np.fft.irfft2(waves, s=pictures.shape[1:]).reshape(len(pictures), -1).astype(np.float32)


def _without_common(rows: Pictures) -> Pictures:
    """The rows without the directions in which they vary most."""
    n_common = min(len(rows) // _IMAGES_A_DIRECTION, _MOST_DIRECTIONS)
    if not n_common:
        return rows
    _, directions = np.linalg.eigh(rows.T @ rows)
    common = directions[:, -n_common:]
    return rows - (rows @ common) @ common.T


def _correlations(rows: Pictures) -> Pictures:
    """(n, n) cosines; a picture with nothing of its own is like no other."""
    units = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    # Rounding gives identical pictures more than 1.
    found = np.clip(units @ units.T, -1, 1)
    np.fill_diagonal(found, 1)
    return found


def _by_chance(correlations: Pictures) -> float:
    """The expected highest of so many correlations, if they were normal with the spread of their lower half.

    Near-duplicates are in the upper half.
    """
    from scipy.stats import norm

    pairs = correlations[np.triu_indices(len(correlations), 1)]
    low, middle = np.quantile(pairs, [norm.cdf(-1), 0.5])
    return float(middle + norm.isf(1 / max(2, len(pairs))) * (middle - low))
