"""The area of each picture that a model looks at: a crop, without what a mask ignores."""

import base64
import binascii
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: The most rows and columns of a stored mask, and the most bytes of its compressed text.
MOST_SIDE, MOST_BYTES = 2048, 1 << 20
#: How far the shape of a picture may differ from the mask's: both were rounded to whole pixels.
OFF = 0.02
#: Rows, columns, and the bits of a mask, compressed and as text.
Kept = tuple[int, int, str]
#: Left, upper, right and lower edge.
Box = tuple[float, float, float, float]


#: All of a picture.
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Area:
    """The area of each picture that a model looks at.

    Args:
        crop: left and upper edge, width and height in pixels of the upright picture; None takes all of it.
        image: width and height of the pictures that the crop applies to. Pictures of another size are refused.
        mask: which pixels of the whole picture are ignored, see `nelbo.data.area.looking.kept_mask`; pictures have its
            aspect ratio, and any size. None ignores nothing.

    Raises:
        ValueError: the numbers or the bits of the mask are not valid.

    >>> Area(crop=(8, 0, 4, 4), image=(16, 8)).box
    (0.5, 0.0, 0.75, 0.5)
    """

    crop: tuple[int, int, int, int] | None = None
    image: tuple[int, int] | None = None
    mask: Kept | None = None

    def __post_init__(self) -> None:
        # JSON knows no tuples.
        for name in ("crop", "image", "mask"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if (self.crop is None) != (self.image is None) or self.crop == self.mask is None:
            raise ValueError("an area has a crop of pictures of one size, a mask, or both")
        if self.crop is not None and self.image is not None:
            check_crop(self.crop, self.image)
        if self.mask is not None:
            check_mask(self.mask)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a whole picture that the area fits.

        >>> Area(mask=(1, 2, base64.b64encode(zlib.compress(b"@")).decode())).size
        (2, 1)
        """
        width, height = self.image or (self.mask or (1, 1))[1::-1]
        return width, height

    @property
    def aspect(self) -> float:
        """Width over height of the whole pictures."""
        width, height = self.size
        return width / height

    @property
    def box(self) -> Box:
        """The crop's left, upper, right and lower edge in shares of the picture's width and height."""
        if self.crop is None or self.image is None:
            return WHOLE
        (left, upper, width, height), (all_width, all_height) = self.crop, self.image
        return left / all_width, upper / all_height, (left + width) / all_width, (upper + height) / all_height


def check_crop(crop: Sequence[int], image: Sequence[int]) -> None:
    """Raise a ValueError for a crop that does not lie within pictures of this width and height."""
    numbers = (*crop, *image)
    if len(crop) != 4 or len(image) != 2 or not all(type(one) is int and one >= 0 for one in numbers):
        raise ValueError(f"crop={list(crop)}: expected left and upper edge, width and height in pixels")
    (left, upper, width, height), (all_width, all_height) = crop, image
    if not (0 < width <= all_width - left and 0 < height <= all_height - upper):
        raise ValueError(
            f"crop={list(crop)}: {width} x {height} pixels from {left}, {upper} on do not lie within images of "
            f"{all_width} x {all_height}"
        )


def suits(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two pictures, given by width and height, have the same aspect ratio, up to rounding.

    >>> suits((640, 480), (64, 48)), suits((640, 480), (480, 640))
    (True, False)
    """
    return abs(math.log(size[0] / size[1] * other[1] / other[0])) <= OFF


def check_mask(mask: Sequence[Any]) -> None:
    """Raise a ValueError for a mask that is not valid."""
    if len(mask) != 3 or not all(type(one) is int and 0 < one <= MOST_SIDE for one in mask[:2]):
        raise ValueError(f"a mask has rows and columns, from 1 to {MOST_SIDE}, and bits")
    if not isinstance(mask[2], str) or len(mask[2]) > MOST_BYTES:
        raise ValueError(f"a mask has at most {MOST_BYTES} bytes, compressed: draw it with smoother edges")
    unpacked(mask)


def unpacked(mask: Sequence[Any]) -> bytes:
    """The bits of a mask.

    Raises:
        ValueError: they cannot be read, or the mask has another size.
    """
    rows, columns, text = mask
    n_bytes = -(-rows * columns // 8)
    try:
        # It unpacks no more than that, however much was compressed.
        bits = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), n_bytes + 1)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ValueError(f"the bits of a mask cannot be read ({error})") from error
    if len(bits) != n_bytes:
        raise ValueError(f"a mask of {rows} x {columns} has {len(bits)} bytes of bits, expected {n_bytes}")
    return bits
