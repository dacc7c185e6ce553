"""Outlines of simulated defects: the share of each pixel that a shape covers, however small it is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: The most points along a side of a pixel at which a shape is evaluated.
_MOST_POINTS = 32

Values = NDArray[Any]
#: From two coordinates, in pixels of the original from the middle of the defect, to the share of the shape: 0 to 1.
Shape = Callable[[Values, Values], Values]


class Window(NamedTuple):
    """A rectangle of pixels about a place: rows from ``upper`` to before ``lower``, columns ``left`` to ``right``."""

    upper: int
    lower: int
    left: int
    right: int

    @classmethod
    def about(cls, place: Values, reach: Values, size: tuple[int, ...]) -> "Window":
        """All pixels of an image of this size no farther than `reach` from a place, each as (row, column)."""
        (upper, left) = (int(max(0, np.floor(middle - far))) for middle, far in zip(place, reach, strict=True))
        lower, right = (
            int(min(side, np.ceil(middle + far) + 1)) for middle, far, side in zip(place, reach, size, strict=False)
        )
        return cls(upper, max(lower, upper + 1), left, max(right, left + 1))

    @property
    def height(self) -> int:
        """Rows."""
        return self.lower - self.upper

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """Slices that cut the window from an array of the image."""
        return slice(self.upper, self.lower), slice(self.left, self.right)


def covered(shape: Shape, window: Window, place: Values, scale: Values, thinnest: float) -> NDArray[np.float32]:
    """(rows, columns) share of each pixel of a window that a shape covers.

    Args:
        place: (row, column) of the shape's middle, in pixels of the image.
        scale: (2,) pixels of the image for each pixel of the original, down and across.
        thinnest: width of the shape's thinnest part, in pixels of the original.
    """
    points = [int(np.clip(np.ceil(3 / (step * thinnest)), 1, _MOST_POINTS)) for step in scale]
    starts, stops = (window.upper, window.left), (window.lower, window.right)
    down, across = (
        ((np.arange((stop - start) * n) + 0.5) / n + start - 0.5 - middle) / step
        for start, stop, n, middle, step in zip(starts, stops, points, place, scale, strict=True)
    )
    found = np.broadcast_to(shape(down[:, None], across[None]), (len(down), len(across)))
    return found.reshape(window.height, points[0], window.width, points[1]).mean(axis=(1, 3)).astype(np.float32)


def scratch(length: float, width: float, random: np.random.Generator) -> Shape:
    """A thin line in any direction, a little bent."""
    angle, bend = random.uniform(0, np.pi), random.normal(0, 0.3) / length

    def inside(down: Values, across: Values) -> Values:
        along, off = _turned(down, across, angle)
        return (np.abs(along) <= length / 2) & (np.abs(off - bend * along**2) <= width / 2)

    return inside


def ellipse(length: float, random: np.random.Generator) -> Shape:
    """An ellipse in any direction, longer than wide by up to two thirds."""
    angle, width = random.uniform(0, np.pi), length * random.uniform(0.6, 1)

    def inside(down: Values, across: Values) -> Values:
        along, off = _turned(down, across, angle)
        return np.hypot(along / length, off / width) <= 0.5

    return inside


def blot(length: float, random: np.random.Generator) -> Shape:
    """A blot, densest in the middle, that fades towards an uneven edge."""
    phases, depths = random.uniform(0, 2 * np.pi, 2), random.uniform(0.1, 0.3, 2)

    def inside(down: Values, across: Values) -> Values:
        angle = np.arctan2(down, across)
        edge = 1 + sum(
            depth * np.cos(n * angle + phase) for n, depth, phase in zip((2, 3), depths, phases, strict=True)
        )
        return np.exp(-2 * (np.hypot(down, across) / (edge * length / 2)) ** 2)

    return inside


def rectangle(length: float, random: np.random.Generator) -> Shape:
    """A rectangle, upright or lying, at least half as wide as long."""
    sides = random.permutation([length, length * random.uniform(0.5, 1)]) / 2

    def inside(down: Values, across: Values) -> Values:
        return (np.abs(down) <= sides[0]) & (np.abs(across) <= sides[1])

    return inside


def _turned(down: Values, across: Values, angle: float) -> tuple[Values, Values]:
    sine, cosine = np.sin(angle), np.cos(angle)
    return across * cosine + down * sine, down * cosine - across * sine
