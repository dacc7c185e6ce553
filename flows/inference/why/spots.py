"""Where on its map an image is unusual: one spot, several, or nowhere more than elsewhere."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import find_objects, label

from nelbo.data.area.area import WHOLE, Box

#: Places belong to a spot down to this share of the highest excess.
EDGE = 0.5
#: Places that touch, at corners too, are one spot.
TOUCHING = np.ones((3, 3))

Plane = NDArray[np.floating[Any]]


class Spot(NamedTuple):
    """The most unusual part of a map.

    excess: (gh, gw) units above what is usual, 0 outside of the spot.
    x, y: its centre, weighted by the excess; shares of the picture's width and height from the left and the top.
    width, height: of the rectangle around it, shares too.
    n_others: other spots that reach at least half as high.
    """

    excess: Plane
    x: float
    y: float
    width: float
    height: float
    n_others: int

    @property
    def area(self) -> float:
        """Its share of the map."""
        return float((self.excess > 0).mean())


def find_spot(units: Plane) -> Spot:
    """The spot around the highest place of a map, down to half of its height.

    Args:
        units: (gh, gw) how unusual each place is: 0 is usual, NaN where the model does not look.

    >>> spot = find_spot(np.array([[0.0, 0.0, 0.0, 9.0], [0.0, 0.0, 0.0, 3.0], [6.0, 0.0, 0.0, 1.0]]))
    >>> spot.x, round(spot.y, 2), spot.width, spot.area == 1 / 12, spot.n_others
    (0.875, 0.17, 0.25, True, 1)
    """
    excess = np.maximum(np.nan_to_num(units, nan=0.0), 0)
    numbered, n_spots = label(excess >= max(EDGE * excess.max(), np.finfo(float).tiny), TOUCHING)
    if not n_spots:
        # Nothing is above what is usual, so all places are alike.
        excess, numbered, n_spots = np.ones_like(excess), np.ones(excess.shape, int), 1
    own = numbered[np.unravel_index(excess.argmax(), excess.shape)]
    excess = np.where(numbered == own, excess, 0)
    rows, columns = find_objects(numbered)[own - 1]
    height, width = excess.shape
    along_y, along_x = excess.sum(axis=1), excess.sum(axis=0)
    return Spot(
        excess,
        x=float(np.average(np.arange(width) + 0.5, weights=along_x) / width),
        y=float(np.average(np.arange(height) + 0.5, weights=along_y) / height),
        width=(columns.stop - columns.start) / width,
        height=(rows.stop - rows.start) / height,
        n_others=int(n_spots - 1),
    )


def on_grid(values: Plane, shape: tuple[int, ...], box: Box = WHOLE) -> Plane:
    """A map on another grid: means of the places that each cell covers.

    Args:
        values: (gh, gw).
        shape: of the other grid.
        box: left, upper, right and lower edge of what that grid covers, in shares of the map's width and height.

    >>> on_grid(np.array([[1.0, 3.0], [5.0, 7.0]]), (1, 2)).tolist()
    [[3.0, 5.0]]
    """
    height, width = shape
    rows, columns = values.shape
    edges = (box[0] * columns, box[1] * rows, box[2] * columns, box[3] * rows)
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize((width, height), Image.Resampling.BOX, edges))
