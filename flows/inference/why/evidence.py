"""The numbers behind why an image was flagged."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nelbo.data.area.area import WHOLE, Box
from nelbo.data.looks import look_of
from nelbo.flows.inference.why.looks import Looks
from nelbo.flows.inference.why.spots import Spot, find_spot, on_grid

#: Differences of at least so many deviations are told.
TOLD = 3.0
#: How far beyond the usual range a whole image has to be, as a share of its larger end or its width.
_MARGIN = 0.05
#: And at least so far: in grey pictures with three channels, colour and its usual range are next to nothing.
_LEAST_ROOM = {"red_green": 0.02, "yellow_blue": 0.02}
#: The whole image is unusual if the mean of its map is this many times as unusual as the peak, or if the median is at
#: least this share of the maximum.
_BY_MEAN, _REACH = 1.15, 0.25

Plane = NDArray[np.floating[Any]]


class Off(NamedTuple):
    """A number of a whole image that lies outside of the training images' usual range."""

    name: str
    value: float
    low: float
    high: float


class Evidence(NamedTuple):
    """What is known of a flagged image.

    peak_z, mean_z: of ``JOINT_PARTS``; None for a model without that statistic.
    size_z, variant_z: deviations of the part's size and of the variant beyond what is usual; 0 where there are none.
    part: what was found of the part, one of `data.part.frame.STATUSES`.
    spot: the most unusual part of the map; None where there is no map.
    reach: the map's median as a share of its maximum; 0 where there is no map.
    there: by the names of `data.looks.Look.local`, by how many deviations on average the spot differs from what is
        usual at its place; empty where nothing is known of training images.
    whole: numbers of the whole image that lie outside of the usual range.
    n_at_least, n_normal: the number of the calibration's normal images that score at least as high, and of all.
    """

    peak_z: float | None
    mean_z: float | None
    size_z: float
    variant_z: float
    part: str | None
    spot: Spot | None
    reach: float
    there: Mapping[str, float]
    whole: tuple[Off, ...]
    n_at_least: int
    n_normal: int

    @property
    def is_whole(self) -> bool:
        """Whether the whole image is unusual, not only some spots: its map's mean is, or half of its places are."""
        if self.peak_z is not None and self.mean_z is not None and self.mean_z >= max(0, _BY_MEAN * self.peak_z):
            return True
        # Where no place is above what is usual, the spot is all of the map.
        return self.reach >= _REACH or (self.spot is not None and self.spot.area == 1)


def looked_into(pixels: Plane, units: Plane | None, looks: Looks | None, box: Box = WHOLE) -> dict[str, Any]:
    """What an image's pixels and map say of it: the fields ``spot``, ``reach``, ``there`` and ``whole``.

    Args:
        pixels: (h, w, c) in [0, 1], as the model takes them.
        units: (gh, gw) map of how unusual each place is: 0 is usual, NaN where the model does not look; or None.
        looks: of its variant's training images, if they are known.
        box: the part of the map that the pixels show: left, upper, right and lower edge in shares.
    """
    spot = None if units is None else find_spot(units)
    reach = 0.0 if units is None else float(np.nanmedian(units) / max(np.nanmax(units), np.finfo(float).tiny))
    there: dict[str, float] = {}
    off: tuple[Off, ...] = ()
    if looks is not None:
        look = look_of(pixels)
        if spot is not None:
            there = {name: _within(cells, spot, box) for name, cells in looks.deviations(look).items()}
        found = [Off(name, look.whole[name], *ends) for name, ends in looks.whole.items() if name in look.whole]
        off = tuple(one for one in found if _is_off(one))
    return {"spot": spot, "reach": reach, "there": there, "whole": off}


def _is_off(one: Off) -> bool:
    room = max(_MARGIN * max(one.high - one.low, abs(one.low), abs(one.high)), _LEAST_ROOM.get(one.name, 0.0))
    return not one.low - room <= one.value <= one.high + room


def _within(cells: Plane, spot: Spot, box: Box) -> float:
    """Mean over a spot, weighted by how unusual each place is."""
    return float(np.average(cells, weights=on_grid(spot.excess, cells.shape, box)))
