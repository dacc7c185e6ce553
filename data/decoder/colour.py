"""Whether a picture has colour, which a model of one channel would not see."""

from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Pillow's modes that hold no colour, whatever the values; a mode in a manifest begins with one of Pillow's.
_GREY = frozenset({"1", "L", "LA", "La", "I", "F"})

#: Red, green and blue further apart than this share of the range are colour: 8 of 255 levels. Measured: grey
#: pictures with noise of 4 levels in each channel stay below 6, raw or as JPEG, from 64 x 64 pixels up.
TOLERANCE = 8 / 255

#: Pixels along a side that are looked at, evenly spread.
LOOKED_AT = 256

#: Places along a side that are compared.
_PLACES = 16


def may_have_colour(mode: str) -> bool:
    """Whether a picture of a stored `mode`, as a manifest names it, can have colour.

    >>> [mode for mode in ("L", "I;16", "LA;u16", "RGB", "RGB;u16", "P") if may_have_colour(mode)]
    ['RGB', 'RGB;u16', 'P']
    """
    return mode.partition(";")[0] not in _GREY


def is_coloured(values: NDArray[Any]) -> bool:
    """Whether the channels of a picture differ anywhere by more than `TOLERANCE`, on average over a place.

    A place is a 16th of each side, so noise in the channels and what JPEG makes of it cancel out. A picture of one
    colour throughout has colour; one that is grey but stored as RGB has none.

    Args:
        values: (h, w) or (h, w, 1), which have no colour, or (h, w, 3); integers over the range of their type, or
            floats in [0, 1].

    >>> grey, red = np.full((20, 30, 3), 90, np.uint8), np.zeros((20, 30, 3), np.uint8) + np.uint8([200, 0, 0])
    >>> is_coloured(grey), is_coloured(red), is_coloured(red / 255), is_coloured(red[..., 0])
    (False, True, True, False)
    """
    if values.shape[2:] != (3,):
        return False
    rows, columns = (max(1, side // LOOKED_AT) for side in values.shape[:2])
    white = np.iinfo(values.dtype).max if np.issubdtype(values.dtype, np.integer) else 1
    return bool(np.ptp(_means(values[::rows, ::columns]), axis=2).max() / white > TOLERANCE)


def _means(values: NDArray[Any]) -> NDArray[np.float64]:
    """(h, w, c) as the means over at most 16 x 16 places."""
    height, width, n_channels = values.shape
    down, across = _places(height), _places(width)
    # Sums of 8 bits are exact in 32, and a product of matrices takes half the time of sums over slices.
    rows = values.reshape(height, -1).astype(np.float32 if values.dtype == np.uint8 else np.float64)
    sums = across @ (down.astype(rows.dtype) @ rows).reshape(len(down), width, n_channels).astype(np.float64)
    return np.asarray(sums / np.outer(down.sum(axis=1), across.sum(axis=1))[..., None])


@lru_cache(maxsize=16)
def _places(n: int) -> NDArray[np.float64]:
    """(places, n) 1 where a pixel of a line of n lies in a place."""
    edges = np.linspace(0, n, min(_PLACES, n) + 1).astype(int)
    return np.array([(start <= np.arange(n)) & (np.arange(n) < end) for start, end in pairwise(edges)], np.float64)
