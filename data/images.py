"""From files to pixels: decoding, upright, one colour model, one size."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from data.errors import ImageError
from data.files import open_regular

#: Decoders that hostile bytes may reach; Pillow knows many more.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "PPM")
MAX_PIXELS = 64_000_000
MIN_SIDE_PX = 8

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_AREA = Image.Resampling.BOX
#: Red, green and blue in grey (ITU-R 601-2), as in Pillow.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a model's input; part of the model, because another way gives other scores.

    Args:
        height, width: pixels after resizing with the area filter.
        channels: 1 (grey) or 3 (RGB).
        fit: "stretch" to the size, or keep the aspect ratio and "pad" with black.
        binarize: None, or a level in (0, 1): after resizing, values above it become 1 and all others 0.

    Raises:
        ValueError: a value that is none of these.

    >>> Preprocessing(28, 28, binarize=0.5).to_dict()
    {'height': 28, 'width': 28, 'channels': 1, 'fit': 'stretch', 'binarize': 0.5}
    """

    height: int = 64
    width: int = 64
    channels: int = 1
    fit: str = "stretch"
    binarize: float | None = None

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ValueError(f"image size {self.height} x {self.width}: both must be positive")
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels}: 1 (grey) or 3 (RGB)")
        if self.fit not in ("stretch", "pad"):
            raise ValueError(f"fit={self.fit!r}: 'stretch' or 'pad'")
        if self.binarize is not None and not 0 < self.binarize < 1:
            raise ValueError(f"binarize={self.binarize!r}: a number above 0 and below 1, or None for grey levels")

    @property
    def n_values(self) -> int:
        """Numbers in one image."""
        return self.height * self.width * self.channels

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


class Images(NamedTuple):
    """Decoded images.

    pixels: (n_readable, h, w, c) float32 in [0, 1], of those that could be read, in the order given.
    reasons: for each file given, None or why it has no pixels.
    """

    pixels: NDArray[np.float32]
    reasons: list[str | None]


class Header(NamedTuple):
    """What a file says of itself before its pixels are decoded; the size is that of the stored array."""

    format: str
    width_px: int
    height_px: int


def read_images(
    files: Sequence[Path],
    preprocessing: Preprocessing,
    *,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
) -> Images:
    """Decode and preprocess files on threads (Pillow decodes and resizes without the interpreter's lock).

    A file that cannot be read costs its own row only: it gets a reason instead of pixels.

    Args:
        files: paths.
        preprocessing: size, channels, fit and threshold.
        max_pixels: larger images are not decoded.
        workers: threads; by default one a core.

    >>> read_images([Path("missing.png")], Preprocessing(16, 16)).reasons
    ['unreadable']
    """

    def read(file: Path) -> NDArray[np.float32] | str:
        try:
            return read_image(file, preprocessing, max_pixels)
        except ImageError as error:
            return error.reason

    with ThreadPoolExecutor(workers or os.cpu_count()) as threads:
        results = list(threads.map(read, files))
    pixels = [result for result in results if not isinstance(result, str)]
    shape = (len(pixels), preprocessing.height, preprocessing.width, preprocessing.channels)
    stacked = np.stack(pixels) if pixels else np.empty(shape, np.float32)
    return Images(stacked, [result if isinstance(result, str) else None for result in results])


def read_image(file: Path, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS) -> NDArray[np.float32]:
    """One image as (h, w, c) float32 in [0, 1].

    Raises:
        ImageError: it cannot be read; the error's ``reason`` says why.
    """
    picture = decode(file, max_pixels)
    return _to_pixels(_fit(picture, preprocessing), preprocessing)


