"""Whether a picture has colour: what a model of one channel would not see of it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Words for stored modes that hold no colour, whatever the values: Pillow's, of which the manifest's begin with one.
_GREY = frozenset({"1", "L", "LA", "La", "I", "F"})

#: Red, green and blue further apart than that, as a share of the range, are colour: 8 of 255 levels. Measured: grey
#: pictures with noise of 4 levels in each channel stay below 6, raw or as JPEG, from 64 x 64 pixels up.
TOLERANCE = 8 / 255

#: Pixels along a side that are looked at, evenly spread.
LOOKED_AT = 256

#: Places along a side that are compared.
_PLACES = 16


def may_have_colour(mode: str) -> bool:
    """Whether a picture of a stored mode, as a manifest names it, can have colour.

    >>> [mode for mode in ("L", "I;16", "LA;u16", "RGB", "RGB;u16", "P") if may_have_colour(mode)]
    ['RGB', 'RGB;u16', 'P']
    """
    return mode.partition(";")[0] not in _GREY


def is_coloured(values: NDArray[Any]) -> bool:
    """Whether the channels of a picture differ anywhere by more than `TOLERANCE`, on average over a place.

    A place is a 16th of each side, so noise in the channels and what JPEG makes of it cancel out. A picture of one
    colour throughout has colour; one that is grey but stored as RGB has none.

    Args:
        values: (h, w) or (h, w, 1), which have none, or (h, w, 3); integers over the range of their type, or floats in
            [0, 1].

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
    for axis in (0, 1):
        edges = np.linspace(0, values.shape[axis], min(_PLACES, values.shape[axis]) + 1).astype(int)
        sizes = np.expand_dims(np.diff(edges), (1, 2) if axis == 0 else 1)
        values = np.add.reduceat(values, edges[:-1], axis, np.float64) / sizes
    return values
