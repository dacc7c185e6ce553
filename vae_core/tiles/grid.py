"""Where tiles lie on an image, and how their maps become one map of it.

Tiles lie a fixed step apart, the last one shifted inwards to end at the edge, never padded. What they say is put on
cells that divide the image evenly: a cell is the mean of what covers it, by area.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nelbo.vae_core.config import LINEAR_STRIDE_PX
from nelbo.vae_core.pixels import to_unit
from nelbo.vae_core.seen import Outside, seen_in


class Axis(NamedTuple):
    """Tiles along one side of an image.

    origins: (t,) the first pixel of each.
    cells: (n, t g) share of each position of each tile in each cell of the image's map; rows sum to 1.
    """

    origins: tuple[int, ...]
    cells: NDArray[np.float64]


@lru_cache(maxsize=64)
def axis(length: int, tile: int, overlap: int) -> Axis:
    """Tiles along a side of `length` pixels.

    Args:
        length: at least a tile.
        tile: pixels of one, a multiple of what a position covers.
        overlap: the fewest pixels that neighbours share.

    Raises:
        ValueError: a side shorter than a tile.

    >>> axis(600, 256, 32).origins, axis(256, 256, 32).origins
    ((0, 224, 344), (0,))
    >>> axis(600, 256, 32).cells.sum(axis=1).round(9).tolist() == [1.0] * 19
    True
    """
    if length < tile:
        raise ValueError(f"a side of {length} px is shorter than a tile of {tile} px")
    origins = (*range(0, length - tile, tile - overlap), length - tile)
    edges = np.linspace(0, length, max(1, round(length / LINEAR_STRIDE_PX)) + 1)
    starts = np.add.outer(origins, np.arange(0, tile, LINEAR_STRIDE_PX)).ravel()
    ends = np.minimum(edges[1:, None], starts + LINEAR_STRIDE_PX)
    shared = np.maximum(0, ends - np.maximum(edges[:-1, None], starts))
    return Axis(origins, shared / shared.sum(axis=1, keepdims=True))


class Grid:
    """The tiles of one image: those of the first row first, without those that are ignored.

    Args:
        shape: (height, width, ...) of the image in pixels.
        tile, overlap: see `axis`.
        outside: share of each part of the image that is ignored, see `nelbo.vae_core.seen`; None sees all.

    Raises:
        ValueError: a side shorter than a tile, or all is ignored.
    """

    def __init__(self, shape: tuple[int, ...], tile: int, overlap: int, outside: Outside | None = None) -> None:
        self.rows, self.columns = axis(shape[0], tile, overlap), axis(shape[1], tile, overlap)
        laid = [(top, left) for top in self.rows.origins for left in self.columns.origins]
        side = tile // LINEAR_STRIDE_PX
        #: (t, g, g) which positions count, of all tiles that are there.
        self.seen = np.ones((len(laid), side, side), bool)
        if outside is not None:
            rows, columns = _ends(self.rows.origins, tile, shape[0]), _ends(self.columns.origins, tile, shape[1])
            self.seen = self._cut(seen_in(outside, rows, columns))
        self._kept: NDArray[np.bool_] = np.asarray(self.seen.any(axis=(1, 2)))
        self.seen = self.seen[self._kept]
        if not len(self.seen):
            raise ValueError("all of an image is ignored. Leave some of it to be seen")
        #: The upper left pixel of each tile: its row and its column.
        self.origins = [one for one, is_kept in zip(laid, self._kept, strict=True) if is_kept]

    def __len__(self) -> int:
        """How many tiles there are."""
        return len(self.origins)

    @property
    def shape(self) -> tuple[int, int]:
        """(gh, gw) of the image's map."""
        return len(self.rows.cells), len(self.columns.cells)

    def stitched(self, maps: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """What tiles say at their positions, (t, g, g), as one map of the image, (gh, gw); NaN where none counts."""
        if self.seen.all() and self._kept.all():
            return self._laid(maps)
        with np.errstate(invalid="ignore"):
            return self._laid(np.where(self.seen, maps, 0)) / self._laid(self.seen)

    def _laid(self, maps: NDArray[Any]) -> NDArray[np.float64]:
        """Sums over what lies in each cell, by area; tiles that are left out count as 0."""
        t, side = len(self.rows.origins), maps.shape[-1]
        everywhere = np.zeros((len(self._kept), side, side))
        everywhere[self._kept] = maps
        laid = everywhere.reshape(t, -1, side, side).transpose(0, 2, 1, 3).reshape(t * side, -1)
        return np.asarray(self.rows.cells @ laid @ self.columns.cells.T)

    def _cut(self, laid: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(t, g, g) positions of all tiles, cut from a plane in which the tiles lie side by side."""
        t = len(self.rows.origins)
        side = len(laid) // t
        return laid.reshape(t, side, -1, side).transpose(0, 2, 1, 3).reshape(-1, side, side)


def _ends(origins: tuple[int, ...], tile: int, length: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the positions of all tiles begin and end, in shares of a side of `length` pixels."""
    starts = np.add.outer(origins, np.arange(0, tile, LINEAR_STRIDE_PX)).ravel()
    return starts / length, (starts + LINEAR_STRIDE_PX) / length


class Cut:
    """The tiles of an image, cut as they are read: (t, tile, tile, c) float32 in [0, 1].

    Args:
        levels: (rows, columns) or (rows, columns, 3); floats in [0, 1], or whole numbers over their type's range.
        grid: of the image.
        tile: pixels of a side.
        channels: of the tiles, 1 or 3; an image without colours has the same values in all.
        numbers: of the tiles that are cut; None cuts all.
    """

    def __init__(
        self,
        levels: NDArray[Any],
        grid: Grid,
        tile: int,
        channels: int,
        numbers: NDArray[np.integer[Any]] | None = None,
    ) -> None:
        self._levels = levels
        self._origins = grid.origins if numbers is None else [grid.origins[number] for number in numbers]
        self.shape, self.dtype = (len(self._origins), tile, tile, channels), np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self._origins)

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Some tiles, one after the other."""
        _, side, _, channels = self.shape
        some = [self._levels[top : top + side, left : left + side] for top, left in self._origins[rows]]
        values = to_unit(np.stack(some))
        values = values if values.ndim == 4 else values[..., None]
        return values if values.shape[-1] == channels else np.repeat(values, channels, axis=-1)
