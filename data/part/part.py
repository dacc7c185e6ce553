"""Aligns parts that lie in any way: finds them, turns them upright, crops to one box, and levels the background."""

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nelbo.data.part.frame import Frame, Part
from nelbo.data.part.pose import best_turn, correlation, rings, rings_of, silhouette
from nelbo.data.part.segmentation import LOOKED_AT_PX, Segment, Values, segment

#: Width of the margin around the part that is kept as it is, in shares of the crop's height.
_KEPT = 0.025
#: Sizes count from this many standard deviations on; this many more make a part one of another size.
USUAL, _OTHER = 3.0, 5.0

Matrix = NDArray[np.float64]


class Seen(NamedTuple):
    """A small copy of a picture, and where the part is in it.

    small: (h, w, c) in [0, 1].
    longer: length of the picture's longer side in pixels of the copy, not always a whole number; the copy may end
        within the last pixel.
    """

    small: Values
    segment: Segment
    longer: float


def look(values: NDArray[Any]) -> Seen:
    """Find the part in a small copy of a picture.

    Args:
        values: (h, w) or (h, w, c), uint8, or float32 in [0, 1].
    """
    longer = max(values.shape[:2])
    factor = -(-longer // LOOKED_AT_PX)
    small = _smaller(values, factor)
    unit = np.divide(small, 255, dtype=np.float32) if small.dtype == np.uint8 else small
    unit = unit if unit.ndim == 3 else unit[..., None]
    return Seen(unit, segment(unit), longer / factor)


def crop(values: NDArray[Any], frame: Frame, height: int, width: int) -> tuple[NDArray[Any], Part]:
    """The part of a picture, upright, in a crop of one size, before a level background; and what was found.

    Where nothing is found, the crop is the middle of the picture as it is.

    Args:
        values: (h, w) or (h, w, c), uint8, or float32 in [0, 1].
        height, width: of the crop, in pixels.

    Returns:
        (height, width) or (height, width, c) of the same type.
    """
    seen = look(values)
    part = _part(seen, frame, values.shape)
    longer = max(values.shape[:2])
    matrix = crop_matrix(part, frame, (height, width), values.shape[:2])
    found = _warped(values, matrix, longer / frame.scale(height, width), (width, height))
    if part.status != "missing":
        in_small = _scaled(matrix, seen.longer / longer)
        found = _levelled(found, seen, in_small, part)
    return found, part


def crop_matrix(part: Part, frame: Frame, size: tuple[int, int], shape: tuple[int, ...]) -> Matrix:
    """(2, 3) matrix from a place (u, v, 1) in the crop to (x, y) in the picture, in pixels from the first one's middle.

    Args:
        size: (height, width) of the crop.
        shape: (height, width) of the picture, or of a smaller copy.
    """
    middle = np.array([part.x * shape[1], part.y * shape[0]]) - 0.5
    return _matrix(middle, part.degrees, frame, size, max(shape))


def upright_mask(seen: Seen, middle: tuple[float, float], degrees: float, frame: Frame, size: tuple[int, int]) -> Any:
    """(height, width) booleans: where in the crop the part is.

    Args:
        middle: of the part, in pixels of the small picture.
        degrees: to turn it by, counter-clockwise.
    """
    matrix = _matrix(np.array(middle), degrees, frame, size, seen.longer)
    return _inside(seen, matrix, size) > 0.5


def _matrix(middle: NDArray[Any], degrees: float, frame: Frame, size: tuple[int, int], longer: float) -> Matrix:
    height, width = size
    scale = frame.scale(height, width)
    left, upper, right, lower = frame.box
    # Where the part's middle lies in the crop, in which the box is centred.
    there = np.array([width - 1 - (left + right) * scale, height - 1 - (upper + lower) * scale]) / 2
    turn = np.deg2rad(degrees)
    # Opposite to the turn of the part; rows run downwards.
    step = longer / scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.column_stack([step, middle - step @ there])


def _part(seen: Seen, frame: Frame, shape: tuple[int, ...]) -> Part:
    """What was found in a picture of this shape."""
    shares = [side * seen.longer / max(shape[:2]) for side in shape[:2]]
    found = seen.segment
    if not found.found:
        return Part("missing", _size_z(0.0, frame), 0.0, 0.5, 0.5, 0.0, 0.0)
    outline = silhouette(found.mask)
    degrees, alike = 0.0, 1.0
    if frame.mean:
        own = rings(seen.small, found, outline, frame.radius * seen.longer)
        axis = outline.axis if frame.has_axis else None
        degrees, alike = best_turn(correlation(own, rings_of(frame.mean)), axis)
    usual = frame.area * seen.longer**2
    # Several parts are as far off as if they were one.
    size_z = max(_size_z(area / usual, frame) for area in (outline.area, outline.area + found.rivals_area))
    status = "several" if found.n_rivals else "size" if size_z > _OTHER else "found"
    # As shares of the whole picture, whose last pixels the small copy may lack.
    x, y = (outline.x + 0.5) / shares[1], (outline.y + 0.5) / shares[0]
    return Part(status, size_z, outline.area / usual, x, y, degrees, alike)


def _size_z(area: float, frame: Frame) -> float:
    """How far an area, given over the usual one, is off: in standard deviations beyond three."""
    return max(0.0, abs(area - 1) * frame.area / frame.area_spread - USUAL)


def _smaller(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """The picture averaged over squares of `factor` pixels a side; a remainder at the right or lower edge is cut."""
    if factor == 1:
        return values
    height, width = (max(1, side // factor) for side in values.shape[:2])
    # With a factor that is not whole, this takes ten times as long.
    return cv2.resize(values[: height * factor, : width * factor], (width, height), interpolation=cv2.INTER_AREA)


def _scaled(matrix: Matrix, factor: float) -> Matrix:
    """The same mapping into a picture scaled by a factor; middles of pixels keep their places."""
    scaled = matrix * factor
    scaled[:, 2] += 0.5 * factor - 0.5
    return scaled


def _warped(values: NDArray[Any], matrix: Matrix, step: float, size: tuple[int, int]) -> NDArray[Any]:
    """The crop.

    Args:
        step: width of a pixel of the crop, in pixels of the picture; above 1, these are averaged.
    """
    factor = max(1, int(step / 2))
    scaled = _scaled(matrix, 1 / factor)
    if step <= 1:
        return _turned(values, scaled, size, cv2.INTER_CUBIC)
    # Each pixel in quarters, whose middles lie a quarter of a pixel from its own.
    quarters = scaled / [2, 2, 1]
    quarters[:, 2] -= quarters[:, 0] / 2 + quarters[:, 1] / 2
    width, height = size
    return _smaller(_turned(_smaller(values, factor), quarters, (2 * width, 2 * height), cv2.INTER_LINEAR), 2)


def _turned(values: NDArray[Any], matrix: Matrix, size: tuple[int, int], how: int) -> NDArray[Any]:
    flags = how | cv2.WARP_INVERSE_MAP
    found = cv2.warpAffine(values, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return found if found.dtype == np.uint8 else np.clip(found, 0, 1)


def _inside(seen: Seen, matrix: Matrix, size: tuple[int, int]) -> Any:
    """(height, width) share of the part in each pixel of the crop."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(seen.segment.mask.astype(np.float32), matrix, size[::-1], flags=flags)


def _levelled(values: NDArray[Any], seen: Seen, matrix: Matrix, part: Part) -> NDArray[Any]:
    """The crop with one level around the part: that of the background where the part lies."""
    height, width = values.shape[:2]
    side = 2 * max(1, round(_KEPT * height)) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    share = cv2.blur(cv2.dilate(_inside(seen, matrix, (height, width)), disc), (side, side))
    rows, columns = seen.small.shape[:2]
    level = np.clip(
        seen.segment.background[min(rows - 1, int(part.y * rows)), min(columns - 1, int(part.x * columns))], 0, 1
    )
    white = 255 if values.dtype == np.uint8 else 1
    level = white * (level[0] if values.ndim == 2 else level)
    share = share if values.ndim == 2 else share[..., None]
    mixed = share * values + (1 - share) * level
    return np.rint(mixed).astype(np.uint8) if values.dtype == np.uint8 else mixed.astype(np.float32)
