"""What normal parts have in common, by which another is brought to lie as they do; and what was found in a picture."""

import math
from dataclasses import dataclass
from typing import NamedTuple

#: Silhouette and shade, rings about the middle, places on a ring.
RINGS_SHAPE = (2, 16, 180)
#: A crop's sides are multiples of this, and at least twice it: the grid of features.
SIDE_UNIT_PX = 32
#: Lengths that a part can have, in shares of a picture's longer side.
_LEAST, _MOST = 1e-4, 4.0
#: What is found of a part, and in words.
STATUSES = {
    "found": "one part",
    "missing": "no part",
    "several": "several things",
    "size": "a part of another size",
}


class Part(NamedTuple):
    """What was found in one picture.

    status: of `STATUSES`.
    size_z: standard deviations that the area is off the usual one, beyond three of them.
    area: over the usual one; 0 where nothing was found.
    x, y: of its middle, shares of the picture's width and height.
    degrees: that it was turned by, counter-clockwise.
    alike: correlation with the mean of the training parts, at most 1.
    """

    status: str
    size_z: float
    area: float
    x: float
    y: float
    degrees: float
    alike: float


@dataclass(frozen=True)
class Frame:
    """What normal parts have in common, so that another one is brought to lie as they do.

    Args:
        area: median, in shares of the square of a picture's longer side; area_spread: of it, a standard deviation.
        box: left, upper, right and lower edge of the crop about the part's middle, upright; shares of the longer side.
        radius: of the outermost ring that shows how it is turned, a share of the longer side.
        has_axis: whether it is longer than wide, so that its outline says how it lies.
        mean: of the rings of upright parts, 8 bits each as hexadecimal digits; empty where it looks the same from all
            sides, and is not turned.

    Raises:
        ValueError: numbers that cannot be.
    """

    area: float
    area_spread: float
    box: tuple[float, float, float, float]
    radius: float
    has_axis: bool
    mean: str

    def __post_init__(self) -> None:
        # JSON knows no tuples.
        object.__setattr__(self, "box", tuple(self.box))
        left, upper, right, lower = self.box
        areas, lengths = [self.area, self.area_spread], [self.radius, right - left, lower - upper]
        sound = all(_LEAST**2 <= area <= _MOST for area in areas) and all(_LEAST <= one <= _MOST for one in lengths)
        if not sound or max(map(abs, self.box)) > _MOST:
            raise ValueError(
                f"a part's area and its spread are {areas}, radius, width and height {lengths}: expected shares of a "
                f"picture's longer side, from {_LEAST:g} to {_MOST:g}, or of its square"
            )
        if self.mean and len(bytes.fromhex(self.mean)) != math.prod(RINGS_SHAPE):
            raise ValueError(f"the mean of parts has {len(self.mean)} digits, expected {2 * math.prod(RINGS_SHAPE)}")

    def crop_size(self, n_pixels: int) -> tuple[int, int]:
        """(height, width) of the crop, multiples of 32, of so many pixels in all as nearly as can be.

        >>> Frame(0.1, 0.01, (-0.3, -0.1, 0.3, 0.1), 0.3, True, "").crop_size(256 * 256)
        (160, 416)
        """
        left, upper, right, lower = self.box
        aspect = (right - left) / (lower - upper)
        area = n_pixels / SIDE_UNIT_PX**2
        # Rows and columns of units; of those that have the area, the ones that come nearest to the shape.
        sizes = [(rows, max(2, round(area / rows))) for rows in range(2, max(2, int(area / 2)) + 1)]
        rows, columns = min(sizes, key=lambda size: abs(math.log(size[1] / size[0] / aspect)))
        return rows * SIDE_UNIT_PX, columns * SIDE_UNIT_PX

    def scale(self, height: int, width: int) -> float:
        """Pixels of the crop that a picture's longer side would have."""
        left, upper, right, lower = self.box
        return min(width / (right - left), height / (lower - upper))
