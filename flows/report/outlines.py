"""Lines around the places where an image is unusual; the picture inside stays as it is."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nelbo.data.regions.run_length import thinned
from nelbo.flows.inference.regions.halos import without_halos
from nelbo.flows.inference.why.spots import EDGE

#: Longer side of the picture on which contours are followed, and the least side of a map's place on it, in pixels.
_FOLLOWED_PX, _LEAST_PX = 512, 3
#: How far lines may be off there, in pixels; most lines and corners of an image: a map of pure noise would give
#: thousands.
_OFF_PX, _LINES, _CORNERS = 0.8, 30, 300
#: Colours and widths, in pixels, of a dark line and a light line on it, so that one of them shows on any picture.
_DARK, _LIGHT = (0, 0, 0), (255, 255, 255)
_DARK_PX, _LIGHT_PX = 3, 1

#: (k, 2) corners from the left and the top, in shares of width and height.
Polygon = NDArray[np.float64]


def outline(levels: NDArray[np.floating], region_level: float | None = None) -> list[Polygon]:
    """Lines around all places of a map that exceed a level without their halos: the image's regions.

    Without a level they surround places that are at least half as unusual as the most unusual one: the spots of
    `nelbo.flows.inference.why`.

    Args:
        levels: (gh, gw) how unusual each place is, not clipped; 0 is usual, and so are NaN places.
        region_level: on the same scale.

    Returns:
        A line for each connected place, and for each hole in one. If there are too many, the line around the most
        unusual place and the largest others are kept.

    >>> levels = np.zeros((4, 8))
    >>> levels[1, 6] = 0.4
    >>> (polygon,) = outline(levels)
    >>> polygon.mean(axis=0).round(2).tolist(), (polygon.max(axis=0) - polygon.min(axis=0)).round(2).tolist()
    ([0.81, 0.38], [0.12, 0.25])
    >>> outline(levels, region_level=0.4)
    []
    """
    levels = np.maximum(np.nan_to_num(levels), 0)
    if region_level is not None:
        levels = without_halos(levels, region_level)
    times = max(_LEAST_PX, round(_FOLLOWED_PX / max(levels.shape)))
    size = np.array(levels.shape[::-1]) * times
    # OpenCV is three times as fast as Pillow, and pages show hundreds of images.
    followed = cv2.resize(levels.astype(np.float32), (int(size[0]), int(size[1])), interpolation=cv2.INTER_LINEAR)
    inside = followed >= EDGE * levels.max() if region_level is None else followed > region_level
    lines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    row, column = ((at + 0.5) * times for at in np.unravel_index(levels.argmax(), levels.shape))
    return _in_shares(
        lines, lambda line: (cv2.pointPolygonTest(line, (column, row), False) >= 0, cv2.contourArea(line)), size
    )


def outline_of_masks(masks: Iterable[str], size: tuple[int, int]) -> list[Polygon]:
    """Lines around the regions of an image, by their masks.

    Args:
        masks: see `nelbo.data.regions.run_length`; invalid ones are skipped.
        size: width and height of the upright image in pixels.

    >>> (polygon,) = outline_of_masks(["321O4"], (4, 3))
    >>> polygon.min(axis=0).round(2).tolist(), polygon.max(axis=0).round(2).tolist()
    ([0.38, 0.17], [0.62, 0.5])
    """
    step = -(-max(size) // _FOLLOWED_PX)
    inside = np.zeros((-(-size[1] // step), -(-size[0] // step)), bool)
    for mask in masks:
        # Another program may have written the file.
        with suppress(ValueError):
            inside |= thinned(mask, size, step)
    lines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return _in_shares(lines, cv2.contourArea, np.array(size) / step)


def _in_shares(
    lines: Sequence[NDArray[np.int32]], weight: Callable[[NDArray[np.int32]], Any], size: NDArray[np.floating]
) -> list[Polygon]:
    """The lines of the largest weight, simplified, in shares of width and height."""
    kept = sorted(lines, key=weight, reverse=True)[:_LINES]
    off_px, corners = _OFF_PX, _simplified(kept, _OFF_PX)
    while sum(map(len, corners)) > _CORNERS:
        off_px *= 2
        corners = _simplified(kept, off_px)
    # Corners are centres of pixels.
    return [(some + 0.5) / size for some in corners]


def _simplified(lines: Iterable[NDArray[np.int32]], off_px: float) -> list[NDArray[np.int32]]:
    return [cv2.approxPolyDP(line, off_px, closed=True)[:, 0] for line in lines]


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
    """The polygons as the ``d`` of an SVG path, in thousandths of width and height.

    >>> svg_path([np.array([[0.25, 0.5], [1.0, 0.5], [1.0, 1.0]])])
    'M250 500L1000 500L1000 1000Z'
    """
    return "".join(
        "M" + "L".join(f"{x} {y}" for x, y in (1000 * polygon).round().astype(int).tolist()) + "Z"
        for polygon in polygons
    )
