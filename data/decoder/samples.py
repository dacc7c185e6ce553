"""Samples as a file stores them, converted to the picture that a person sees."""

import re
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nelbo.data.errors import ImageError

#: Left, upper, right and lower edge in pixels.
Box = tuple[float, float, float, float]
#: Lower and upper end of the values that become [0, 1].
Range = tuple[float, float]
Space = Literal["grey", "inverted", "rgb", "palette", "cmyk", "ycbcr"]

#: Weights of red, green and blue in grey (ITU-R 601-2), as in Pillow.
LUMA = (0.299, 0.587, 0.114)

#: How an array is turned upright, by EXIF's number: whether it is transposed first, then which axes are reversed.
_UPRIGHT = {
    2: (False, (1,)),
    3: (False, (0, 1)),
    4: (False, (0,)),
    5: (True, ()),
    6: (True, (1,)),
    7: (True, (0, 1)),
    8: (True, (0,)),
}


class Picture(NamedTuple):
    """An upright picture on black.

    bands: one image of mode L, RGB (8 bits a channel) or F (in [0, 1]); or three of mode F, red, green and blue: Pillow
        has no mode for colours of more than 8 bits.
    box: the part that is the picture, for `Image.resize`; None is all of it.
    full: width and height in pixels in the file, if it was decoded at a smaller size.
    """

    bands: tuple[Image.Image, ...]
    box: Box | None = None
    full: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of the upright original."""
        return self.full or self.bands[0].size

    @property
    def values(self) -> NDArray[Any]:
        """(h, w) or (h, w, 3): uint8, or float32 in [0, 1]."""
        bands = [np.asarray(band) for band in self.bands]
        values = bands[0] if len(bands) == 1 else np.dstack(bands)
        if self.box is None:
            return values
        left, upper, right, lower = (round(edge) for edge in self.box)
        return values[upper:lower, left:right]

    def to_8_bits(self) -> Image.Image:
        """One image of mode L or RGB."""
        if self.bands[0].mode != "F":
            return self.bands[0]
        levels = [Image.fromarray((np.asarray(band) * 255).round().astype(np.uint8)) for band in self.bands]
        return levels[0] if len(levels) == 1 else Image.merge("RGB", levels)


class Ranges(NamedTuple):
    """The values that become 0 and 1.

    deep: in images of more than 8 bits, whatever their type; None is the range of the type.
    floats: in floating-point images without a `deep`; None is [0, 1] where all values lie in it, else their own range.
    """

    deep: Range | None = None
    floats: Range | None = None


class Samples(NamedTuple):
    """The samples of a picture, as stored.

    values: (h, w), or (h, w, k) of k colours; integers or floats.
    space: what the values mean; inverted is grey whose 0 is white.
    bits: how many bits of its type a sample uses.
    alpha: (h, w) of the same type, or None.
    is_premultiplied: whether the values have been multiplied by alpha: they are already shown on black.
    orientation: EXIF's number.
    palette: (3, 2 ** bits) uint16, or None.
    """

    values: NDArray[Any]
    space: Space
    bits: int
    alpha: NDArray[Any] | None = None
    is_premultiplied: bool = False
    orientation: int = 1
    palette: NDArray[np.uint16] | None = None

    @property
    def range(self) -> Range | None:
        """From 0 to the largest value of the type, for signed integers too; None for floats: their type has none."""
        kind = self.values.dtype.kind
        return None if kind == "f" else (0, float(2 ** (self.bits - (kind == "i")) - 1))


def to_picture(samples: Samples, ranges: Ranges = Ranges()) -> Picture:  # noqa: B008 - immutable
    """The picture that samples represent.

    Raises:
        ImageError: the samples are ``non_finite``, or their colours are not converted.

    >>> white = Samples(np.full((2, 3), 4095, np.uint16), "grey", bits=12)
    >>> to_picture(white).bands[0].getpixel((0, 0)), to_picture(white, Ranges(deep=(0, 8190))).bands[0].getpixel((0, 0))
    (1.0, 0.5)
    """
    values, alpha = (_upright(part, samples.orientation) for part in (samples.values, samples.alpha))
    samples = samples._replace(values=values, alpha=alpha)
    if samples.space == "palette":
        samples = _looked_up(samples)
    if samples.values.dtype == np.uint8 and samples.bits in (1, 2, 4, 8):
        return Picture((_shallow(samples),))
    return Picture(tuple(Image.fromarray(np.ascontiguousarray(band)) for band in _deep(samples, ranges)))


def map_range(values: NDArray[Any], value_range: Range | None) -> NDArray[np.float32]:
    """Deep values mapped linearly from a range to [0, 1], and clipped.

    Without a range, values that all lie in [0, 1] stay, and others are mapped from their own range.

    Raises:
        ImageError: a value is NaN or infinite.

    >>> map_range(np.array([0, 1024, 9000]), (0, 4096)).tolist()
    [0.0, 0.25, 1.0]
    """
    low, high = value_range or _own_range(values)
    if (low, high) == (0, 1):
        return np.clip(values, 0, 1).astype(np.float32)
    if low == 0:
        return np.clip(values / np.float32(high), 0, 1).astype(np.float32)
    # In 64 bits, for the range of 32-bit floats is twice what they can hold.
    return np.clip((values.astype(np.float64) - low) / (high - low or 1), 0, 1).astype(np.float32)


def is_float(mode: str) -> bool:
    """Whether a picture of a stored `mode`, as a manifest names it, has floats, whose type does not say what white is.

    >>> [mode for mode in ("F", "L", "I;16", "RGB;u16", "RGB;f32", "L;f16") if is_float(mode)]
    ['F', 'RGB;f32', 'L;f16']
    """
    return mode == "F" or mode.partition(";")[2].startswith("f")


def top_of(mode: str) -> float | None:
    """The largest value of the type of a stored mode of more than 8 bits, which becomes white; None for other modes.

    A manifest says ``RGB`` for a PNG with 16 bits a colour, too.

    Args:
        mode: of a stored picture, as a manifest names it.

    >>> [top_of(mode) for mode in ("I;16", "L;i16", "RGB;u12", "I", "L", "RGB;u8", "F", "RGB;f32")]
    [65535.0, 32767.0, 4095.0, 2147483647.0, None, None, None, None]
    """
    found = re.fullmatch(r"\w+;(u|i|)(\d+)B?", "I;i32" if mode == "I" else mode)
    if found is None or int(found[2]) <= 8:
        return None
    return float(2 ** (int(found[2]) - (found[1] == "i")) - 1)


def extent(values: NDArray[Any]) -> Range:
    """The lowest and the highest value.

    Raises:
        ImageError: a value is NaN or infinite.
    """
    # Not isfinite of all values: that would be another array of this size.
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ImageError("non_finite", "pixels are NaN or infinite")
    return low, high


def _own_range(values: NDArray[Any]) -> Range:
    low, high = extent(values)
    return (0, 1) if low >= 0 and high <= 1 else (low, high)


def _upright(values: NDArray[Any] | None, orientation: int) -> Any:
    if values is None or orientation not in _UPRIGHT:
        return values
    is_transposed, reversed_axes = _UPRIGHT[orientation]
    return np.flip(values.swapaxes(0, 1) if is_transposed else values, reversed_axes)


def _looked_up(samples: Samples) -> Samples:
    """Indices replaced by the colours that they stand for, in 8 bits if the palette's colours have 8 bits."""
    palette = samples.palette
    if palette is None:
        raise ImageError("unreadable", "there is no palette for the indices")
    bits = 16
    # TIFF's palettes have 16 bits; some writers fill the upper 8, some repeat them in the lower, some say 0 to 255.
    if palette.max() < 256:
        palette, bits = palette.astype(np.uint8), 8
    elif not (palette & 0xFF).any() or (palette % 257 == 0).all():
        palette, bits = (palette >> 8).astype(np.uint8), 8
    return Samples(palette.T[samples.values], "rgb", bits)


