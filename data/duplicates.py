"""Images that are not the same bytes but the same picture: encoded again, or taken twice."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nelbo.data.cache import CachedPixels

#: Root mean square between two pictures' block means, in grey levels of 255, up to which they are the same.
ALIKE_LEVELS = 1.0
#: More images are not compared with each other: the work grows with their square.
MAX_COMPARED = 20_000

_SIDE = 16
_CHUNK = 1024


def near_duplicates(pixels: CachedPixels) -> list[tuple[int, int]]:
    """Pairs of images that look alike, in order; the smaller row number first.

    Compared are means over 16 x 16 blocks, so that noise and compression hardly count. Of more than
    ``MAX_COMPARED`` images the first ones are looked at.

    >>> grey = np.array([10, 90, 10], np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 1), np.uint8)
    >>> near_duplicates(CachedPixels(grey, np.arange(3)))
    [(0, 2)]
    """
    # It takes a second to load.
    from sklearn.neighbors import radius_neighbors_graph

    if not len(pixels):
        return []
    means = np.concatenate(list(_block_means(pixels)))
    near = radius_neighbors_graph(means, ALIKE_LEVELS * math.sqrt(means.shape[1]))
    return sorted((int(one), int(other)) for one, other in zip(*near.nonzero(), strict=True) if one < other)


def _block_means(pixels: CachedPixels) -> Iterator[NDArray[np.float32]]:
    """Of each image, in grey levels of 255, less its whole set's middle: small numbers round less."""
    _, height, width, _ = pixels.shape
    rows, columns = (np.linspace(0, side, min(side, _SIDE), endpoint=False).astype(int) for side in (height, width))
    areas = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))
    for start in range(0, min(len(pixels), MAX_COMPARED), _CHUNK):
        chunk = pixels[start : min(start + _CHUNK, MAX_COMPARED)]
        grey = chunk.mean(axis=3, dtype=np.float32) * (255 / np.iinfo(pixels.dtype).max)
        sums = np.add.reduceat(np.add.reduceat(grey, rows, axis=1), columns, axis=2)
        yield (sums / areas - 127).reshape(len(chunk), -1).astype(np.float32)
