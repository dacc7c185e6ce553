"""How a part lies: middle, angle and size, by which all parts can be aligned.

Middle and axis come from the moments of its silhouette. What they leave open (which end is which; the angle of a part
that is as wide as long) is settled by correlation with the mean of the training parts, on rings about the middle.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nelbo.data.part.frame import RINGS_SHAPE
from nelbo.data.part.segmentation import Mask, Segment, Values, mean_of, middle

#: A part that is longer than wide by this factor has an axis, which its moments settle.
LONG = 1.3
_, RINGS, PLACES = RINGS_SHAPE
#: Correlation with the mean of other parts, below which a part looks the same from all sides.
SETTLED = 0.65
#: A background that is darker does not show how much light there is.
_DARK = 0.1
#: How often parts are aligned with the mean, and the mean is made anew.
_ROUNDS = 3
#: Pixels beyond the picture are 0.
_WARP = cv2.INTER_LINEAR | cv2.WARP_FILL_OUTLIERS

Rings = NDArray[np.float32]


class Silhouette(NamedTuple):
    """A part as its outline shows it; lengths are in pixels of the picture that was looked at.

    x, y: its middle.
    area: pixels, holes included.
    axis: degrees counter-clockwise of its longest extent, in [0, 180).
    elongation: standard deviation along the axis over that across.
    radius: distance of the furthest pixel from the middle.
    """

    x: float
    y: float
    area: float
    axis: float
    elongation: float
    radius: float


def silhouette(mask: Mask) -> Silhouette:
    """Moments of a mask.

    >>> mask = np.zeros((40, 60), bool)
    >>> mask[18:22, 10:50] = True
    >>> found = silhouette(mask)
    >>> found.x, found.y, found.area, round(found.axis), round(found.elongation, 1)
    (29.5, 19.5, 160.0, 0, 10.3)
    """
    moments = cv2.moments(mask.astype(np.uint8), binaryImage=True)
    area = moments["m00"]
    x, y = moments["m10"] / area, moments["m01"] / area
    xx, xy, yy = (moments[name] / area for name in ("mu20", "mu11", "mu02"))
    spread = np.hypot(xx - yy, 2 * xy)
    # Rows run downwards, and angles upwards.
    axis = np.degrees(0.5 * np.arctan2(-2 * xy, xx - yy)) % 180
    elongation = np.sqrt((xx + yy + spread) / max(xx + yy - spread, 1e-9))
    rows, columns = np.nonzero(mask)
    radius = float(np.hypot(columns - x, rows - y).max())
    return Silhouette(x, y, area, float(axis), float(elongation), radius)


def rings(values: Values, found: Segment, outline: Silhouette, radius: float) -> Rings:
    """(2, RINGS, PLACES) silhouette and shade on rings about the middle, less the mean of each ring.

    Args:
        values: (h, w, c) the picture.
        radius: of the outermost ring.
    """
    inside = found.mask.astype(np.float32)
    light = _light(found.background, outline)
    shade = mean_of(values - found.background) / light * inside
    # In units of the part's own contrast: lamps differ.
    shade /= max(middle(np.abs(shade[found.mask])), 1e-6)
    size, centre = (RINGS, PLACES), (outline.x, outline.y)
    # Places run clockwise, since rows run downwards.
    polar = [cv2.warpPolar(one, size, centre, radius, _WARP).T for one in (inside, shade)]
    # Outer rings are longer.
    weights = np.sqrt(np.arange(RINGS) + 0.5)[:, None]
    return np.stack([weights * (one - one.mean(axis=1, keepdims=True)) for one in polar]).astype(np.float32)


def _light(background: Values, outline: Silhouette) -> Any:
    """(h, w) the light over that at the part's middle, as far as the background shows it."""
    grey = mean_of(background)
    here = grey[round(outline.y), round(outline.x)]
    return np.clip(grey / here, 0.5, 2) if here > _DARK else 1.0


