"""Where the part is: one thing before a plain background, by light and colour alone.

The background is a smooth surface, fitted to what lies around; the part is what is far from it, on either side. This
uses no network, and nothing learnt from other pictures.
"""

from functools import lru_cache, reduce
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

#: The most pixels along the longer side of a picture in which parts are found: enough for an angle.
LOOKED_AT_PX = 320
#: What a rival is: another thing of at least this share of the part's area.
RIVAL = 0.2
#: The least distance of the part from the background, in standard deviations of the background.
_FAR = 6.0
#: Shares of the picture: smaller things are dirt, and less background than this counts as none.
_LEAST_AREA, _LEAST_BACKGROUND = 0.0008, 0.05
#: The least noise that is assumed for a background: an eighth of a grey level.
_LEAST_NOISE = 0.0005
#: The standard deviation of a normal distribution over its median absolute deviation.
NORMAL = 1.4826
#: A shadow fades: from pixel to pixel it gets lighter by less than this share of its depth. And a part is bright if it
#: is this share of what stands out.
_SOFT, _LEAST_BRIGHT = 0.2, 0.25
#: How often the background is fitted, and to how many pixels.
_FITS, _POINTS = 2, 1500
_DISC = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))

Values = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Segment(NamedTuple):
    """What was found in a picture.

    mask: (h, w) the part, its holes included; empty if nothing stands out.
    background: (h, w, c) the surface behind it.
    n_rivals: other things of a fifth of its area or more; rivals_area: pixels of theirs.
    touches: whether it reaches the edge of the picture.
    contrast: its median distance from the background, in standard deviations of the background.
    clutter: share of the picture that is neither the part nor plain background.
    """

    mask: Mask
    background: Values
    n_rivals: int = 0
    rivals_area: int = 0
    touches: bool = False
    contrast: float = 0.0
    clutter: float = 0.0

    @property
    def found(self) -> bool:
        """Whether anything stands out."""
        return self.contrast > 0


def segment(values: Values) -> Segment:
    """Find the part.

    Args:
        values: (h, w, c) in [0, 1], some hundred pixels a side.

    >>> values = np.full((60, 80, 1), 0.2, np.float32)
    >>> values[20:40, 30:60] = 0.8
    >>> found = segment(values)
    >>> int(found.mask.sum()), found.n_rivals, found.touches
    (596, 0, False)
    """
    # OpenCV drops the last axis where it has one channel.
    smoothed = cv2.blur(values, (3, 3)).reshape(values.shape)
    basis = _surface_basis(*values.shape[:2])
    around = _border(*values.shape[:2])
    for _ in range(_FITS):
        background = _fitted(smoothed, basis, around)
        off = smoothed - background
        distance = farthest(np.abs(off))
        noise = _spread(distance[around])
        far = distance > max(_otsu(distance), _FAR * noise)
        # The next surface is fitted to all that is not the part, which is more than the border.
        around = cv2.dilate(far.astype(np.uint8), _DISC, iterations=2) == 0
        if around.mean() < _LEAST_BACKGROUND:
            return Segment(np.zeros_like(far), background)
    return _largest(_without_shadow(far, off), distance / noise, background)


def farthest(off: NDArray[Any]) -> NDArray[Any]:
    """(..., c) -> (...): the largest over channels, several times as fast as NumPy's over a short last axis."""
    return reduce(np.maximum, np.moveaxis(off, -1, 0))


def mean_of(values: NDArray[Any]) -> NDArray[Any]:
    """(..., c) -> (...): the mean over channels, computed the same way."""
    return reduce(np.add, np.moveaxis(values, -1, 0)) / values.shape[-1]


def _without_shadow(far: Mask, off: Values) -> Mask:
    """What stands out, without a shadow: beside a bright part, darker pixels that fade into the background."""
    grey = mean_of(off)
    bright, dark = far & (grey > 0), far & (grey < 0)
    if bright.sum() < _LEAST_BRIGHT * far.sum() or not dark.any():
        return far
    steepness = np.hypot(cv2.Sobel(grey, -1, 1, 0, scale=1 / 8), cv2.Sobel(grey, -1, 0, 1, scale=1 / 8))
    outline = dark & (cv2.erode(far.astype(np.uint8), _DISC) == 0)
    if not outline.any():
        return far
    fades = middle(steepness[outline]) < _SOFT * middle(-grey[dark])
    return bright if fades else far


def _largest(far: Mask, contrast: NDArray[Any], background: Values) -> Segment:
    closed = cv2.morphologyEx(far.astype(np.uint8), cv2.MORPH_CLOSE, _DISC)
    n, labels, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if n == 1 or areas.max() < _LEAST_AREA * far.size:
        return Segment(np.zeros_like(far), background)
    largest = int(areas.argmax())
    mask = _filled(labels == 1 + largest)
    others = np.delete(areas, largest)
    rivals = others[others >= RIVAL * areas[largest]]
    touches = bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
    around = cv2.dilate(mask.astype(np.uint8), _DISC, iterations=2) == 0
    clutter = float((around & (contrast > _FAR)).mean())
    return Segment(mask, background, len(rivals), int(rivals.sum()), touches, middle(contrast[mask]), clutter)


def _filled(mask: Mask) -> Mask:
    """The mask without holes: everything that cannot be reached from the edge through the background."""
    outside = cv2.copyMakeBorder((~mask).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    cv2.floodFill(outside, None, (0, 0), 2)
    return np.asarray(outside[1:-1, 1:-1] != 2)


@lru_cache(maxsize=8)
def _border(height: int, width: int) -> Mask:
    margin = max(2, round(height / 64))
    inside = np.zeros((height, width), bool)
    inside[margin:-margin, margin:-margin] = True
    return ~inside


@lru_cache(maxsize=8)
def _surface_basis(height: int, width: int) -> NDArray[np.float32]:
    """(h, w, 6): a quadratic surface, for light that falls off."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).astype(np.float32)


def _fitted(values: Values, basis: NDArray[np.float32], where: Mask) -> Values:
    """The surface through most of the values there: values far from it are left out, repeatedly."""
    places = np.flatnonzero(where)
    # Some thousand pixels say as much as all.
    places = places[:: max(1, len(places) // _POINTS)]
    points = basis.reshape(-1, basis.shape[-1])[places].astype(np.float64)
    seen = values.reshape(-1, values.shape[2])[places].astype(np.float64)
    off = farthest(np.abs(seen - [middle(channel) for channel in seen.T]))
    for _ in range(2):
        kept = off <= 3 * _spread(off)
        chosen = points[kept]
        # A small ridge: all points may lie at one side of the picture.
        square = chosen.T @ chosen + 1e-6 * len(chosen) * np.eye(chosen.shape[1])
        solution = np.linalg.solve(square, chosen.T @ seen[kept])
        off = farthest(np.abs(seen - points @ solution))
    return basis @ solution.astype(np.float32)


def _spread(distances: NDArray[Any]) -> float:
    """A robust standard deviation, which half of the distances do not affect."""
    return max(NORMAL * middle(distances), _LEAST_NOISE)


def middle(values: NDArray[Any]) -> float:
    """The upper median of some of the values: NumPy's median takes most of the time that there is for a picture."""
    some = values[:: max(1, len(values) // _POINTS)]
    return float(np.partition(some, len(some) // 2)[len(some) // 2])


def _otsu(values: NDArray[Any]) -> float:
    """The level that parts two groups of values best (Otsu 1979)."""
    top = float(values.max())
    if top < _LEAST_NOISE:
        return top
    level, _ = cv2.threshold((values * (255 / top)).astype(np.uint8), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return (level + 1) * top / 255
