"""From the bytes of a file to an upright picture of a plain mode."""

import io
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Plugins by name: Pillow would load all of its own to find those of TIFF, WebP and AVIF.
from PIL import (  # noqa: F401
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from data import png
from data.errors import ImageError
from data.limits import Limits
from data.signatures import reason_of

#: Decoders that hostile bytes may reach; Pillow knows many more.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "PPM", "AVIF")

_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
_WITHOUT_ALPHA = ("P", "RGBX", "CMYK", "YCbCr", "HSV")
_BITS, _SUB_IFDS, _SUBFILE, _DNG = 258, 330, 254, 50706
#: EXIF orientations that swap width and height.
_SWAPPED = (5, 6, 7, 8)
_ORIENTATION = 0x0112


#: Left, upper, right and lower edge in pixels.
Box = tuple[float, float, float, float]


class Header(NamedTuple):
    """What a file says of itself before its pixels are decoded: Pillow's names, and the size of the stored array."""

    format: str
    mode: str
    width_px: int
    height_px: int


def read_header(content: bytes, limits: Limits) -> Header:
    """Format, mode and size, without decoding the pixels.

    Args:
        content: all of a file.
        limits: on pixels and sides.

    Raises:
        ImageError: not an image of a supported format, or too large or too small.
    """
    with _open(_without_ballast(content), limits) as image:
        return Header(image.format or "", image.mode, *image.size)


def decode(
    content: bytes,
    limits: Limits,
    *,
    at_least: tuple[int, int] | None = None,
    value_range: tuple[float, float] | None = None,
) -> tuple[Image.Image, Box | None]:
    """The upright first frame: mode L or RGB (8 bit a channel), or F in [0, 1] (deeper grey images).

    With it the part that is the picture, for `Image.resize`; None is all of it. A JPEG that comes smaller ends within
    its last pixels.

    Transparent parts lie on black, palettes and CMYK become RGB, embedded colour profiles are not applied.

    Args:
        content: all of a file.
        limits: on pixels and sides.
        at_least: width and height that are needed: a larger JPEG may come smaller, but not smaller than that.
        value_range: what becomes 0 and 1 in images of more than 8 bits; see `Preprocessing`.

    Raises:
        ImageError: it cannot be read; the error's ``reason`` says why.
    """
    try:
        content = _without_ballast(content)
        if content.startswith(png.SIGNATURE):
            _check_size(*png.size(content), limits)
            # Pillow is slower, and takes a stream that ends early for a picture with a black rest.
            pixels = png.decode(content)
            if png.is_plain(content):
                return Image.fromarray(pixels), None
            del pixels
        with _open(content, limits) as image:
            box = None
            if at_least is not None and image.format in ("JPEG", "MPO"):
                box = _reduce(image, at_least)
            image.load()
            return _plain(_upright(image), value_range or _own_range(image)), box
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("too_large", "decoding needs too much memory") from error
    except (OSError, SyntaxError, EOFError) as error:
        raise ImageError(_damage(error), str(error)) from error
    except Exception as error:
        # Hostile bytes make decoders raise nearly anything; each costs that one image.
        raise ImageError(_damage(error), f"{type(error).__name__}: {error}") from error


def thumbnail(content: bytes, side_px: int, limits: Limits) -> bytes:
    """A JPEG of the picture, at most that large; see `decode` for errors."""
    picture, _ = decode(content, limits, at_least=(2 * side_px, 2 * side_px))
    if picture.mode == "F":
        picture = Image.fromarray((np.asarray(picture) * 255).round().astype(np.uint8))
    picture.thumbnail((side_px, side_px))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def map_range(values: NDArray[Any], value_range: tuple[float, float] | None) -> NDArray[np.float32]:
    """Deep values brought to [0, 1]: linearly from a range and clipped; None takes them as they are, or else their own.

    Raises:
        ImageError: NaN or infinite.

    >>> map_range(np.array([0, 1024, 9000]), (0, 4096)).tolist()
    [0.0, 0.25, 1.0]
    """
    # Not isfinite of all: that would be another array of this size.
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ImageError("non_finite", "pixels are NaN or infinite")
    if value_range is None:
        if low >= 0 and high <= 1:
            return values.astype(np.float32)
        value_range = (low, high)
    low, high = value_range
    if low == 0:
        return np.clip(values / np.float32(high), 0, 1).astype(np.float32)
    # In 64 bits, for the range of 32-bit floats is twice what they can hold.
    return np.clip((values.astype(np.float64) - low) / (high - low or 1), 0, 1).astype(np.float32)


def _damage(error: Exception) -> str:
    """The reason; decoders tell truncation in words only: Pillow in the first of these, libpng in the others."""
    words = ("truncated", "not enough image data", "too small")
    return "truncated" if any(word in str(error).lower() for word in words) else "unreadable"


def _without_ballast(content: bytes) -> bytes:
    return png.picture_chunks(content) if content.startswith(png.SIGNATURE) else content


def _open(content: bytes, limits: Limits) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise ImageError("too_large", str(error)) from error
    except UnidentifiedImageError as error:
        raise ImageError(reason_of(content), str(error)) from error
    except Exception as error:
        raise ImageError("unreadable", f"{type(error).__name__}: {error}") from error
    try:
        _check(image, content, limits)
    except BaseException:
        image.close()
        raise
    return image


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise ImageError("too_large", f"{width} x {height} px is more than {limits.pixels} pixels")
    if min(width, height) < limits.side_px:
        raise ImageError("too_small", f"{width} x {height} px has a side under {limits.side_px}")


def _check(image: Image.Image, content: bytes, limits: Limits) -> None:
    _check_size(*image.size, limits)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        # Nikon and Sony show a small preview first, and have the picture in a directory of its own.
        is_preview = _SUB_IFDS in tags and tags.get(_SUBFILE) == 1
        if is_preview or _DNG in tags or content[8:10] == b"CR":
            raise ImageError("unsupported", "camera raw is not decoded")


def _reduce(image: Image.Image, at_least: tuple[int, int]) -> Box | None:
    """Let the decoder halve a JPEG up to three times, where it stays large enough; the part that is then the image."""
    width, height = at_least
    orientation = _orientation(image)
    if orientation in _SWAPPED:
        width, height = height, width
    for scale in (8, 4, 2):
        # A part of a block comes out as a whole pixel; where that lies in a turned image, is more than it is worth.
        is_whole = image.width % scale == image.height % scale == 0
        if not is_whole and orientation not in (None, 1):
            continue
        part = (image.width / scale, image.height / scale)
        if part[0] >= width and part[1] >= height:
            image.draft(None, (math.floor(part[0]), math.floor(part[1])))
            return None if is_whole else (0, 0, *part)
    return None


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:
        # As in _upright.
        return None


def _upright(image: Image.Image) -> Image.Image:
    if _orientation(image) in (None, 1):
        return image
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # Broken metadata must not lose an image whose pixels are sound.
        return image


def _own_range(image: Image.Image) -> tuple[float, float] | None:
    """What is black and white in an image of more than 8 bits; None where its type does not say."""
    if image.mode == "F":
        return None
    if image.mode == "I":
        values = np.asarray(image)
        return (0, 65_535) if values.min() >= 0 and values.max() <= 65_535 else None
    # Pillow keeps the values of a 12-bit TIFF as they are.
    bits = image.tag_v2.get(_BITS, (16,)) if isinstance(image, TiffImagePlugin.TiffImageFile) else (16,)
    return (0, 2 ** bits[0] - 1 if 8 < bits[0] <= 16 else 65_535)


def _plain(image: Image.Image, value_range: tuple[float, float] | None) -> Image.Image:
    transparency = image.info.get("transparency")
    if image.mode in ("L", "RGB") and transparency is None:
        return image.copy()
    if image.mode in _DEEP:
        values = np.asarray(image)
        mapped = map_range(values, value_range)
        if image.mode.startswith("I") and isinstance(transparency, int):
            mapped[values == transparency] = 0
        return Image.fromarray(mapped)
    if image.mode in _WITH_ALPHA or transparency is not None:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    if image.mode == "1":
        return image.convert("L")
    if image.mode not in _WITHOUT_ALPHA:
        raise ImageError("unsupported", f"colours of mode {image.mode} are not converted")
    return image.convert("RGB")
