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


class Axis(NamedTuple):
    """Tiles along one side of an image.

    origins: (t,) the first pixel of each.
    cells: (n, t g) share of each position of each tile in each cell of the image's map; rows sum to 1.
    """

    origins: tuple[int, ...]
    cells: NDArray[np.float64]


@lru_cache(maxsize=64)
def axis(length: int, tile: int, overlap: int) -> Axis:
    """Tiles along a side of so many pixels.

    Args:
        length: at least a tile.
        tile: pixels of one, a multiple of what a position covers.
        overlap: pixels that neighbours share at least.

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


class Grid(NamedTuple):
    """The tiles of one image: those of the first row first."""

    rows: Axis
    columns: Axis

    @classmethod
    def of(cls, shape: tuple[int, ...], tile: int, overlap: int) -> "Grid":
        """Of an image of (height, width, ...) pixels."""
        return cls(axis(shape[0], tile, overlap), axis(shape[1], tile, overlap))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.rows.origins) * len(self.columns.origins)

    @property
    def origins(self) -> list[tuple[int, int]]:
        """The upper left pixel of each tile: its row and its column."""
        return [(top, left) for top in self.rows.origins for left in self.columns.origins]

    @property
    def shape(self) -> tuple[int, int]:
        """(gh, gw) of the image's map."""
        return len(self.rows.cells), len(self.columns.cells)

    def stitched(self, maps: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """What tiles say at their positions, (t, g, g), as one map of the image, (gh, gw)."""
        t, side = len(self.rows.origins), maps.shape[-1]
        laid = maps.reshape(t, -1, side, side).transpose(0, 2, 1, 3).reshape(t * side, -1)
        return np.asarray(self.rows.cells @ laid.astype(np.float64) @ self.columns.cells.T)


class Cut:
    """The tiles of an image, cut as they are read: (t, tile, tile, c) float32 in [0, 1].

    Args:
        levels: (rows, columns), or with 3 channels behind; floats in [0, 1], or whole numbers over their type's range.
        grid: of the image.
        tile: pixels of a side.
        channels: that they have, 1 or 3; an image without colours has the same in all.
    """

    def __init__(self, levels: NDArray[Any], grid: Grid, tile: int, channels: int) -> None:
        self._levels, self._origins = levels, grid.origins
        self.shape, self.dtype = (len(grid), tile, tile, channels), np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self._origins)

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Some tiles, one after the other."""
        _, side, _, channels = self.shape
        some = [self._levels[top : top + side, left : left + side] for top, left in self._origins[rows]]
        values = to_unit(np.stack(some))
        values = values if values.ndim == 4 else values[..., None]
        return values if values.shape[-1] == channels else np.repeat(values, channels, axis=-1)