def _shallow(samples: Samples) -> Image.Image:
    """Samples of 8 bits as Pillow converts them."""
    # Without copies where possible: each copy of a large image takes a quarter of a gigabyte.
    values = samples.values if samples.bits == 8 else samples.values * np.uint8(255 // (2**samples.bits - 1))
    if samples.space == "inverted":
        values = 255 - values
    mode = {"cmyk": "CMYK", "ycbcr": "YCbCr", "rgb": "RGB"}.get(samples.space, "L")
    image = Image.frombytes(mode, values.shape[1::-1], np.ascontiguousarray(values))
    image = image if mode in ("L", "RGB") else image.convert("RGB")
    if samples.alpha is None or samples.is_premultiplied:
        return image
    alpha = samples.alpha * np.uint8(255 // (2**samples.bits - 1))
    black = Image.new(image.mode, image.size)
    return Image.composite(image, black, Image.frombytes("L", image.size, alpha.tobytes()))


def _deep(samples: Samples, ranges: Ranges) -> list[NDArray[np.float32]]:
    """Bands in [0, 1]: one of grey, or red, green and blue."""
    values = samples.values
    value_range = samples.range
    if samples.bits > 8:
        value_range = ranges.deep or value_range or ranges.floats
    if value_range is None or values.dtype.kind == "f":
        # All colours share one range; NaN is found whatever the range.
        own = _own_range(values)
        value_range = value_range or own
    bands = [map_range(band, value_range) for band in (np.moveaxis(values, -1, 0) if values.ndim == 3 else [values])]
    if samples.space == "inverted":
        bands = [1 - bands[0]]
    elif samples.space == "cmyk":
        bands = [(1 - ink) * (1 - bands[3]) for ink in bands[:3]]
    elif samples.space not in ("grey", "rgb"):
        raise ImageError("unsupported", f"{samples.space} of {samples.bits} bits is not converted")
    if samples.alpha is not None and not samples.is_premultiplied:
        if samples.range is None and _own_range(samples.alpha) != (0, 1):
            raise ImageError("unsupported", "transparency in floats is not within [0, 1]")
        opacity = map_range(samples.alpha, samples.range or (0, 1))
        bands = [band * opacity for band in bands]
    return bands
