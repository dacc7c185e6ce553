"""Which places of a picture count, where a part of it is ignored: the others affect neither learning nor scores."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nelbo.vae_core.config import VAEConfig
from nelbo.vae_core.usual import smoothed_maps

#: Share of a place that may be ignored before the place is.
MOST_IGNORED = 0.5
#: Rows and columns of shares, at most: a bundle holds them.
MOST_OUTSIDE = 256

#: (rows, columns) share of each part of a picture that is ignored.
Outside = NDArray[np.float32]
Ends = Sequence[float] | NDArray[np.floating[Any]]


def seen_in(outside: Outside, rows: tuple[Ends, Ends], columns: tuple[Ends, Ends]) -> NDArray[np.bool_]:
    """Which places count: those of which less than half is ignored.

    Args:
        outside: of the picture.
        rows: where places begin and end, (n,) each, in shares of the picture's height; columns: (m,), of its width.

    Returns:
        (n, m), a place for each of the rows and columns.

    >>> outside = np.float32([[0, 0, 1, 1]])
    >>> seen_in(outside, ([0.0], [1.0]), ([0.0, 0.3, 0.5], [0.5, 0.6, 1.0])).tolist()
    [[True, True, False]]
    """
    down, across = (_covered(*ends, n) for ends, n in zip((rows, columns), outside.shape, strict=True))
    return np.asarray(down @ outside @ across.T < MOST_IGNORED)


def seen_on(outside: Outside, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The same for (gh, gw) places that divide the picture evenly.

    >>> seen_on(np.float32([[1, 0]]), (2, 2)).tolist()
    [[False, True], [False, True]]
    """
    edges = [np.linspace(0, 1, n + 1) for n in shape]
    rows, columns = ((some[:-1], some[1:]) for some in edges)
    return seen_in(outside, rows, columns)


def _covered(starts: Ends, ends: Ends, n: int) -> NDArray[np.float64]:
    """(k, n) share of each of n even parts in each place; rows sum to 1."""
    edges = np.linspace(0, 1, n + 1)
    lows, highs = (np.asarray(some, np.float64)[:, None] for some in (starts, ends))
    shared = np.maximum(0, np.minimum(highs, edges[1:]) - np.maximum(lows, edges[:-1]))
    return np.asarray(shared / shared.sum(axis=1, keepdims=True))


def check_outside(outside: NDArray[Any]) -> None:
    """Raise a ValueError for an array that does not hold shares."""
    sound = outside.ndim == 2 and 0 < min(outside.shape) <= max(outside.shape) <= MOST_OUTSIDE
    if not sound or not ((outside >= 0) & (outside <= 1)).all():
        raise ValueError(
            f"outside has shape {outside.shape}: expected rows and columns, at most {MOST_OUTSIDE}, of shares from 0 "
            "to 1"
        )


class SeenPlaces:
    """The places that a linear head of whole images sees, in one row, (1, k).

    Args:
        outside: of the picture.
        shape: (gh, gw) of all places.

    Raises:
        ValueError: all of them are ignored.
    """

    def __init__(self, outside: Outside, shape: tuple[int, int]) -> None:
        self.seen = seen_on(outside, shape)
        #: (k,) which of all places, counted row by row.
        self.numbers = np.flatnonzero(self.seen)
        if not len(self.numbers):
            raise ValueError("all of the image is ignored. Leave some of it to be seen")

    def smoothing(self, side: int) -> NDArray[np.float32]:
        """(k, k) shares of places in each place of a smoothed map; rows sum to 1.

        >>> SeenPlaces(np.float32([[0, 0, 1]]), (1, 3)).smoothing(3).astype(float).round(2).tolist()
        [[0.67, 0.33], [0.5, 0.5]]
        """
        return _smoothing(self.seen.tobytes(), self.seen.shape, side)


def places_of(config: VAEConfig, outside: Outside | None) -> SeenPlaces | None:
    """The places that a head sees; None where it sees all."""
    grid = config.height // config.stride_px, config.width // config.stride_px
    return None if outside is None else SeenPlaces(outside, grid)


@lru_cache(maxsize=8)
def _smoothing(seen: bytes, shape: tuple[int, int], side: int) -> NDArray[np.float32]:
    found = np.frombuffer(seen, bool).reshape(shape)
    numbers = np.flatnonzero(found)
    maps = np.where(found, np.eye(found.size)[numbers].reshape(-1, *shape), np.nan)
    return np.asarray(smoothed_maps(maps, side).reshape(len(numbers), -1)[:, numbers].T, np.float32)
