"""What normal parts have in common, by which another part is aligned with them; and what was found in a picture."""

import math
from dataclasses import dataclass
from typing import NamedTuple

#: Silhouette and shade, rings about the middle, places on a ring.
RINGS_SHAPE = (2, 16, 180)
#: A crop's sides are multiples of this, and at least twice it: the grid of features.
SIDE_UNIT_PX = 32
#: Lengths that a part can have, in shares of a picture's longer side.
_LEAST, _MOST = 1e-4, 4.0
#: What may be found in a picture, and its description.
STATUSES = {
    "found": "one part",
    "missing": "no part",
    "several": "several things",
    "size": "a part of another size",
}


class Part(NamedTuple):
    """What was found in one picture.

    status: one of `STATUSES`.
    size_z: how far the area is off the usual one, in standard deviations beyond three.
    area: over the usual one; 0 where nothing was found.
    x, y: of its middle, shares of the picture's width and height.
    degrees: by which it was turned counter-clockwise to lie upright.
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
    """What normal parts have in common, by which another part is aligned with them.

    Args:
        area: median, in shares of the square of a picture's longer side; area_spread: its standard deviation.
        box: left, upper, right and lower edge of the crop about the part's middle, upright; shares of the longer side.
        radius: of the outermost ring that shows how a part is turned, a share of the longer side.
        has_axis: whether parts are longer than wide, so that the outline shows how one lies.
        mean: of the rings of upright parts, 8 bits each as hexadecimal digits; empty where parts look the same from all
            sides, and are not turned.

    Raises:
        ValueError: numbers are out of range, or the mean has another length.
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
        """(height, width) of the crop: multiples of 32, with `n_pixels` in all as nearly as can be.

        >>> Frame(0.1, 0.01, (-0.3, -0.1, 0.3, 0.1), 0.3, True, "").crop_size(256 * 256)
        (160, 416)
        """
        left, upper, right, lower = self.box
        aspect = (right - left) / (lower - upper)
        area = n_pixels / SIDE_UNIT_PX**2
        # Rows and columns of units: among those with the area, the ones nearest to the shape.
        sizes = [(rows, max(2, round(area / rows))) for rows in range(2, max(2, int(area / 2)) + 1)]
        rows, columns = min(sizes, key=lambda size: abs(math.log(size[1] / size[0] / aspect)))
        return rows * SIDE_UNIT_PX, columns * SIDE_UNIT_PX

    def scale(self, height: int, width: int) -> float:
        """Pixels of a picture's longer side, where the crop is `height` x `width` pixels."""
        left, upper, right, lower = self.box
        return min(width / (right - left), height / (lower - upper))
