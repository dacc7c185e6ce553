"""The numbers behind why an image was flagged."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nelbo.data.looks import look_of
from nelbo.flows.inference.why.looks import Looks
from nelbo.flows.inference.why.spots import Spot, find_spot, on_grid

#: Deviations from which on a difference is worth telling.
TOLD = 3.0
#: How far beyond what is usual a whole image has to be, in shares of the larger end of that, or of its extent.
_MARGIN = 0.05
#: And at least so far: of grey pictures in three channels colour is next to nothing, and its extent too.
_LEAST_ROOM = {"red_green": 0.02, "yellow_blue": 0.02}
#: The whole image is unusual if the mean of its map is so much more unusual than the peak, or the median is such a
#: share of the maximum.
_BY_MEAN, _REACH = 1.15, 0.25

Plane = NDArray[np.floating[Any]]


class Off(NamedTuple):
    """A number of a whole image that lies outside of what is usual for training images."""

    name: str
    value: float
    low: float
    high: float


class Evidence(NamedTuple):
    """What is known of a flagged image.

    peak_z, mean_z: of ``JOINT_PARTS``; None of a model without that statistic.
    size_z, variant_z: deviations beyond what is usual of the part's size and of the variant; 0 where there are none.
    part: what was found of the part, of `data.part.frame.STATUSES`.
    spot: the most unusual part of the map; None where there is no map.
    reach: the map's median as a share of its maximum; 0 where there is no map.
    there: by the names of `data.looks.Look.local`, by how many deviations the spot is off what is usual at that place,
        on average; empty where nothing is known of training images.
    whole: what of the image as a whole is outside of what is usual.
    n_at_least, n_normal: normal images of the calibration that score at least as high, and all of them.
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
        """Whether all of the image is unusual, and not a spot or a few: the mean is, or half of the places are."""
        if self.peak_z is not None and self.mean_z is not None and self.mean_z >= max(0, _BY_MEAN * self.peak_z):
            return True
        # Where no place is above what is usual, the spot is all of the map.
        return self.reach >= _REACH or (self.spot is not None and self.spot.area == 1)


def looked_into(pixels: Plane, units: Plane | None, looks: Looks | None) -> dict[str, Any]:
    """What pixels and map say of an image: the fields ``spot``, ``reach``, ``there`` and ``whole``.

    Args:
        pixels: (h, w, c) in [0, 1], as the model takes them.
        units: (gh, gw) map of how unusual each place is, 0 is usual; None where there is none.
        looks: of its variant's training images, if they are known.
    """
    spot = None if units is None else find_spot(units)
    reach = 0.0 if units is None else float(np.median(units) / max(units.max(), np.finfo(float).tiny))
    there: dict[str, float] = {}
    off: tuple[Off, ...] = ()
    if looks is not None:
        look = look_of(pixels)
        if spot is not None:
            there = {name: _within(cells, spot) for name, cells in looks.deviations(look).items()}
        found = [Off(name, look.whole[name], *ends) for name, ends in looks.whole.items() if name in look.whole]
        off = tuple(one for one in found if _is_off(one))
    return {"spot": spot, "reach": reach, "there": there, "whole": off}


def _is_off(one: Off) -> bool:
    room = max(_MARGIN * max(one.high - one.low, abs(one.low), abs(one.high)), _LEAST_ROOM.get(one.name, 0.0))
    return not one.low - room <= one.value <= one.high + room


def _within(cells: Plane, spot: Spot) -> float:
    """Mean over a spot, where the most unusual places count most."""
    return float(np.average(cells, weights=on_grid(spot.excess, cells.shape)))