def correlation(one: Rings, other: Rings) -> NDArray[np.float32]:
    """(PLACES,) correlation of two parts, the first turned counter-clockwise by 0, 1, 2 and more places; at most 1."""
    products = np.fft.rfft(one) * np.conj(np.fft.rfft(other))
    found = np.fft.irfft(products.sum(axis=(0, 1)), PLACES)
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return (found / max(norm, 1e-9)).astype(np.float32)


def turned(one: Rings, degrees: float) -> Rings:
    """The rings of the same part turned counter-clockwise."""
    return np.roll(one, -round(degrees / 360 * PLACES), axis=-1)


def best_turn(alike: NDArray[np.float32], axis: float | None) -> tuple[float, float]:
    """Degrees to turn a part by counter-clockwise, and how alike it is then.

    Args:
        alike: what `correlation` with the mean gives.
        axis: of the silhouette, which then lies level, one way or the other; None allows any angle.
    """
    if axis is None:
        best = int(alike.argmax())
        before, here, after = (float(alike[(best + step) % PLACES]) for step in (-1, 0, 1))
        # The top of a parabola through three places.
        bend = before - 2 * here + after
        offset = 0.0 if bend >= 0 else 0.5 * (before - after) / bend
        return 360 / PLACES * (best + offset) % 360, here
    ways = [(-axis) % 360, (180 - axis) % 360]
    near = [
        max(float(alike[(round(way / 360 * PLACES) + step) % PLACES]) for step in (-2, -1, 0, 1, 2)) for way in ways
    ]
    which = int(np.argmax(near))
    return ways[which], near[which]


class Learnt(NamedTuple):
    """What training parts have in common.

    mean: (2, RINGS, PLACES) of the upright parts; None where they look the same from all sides.
    has_axis: whether they are long.
    degrees: (n,) by which each is turned.
    """

    mean: Rings | None
    has_axis: bool
    degrees: NDArray[np.float64]


def learn_pose(parts: list[Rings], outlines: list[Silhouette]) -> Learnt:
    """Align parts, and take their mean."""
    has_axis = bool(np.median([one.elongation for one in outlines]) >= LONG)
    axes = [one.axis if has_axis else None for one in outlines]
    first = _most_alike(parts)
    mean = turned(parts[first], best_turn(correlation(parts[first], parts[first]), axes[first])[0])
    turns: list[tuple[float, float]] = []
    for _ in range(_ROUNDS):
        turns = [best_turn(correlation(part, mean), axis) for part, axis in zip(parts, axes, strict=True)]
        mean = np.mean([turned(part, way) for part, (way, _) in zip(parts, turns, strict=True)], axis=0)
    # A part is not compared with a mean that contains it: noise, aligned with itself, would look settled.
    half = [turned(part, way) for part, (way, _) in zip(parts[::2], turns[::2], strict=True)]
    other = np.mean(half, axis=0)
    settled = [best_turn(correlation(part, other), None)[1] for part in parts[1::2]] or [1.0]
    if not has_axis and np.median(settled) < SETTLED:
        return Learnt(None, False, np.zeros(len(parts)))
    return Learnt(mean.astype(np.float32), has_axis, np.array([way for way, _ in turns]))


def _most_alike(parts: list[Rings]) -> int:
    """The part that is most like the others, among the first ones."""
    some = list(range(min(len(parts), 12)))
    scores = [np.mean([correlation(parts[i], parts[j]).max() for j in some if j != i] or [0.0]) for i in some]
    return int(np.argmax(scores))


def digits(mean: Rings) -> str:
    """Rings in 8 bits each, as hexadecimal digits; a common factor is lost, and does not matter."""
    return np.rint(mean * (127 / max(float(np.abs(mean).max()), 1e-9))).astype(np.int8).tobytes().hex()


def rings_of(text: str) -> Rings:
    """The rings that `digits` wrote, up to a common factor."""
    return np.frombuffer(bytes.fromhex(text), np.int8).astype(np.float32).reshape(RINGS_SHAPE)
