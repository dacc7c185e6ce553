"""From the bytes of a file to an upright picture."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
from imagecodecs import png_decode

# Plugins are imported by name: Pillow would load all of them to find those for WebP and AVIF.
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
    UnidentifiedImageError,
    WebPImagePlugin,
)

from nelbo.data.decoder import png, tiff
from nelbo.data.decoder.limits import Limits
from nelbo.data.decoder.samples import Box, Picture, Range, Ranges, Samples, extent, is_float, to_picture
from nelbo.data.decoder.signatures import reason_of
from nelbo.data.decoder.tags import SIGNATURES as TIFF_SIGNATURES
from nelbo.data.errors import ImageError

#: The few of Pillow's many decoders that hostile bytes may reach. Other libraries decode PNG pixels and TIFF.
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "GIF", "PPM", "AVIF")

_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_BYTE, _WORD = 255, 65_535
_WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
_WITHOUT_ALPHA = ("P", "RGBX", "CMYK", "YCbCr", "HSV")
#: EXIF orientations that swap width and height.
_SWAPPED = (5, 6, 7, 8)
_ORIENTATION = 0x0112


class Header(NamedTuple):
    """What a file's header says: format and mode in Pillow's words, and the size of the stored array."""

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
    if content.startswith(TIFF_SIGNATURES):
        with _guarded():
            layout = tiff.read_layout(content)
        _check_size(layout.width_px, layout.height_px, limits)
        return Header("TIFF", *layout)
    with _open(_without_ballast(content), limits) as image:
        return Header(image.format or "", image.mode, *image.size)


def decode(
    content: bytes,
    limits: Limits,
    *,
    at_least: tuple[int, int] | None = None,
    ranges: Ranges = Ranges(),  # noqa: B008 - immutable
) -> Picture:
    """The upright first frame.

    Transparent parts are shown on black, palettes and CMYK become RGB, embedded colour profiles are not applied. A JPEG
    decoded at a smaller size may end within its last pixels.

    Args:
        content: all of a file.
        limits: on pixels and sides.
        at_least: width and height that are needed: a larger JPEG may be decoded at a smaller size, but not below this.
        ranges: what becomes 0 and 1 in images of more than 8 bits; see `Preprocessing`.

    Raises:
        ImageError: it cannot be read; the error's ``reason`` says why.
    """
    with _guarded():
        samples = _samples(content, limits)
        if samples is not None:
            return to_picture(samples, ranges)
        with _open(content, limits) as image:
            box, stored = None, image.size
            if at_least is not None and image.format in ("JPEG", "MPO"):
                box = _reduce(image, at_least)
            image.load()
            upright = _upright(image)
            is_swapped = upright is not image and _orientation(image) in _SWAPPED
            return Picture((_plain(upright),), box, stored[::-1] if is_swapped else stored)


def thumbnail(content: bytes, shown: tuple[int, Range | None], limits: Limits) -> bytes:
    """A JPEG of the picture; see `decode` for errors.

    Args:
        shown: the most pixels of its longer side; and the range for images of more than 8 bits, as in `decode`.
    """
    side_px, value_range = shown
    picture = decode(content, limits, at_least=(2 * side_px, 2 * side_px), ranges=Ranges(value_range)).to_8_bits()
    picture.thumbnail((side_px, side_px))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def small_picture(content: bytes, small: tuple[int, Range | None], limits: Limits) -> tuple[dict[str, Any], bytes]:
    """A small copy of the picture, averaged over areas, as float32 in [0, 1].

    Args:
        small: the most pixels of its longer side; and the range for images of more than 8 bits, as in `decode`.

    Returns:
        ``shape``, (h, w, c), and the values.
    """
    side_px, value_range = small
    picture = decode(content, limits, at_least=(2 * side_px, 2 * side_px), ranges=Ranges(value_range))
    factor = min(1.0, side_px / max(picture.values.shape[:2]))
    height, width = picture.values.shape[:2]
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    bands = [np.asarray(band.resize(size, Image.Resampling.BOX, picture.box)) for band in picture.bands]
    values = bands[0] if len(bands) == 1 else np.dstack(bands)
    unit = values / np.float32(255) if values.dtype == np.uint8 else values
    unit = unit if unit.ndim == 3 else unit[..., None]
    return {"shape": unit.shape}, unit.astype(np.float32).tobytes()


def defect_mask(content: bytes, limits: Limits) -> tuple[dict[str, Any], bytes]:
    """Where a mask marks a defect, upright: its ``shape``, (h, w), and a bit for each pixel.

    Defects are the pixels that are at least half white; if there are none, all that are not black, as in masks that
    hold class numbers. In a palette, every colour but black is a defect. The brightest of several channels counts.

    Raises:
        ImageError: see `decode`.
    """
    values = decode(content, limits).values
    brightest = values if values.ndim == 2 else values.max(axis=2)
    is_white = brightest >= (128 if brightest.dtype == np.uint8 else 0.5)
    has_levels = is_white.any() and read_header(content, limits).mode != "P"
    return {"shape": brightest.shape}, np.packbits(is_white if has_levels else brightest > 0).tobytes()


def float_extent(content: bytes, limits: Limits) -> Range | None:
    """The lowest and the highest value of a floating-point picture; None where the type says what black and white are.

    Raises:
        ImageError: see `decode`.
    """
    # Most files are of other types, and their headers say so.
    if not is_float(read_header(content, limits).mode):
        return None
    with _guarded():
        samples = _samples(content, limits)
        return None if samples is None else extent(samples.values)


@contextmanager
def _guarded() -> Iterator[None]:
    """Turn what decoders raise on hostile bytes, which may be anything, into an error of this one image."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("too_large", "decoding needs too much memory") from error
    except Exception as error:
        raise ImageError(_damage(error), f"{type(error).__name__}: {error}") from error


