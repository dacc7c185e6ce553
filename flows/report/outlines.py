"""Where an image is unusual, as a line around it: the picture inside stays as it is."""

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nelbo.flows.inference.why.spots import EDGE
from nelbo.flows.report.heatmap import enlarged

#: Place on the colour scale from which on an image is unusual: 19 of 20 normal images of a calibration stay below.
MIDDLE = 0.5
#: Longer side of the picture that lines are followed on, the least one of a place on it, and how far lines may be
#: off, in pixels.
_FOLLOWED_PX, _LEAST_PX, _OFF_PX = 512, 3, 0.8
#: Of the two lines, in pixels: a dark one, and a light one on it, so that one of them shows on any picture.
_DARK, _LIGHT = (0, 0, 0), (255, 255, 255)
_DARK_PX, _LIGHT_PX = 3, 1

#: (k, 2) corners from the left and the top, in shares of width and height.
Polygon = NDArray[np.float64]


def outline(levels: NDArray[np.floating]) -> list[Polygon]:
    """Lines around the places of a map that are beyond the middle of its scale.

    Where no place is twice as high, they are around all that is at least half as high as the highest one: the spots
    that `nelbo.flows.inference.why` speaks of.

    Args:
        levels: (gh, gw) places on the colour scale, not cut off at its top; 0 is usual.

    Returns:
        A line for each connected place, and for each hole in one.

    >>> levels = np.zeros((4, 8))
    >>> levels[1, 6] = 0.4
    >>> (polygon,) = outline(levels)
    >>> polygon.mean(axis=0).round(2).tolist(), (polygon.max(axis=0) - polygon.min(axis=0)).round(2).tolist()
    ([0.81, 0.38], [0.12, 0.25])
    """
    levels = np.maximum(levels, 0)
    times = max(_LEAST_PX, round(_FOLLOWED_PX / max(levels.shape)))
    size = np.array(levels.shape[::-1]) * times
    inside = enlarged(levels, (size[0], size[1])) >= min(MIDDLE, EDGE * levels.max())
    lines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    # Corners are middles of pixels.
    return [(cv2.approxPolyDP(line, _OFF_PX, closed=True)[:, 0] + 0.5) / size for line in lines]


def drawn(picture: Image.Image, polygons: Iterable[Polygon]) -> Image.Image:
    """A picture in colour with these lines on it.

    >>> picture = drawn(Image.new("L", (9, 9), 128), [np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])])
    >>> picture.getpixel((0, 4)), picture.getpixel((1, 4)), picture.getpixel((4, 4))
    ((255, 255, 255), (0, 0, 0), (128, 128, 128))
    """
    canvas = np.array(picture.convert("RGB"))
    last = np.array(picture.size) - 1
    lines = [(polygon * last).round().astype(np.int32) for polygon in polygons]
    for colour, thickness in ((_DARK, _DARK_PX), (_LIGHT, _LIGHT_PX)):
        cv2.polylines(canvas, lines, isClosed=True, color=colour, thickness=thickness)
    return Image.fromarray(canvas)


def svg_path(polygons: Iterable[Polygon]) -> str:
    """The same as the ``d`` of an SVG path, in thousandths of width and height.

    >>> svg_path([np.array([[0.25, 0.5], [1.0, 0.5], [1.0, 1.0]])])
    'M250 500L1000 500L1000 1000Z'
    """
    return "".join(
        "M" + "L".join(f"{x} {y}" for x, y in (1000 * polygon).round().astype(int).tolist()) + "Z"
        for polygon in polygons
    )
