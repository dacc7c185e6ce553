"""Maps of a model that looks at an area of each picture, extended to the whole picture."""

import math

import numpy as np
from numpy.typing import NDArray

from nelbo.data.area.area import WHOLE, Area
from nelbo.data.area.looking import outside
from nelbo.vae_core.seen import seen_on

#: Places on the whole picture for each place of the map, along a side: edges are off by a quarter of one at most.
_FINER = 2
#: Most rows and columns of a map over the whole picture: for a tiny crop, places are wider than `_FINER` says.
MOST_PLACES = 1024


def without_ignored(maps: NDArray[np.floating], area: Area | None) -> NDArray[np.floating]:
    """Maps of an area, NaN at places that are ignored by half or more.

    Args:
        maps: (n, gh, gw) over the area.
        area: that the model looks at; None returns them unchanged.
    """
    if (shares := outside(area)) is None:
        return maps
    # Only the places that training learnt from have values: what is usual elsewhere is not known.
    return np.where(seen_on(shares, (maps.shape[1], maps.shape[2])), maps, np.asarray(np.nan, maps.dtype))


def over_original(maps: NDArray[np.floating], area: Area | None) -> NDArray[np.floating]:
    """Maps over all of the picture; NaN beyond the crop.

    New places are at most half as wide as those of the map, so that none of these is lost. Each takes the value of the
    map's place that its centre lies in.

    Args:
        maps: (n, gh, gw) over the crop; NaN stays.
        area: that the model looks at; None returns them unchanged.

    >>> maps = np.float32([[[1, 2]]])
    >>> over_original(maps, Area(crop=(2, 0, 4, 1), image=(8, 1)))[0, 0].tolist()
    [nan, nan, 1.0, 1.0, 2.0, 2.0, nan, nan]
    """
    if area is None or area.box == WHOLE:
        return maps
    left, upper, right, lower = area.box
    rows, is_row = _places(maps.shape[1], upper, lower)
    columns, is_column = _places(maps.shape[2], left, right)
    return np.where(is_row[:, None] & is_column, maps[:, rows][:, :, columns], np.asarray(np.nan, maps.dtype))


def _places(n: int, start: float, end: float) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """For each place along a side of the picture: which of the map's n it shows, and whether it lies in the crop."""
    n_all = min(MOST_PLACES, math.ceil(_FINER * n / (end - start) - 1e-9))
    at = (np.arange(n_all) + 0.5) / n_all
    inside = (at >= start) & (at < end)
    return ((at - start) / (end - start) * n).clip(0, n - 1).astype(np.intp), inside