def _samples(content: bytes, limits: Limits) -> Samples | None:
    """Samples of the formats that Pillow would change: TIFF, PNG, and netpbm of more than 8 bits; None for others."""
    if content.startswith(TIFF_SIGNATURES):
        layout = tiff.read_layout(content)
        _check_size(layout.width_px, layout.height_px, limits)
        return tiff.read_samples(content)
    if content.startswith(b"P"):
        with _open(content, limits) as image:
            return _deep_samples(image, content)
    if not content.startswith(png.SIGNATURE):
        return None
    content = png.picture_chunks(content)
    _check_size(*png.size(content), limits)
    # Pillow is slower, keeps 8 bits of 16 in colour, and fills up a stream that ends early with black.
    values = png_decode(content)
    n = values.shape[2] if values.ndim == 3 else 1
    has_alpha = n in (2, 4)
    colours = values[..., : n - has_alpha] if n > 2 else values[..., 0] if n == 2 else values
    orientation = 1
    if png.may_be_turned(content):
        with _open(content, limits) as image:
            orientation = _orientation(image)
    return Samples(
        colours,
        "rgb" if n > 2 else "grey",
        8 * values.itemsize,
        values[..., -1] if has_alpha else None,
        orientation=orientation,
    )


def _deep_samples(image: Image.Image, content: bytes) -> Samples | None:
    """Samples of a netpbm image of more than 8 bits that Pillow opened; None for others."""
    if isinstance(image, PpmImagePlugin.PpmImageFile) and content[:2] == b"P6" and image.tile[0].codec_name == "ppm":
        # Pillow would keep 8 bits of a colour.
        _, (_, _, width, height), start, (_, most) = cast("tuple[str, Box, int, tuple[str, int]]", image.tile[0])
        stored = np.frombuffer(content, ">u2" if most > _BYTE else "u1", int(width * height) * 3, start)
        values = (stored * (_WORD / most)).round().clip(0, _WORD).astype(np.uint16)
        return Samples(values.reshape(int(height), int(width), 3), "rgb", 16)
    if image.mode in _DEEP:
        values = np.asarray(image)
        return Samples(values, "grey", 32) if image.mode == "F" else Samples(values.astype(np.uint16), "grey", 16)
    return None


def _damage(error: Exception) -> str:
    """The reason. Decoders report truncation in words only: two are Pillow's, the others libpng's and NumPy's."""
    words = ("truncated", "not enough image data", "too small", "buffer is smaller")
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
        _check_size(*image.size, limits)
    except BaseException:
        image.close()
        raise
    return image


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise ImageError("too_large", f"{width} x {height} px is more than {limits.pixels} pixels")
    if min(width, height) < limits.side_px:
        raise ImageError("too_small", f"{width} x {height} px has a side under {limits.side_px}")


def _reduce(image: Image.Image, at_least: tuple[int, int]) -> Box | None:
    """Let the decoder halve a JPEG up to three times, if it stays large enough; the box that the image then fills."""
    width, height = at_least
    orientation = _orientation(image)
    if orientation in _SWAPPED:
        width, height = height, width
    for scale in (8, 4, 2):
        # A part of a block comes out as a whole pixel; finding its place in a turned image is not worth it.
        is_whole = image.width % scale == image.height % scale == 0
        if not is_whole and orientation != 1:
            continue
        part = (image.width / scale, image.height / scale)
        if part[0] >= width and part[1] >= height:
            image.draft(None, (math.floor(part[0]), math.floor(part[1])))
            return None if is_whole else (0, 0, *part)
    return None


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION) or 1
    except Exception:
        # As in _upright.
        return 1


def _upright(image: Image.Image) -> Image.Image:
    if _orientation(image) == 1:
        return image
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # Broken metadata must not lose an image whose pixels are sound.
        return image


def _plain(image: Image.Image) -> Image.Image:
    """The image in 8 bits a channel, on black."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        # A copy of a large photograph would take a quarter of a gigabyte; other images may still depend on their file.
        return image if image.format in ("JPEG", "MPO") else image.copy()
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    if image.mode == "1":
        return image.convert("L")
    if image.mode not in _WITHOUT_ALPHA:
        raise ImageError("unsupported", f"colours of mode {image.mode} are not converted")
    return image.convert("RGB")