def prepare(values: NDArray[Any], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """One image in memory as (h, w, c) float32 in [0, 1]: what `read_image` makes of a PNG with these values.

    There is one difference: of colours with 16 bits a PNG gives Pillow only the upper 8.

    Args:
        values: (rows, columns), or with 1 or 3 channels behind; uint8 or uint16 over their whole range, other numbers
            in [0, 1].
        preprocessing: size, channels, fit and threshold.

    Raises:
        ImageError: values outside [0, 1], or NaN.
        ValueError: another shape.

    >>> prepare(np.full((20, 30), 255, np.uint8), Preprocessing(16, 16, channels=3))[0, 0].tolist()
    [1.0, 1.0, 1.0]
    """
    if values.ndim not in (2, 3) or not values.size or values.shape[2:] not in ((), (1,), (3,)):
        raise ValueError(f"an image has shape {values.shape}: expected (rows, columns), with 1 or 3 channels behind")
    if values.shape[2:] == (1,):
        values = values[..., 0]
    if values.dtype == np.uint8:
        return _to_pixels(_fit(Image.fromarray(values), preprocessing), preprocessing)
    unit = _checked(values, scale=65_535 if values.dtype == np.uint16 else 1)
    if unit.ndim == 2:
        return _to_pixels(_fit(Image.fromarray(unit), preprocessing), preprocessing)
    if preprocessing.channels == 1:
        return prepare(np.clip(unit @ _LUMA, 0, 1), preprocessing)
    # Pillow resizes floats in one channel only.
    grey = replace(preprocessing, channels=1)
    return np.concatenate([prepare(unit[..., channel], grey) for channel in range(3)], axis=2)


def decode(file: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The upright first frame: mode L or RGB (8 bit a channel), or F in [0, 1] (deeper grey images).

    Transparent parts lie on black, palettes and CMYK become RGB, embedded colour profiles are not applied.
    """
    try:
        with open_regular(file) as opened, _open(opened) as image:
            _check_size(image.size, max_pixels)
            image.load()
            return _plain(_upright(image), _white(image))
    except ImageError:
        raise
    except (OSError, SyntaxError, EOFError) as error:
        # Pillow reports truncation in words only.
        reason = "truncated" if "truncated" in str(error).lower() else "unreadable"
        raise ImageError(reason, f"{file}: {error}") from error
    except Exception as error:
        # Hostile bytes make decoders raise nearly anything; each costs that one image.
        raise ImageError("unreadable", f"{file}: {type(error).__name__}: {error}") from error


def read_header(opened: BinaryIO, max_pixels: int = MAX_PIXELS) -> Header:
    """Format and size, without decoding the pixels.

    Raises:
        ImageError: not an image of a supported format, or too large or too small.
    """
    with _open(opened) as image:
        _check_size(image.size, max_pixels)
        return Header(image.format or "", *image.size)


def _open(opened: BinaryIO) -> Image.Image:
    try:
        return Image.open(opened, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too_large", str(error)) from error
    except UnidentifiedImageError as error:
        raise ImageError("not_an_image", str(error)) from error
    except Exception as error:
        raise ImageError("unreadable", f"{type(error).__name__}: {error}") from error


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width} x {height} px is more than {max_pixels} pixels")
    if min(size) < MIN_SIDE_PX:
        raise ImageError("too_small", f"{width} x {height} px has a side under {MIN_SIDE_PX}")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # Broken metadata must not lose an image whose pixels are sound.
        return image


def _white(image: Image.Image) -> int:
    """The value of white in a grey image of more than 8 bits."""
    # Pillow keeps the values of a 12-bit TIFF as they are.
    bits = image.tag_v2.get(258, (16,)) if isinstance(image, TiffImageFile) else (16,)
    return int(2 ** bits[0] - 1) if 8 < bits[0] <= 16 else 65_535


def _plain(image: Image.Image, white: int) -> Image.Image:
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image.copy()
    if image.mode in _SIXTEEN_BIT:
        return Image.fromarray(_checked(np.asarray(image), scale=white))
    if image.mode == "F":
        return Image.fromarray(_checked(np.asarray(image), scale=1))
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image).convert("RGB")
    return image.convert("L" if image.mode == "1" else "RGB")


def _checked(values: NDArray[Any], scale: int) -> NDArray[np.float32]:
    if not np.isfinite(values).all():
        raise ImageError("non_finite", "pixels are NaN or infinite")
    if values.min() < 0 or values.max() > scale:
        raise ImageError("unsupported", f"pixels lie in [{values.min()}, {values.max()}], not [0, {scale}]")
    return (values / np.float32(scale)).astype(np.float32)


def _fit(picture: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    if preprocessing.channels == 1 and picture.mode == "RGB":
        picture = picture.convert("L")
    size = (preprocessing.width, preprocessing.height)
    if preprocessing.fit == "stretch":
        return picture.resize(size, _AREA)
    scale = min(size[0] / picture.width, size[1] / picture.height)
    inner = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    padded = Image.new(picture.mode, size)
    padded.paste(picture.resize(inner, _AREA), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return padded


def _to_pixels(picture: Image.Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    values = np.asarray(picture, np.float32)
    # Averaging in floats can leave [0, 1] by a rounding.
    values = np.clip(values, 0, 1) if picture.mode == "F" else values / np.float32(255)
    if preprocessing.binarize is not None:
        # Compared as float32, so that an 8-bit level that was written as a decimal is not above itself.
        values = (values > np.float32(preprocessing.binarize)).astype(np.float32)
    if values.ndim == 2:
        values = np.repeat(values[..., None], preprocessing.channels, axis=2)
    return values
