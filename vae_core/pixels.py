"""Pixels as they come: an array in memory, or whole-number rows of a file."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class PixelRows(Protocol):
    """(n, h, w, c) images, read by row: a NumPy array, a memory map, or anything that acts like one.

    Their type is float (in [0, 1]), uint8 or uint16; the whole range of the latter two means [0, 1].
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        """n."""

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """The images of a slice, or of an array of row numbers."""


def to_unit(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """float32 in [0, 1].

    >>> to_unit(np.array([0, 51, 255], np.uint8)).tolist() == [0.0, np.float32(0.2), 1.0]
    True
    """
    if pixels.dtype.kind != "u":
        return pixels.astype(np.float32, copy=False)
    return (pixels / np.float32(np.iinfo(pixels.dtype).max)).astype(np.float32, copy=False)
