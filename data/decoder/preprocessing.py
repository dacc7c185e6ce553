"""How an image becomes a model's input: one colour model, one size, numbers in [0, 1]."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nelbo.data.area.area import Area
from nelbo.data.area.looking import applied
from nelbo.data.decoder.colour import LOOKED_AT, is_coloured
from nelbo.data.decoder.images import decode
from nelbo.data.decoder.limits import Limits
from nelbo.data.decoder.samples import LUMA, Box, Picture, Range, Ranges, Samples, to_picture
from nelbo.data.part.frame import Frame, Part

#: Values whose type's whole range means [0, 1].
Levels: TypeAlias = NDArray[np.uint8 | np.uint16]

_AREA = Image.Resampling.BOX
#: A decoder leaves at least this many times the model's size, so that the area filter has something to average.
_SPARE = 2
#: Largest factor before tiles are cut: enlarging an image further shows nothing new.
MOST_SCALE = 4.0
#: Rows of a whole picture that are converted at a time.
_STRIP = 512


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a model's input; part of the model, because other preprocessing gives other scores.

    Args:
        height, width: pixels after resizing with the area filter.
        channels: 1 (grey) or 3 (RGB).
        fit: "stretch" to the size, or keep the aspect ratio and "pad" with black.
        binarize: None, or a level in (0, 1): after resizing, values above it become 1 and all others 0.
        value_range: values that become 0 and 1 in images of more than 8 bits; values beyond are clipped. None takes the
            range of the type, for signed integers its positive half, and for floats `float_range`.
        float_range: the same for floating-point images. Training takes it from its images, so that all are read alike.
            None, as without a model, takes [0, 1] where all values of the image lie in it, else the image's own range,
            which loses its brightness.
        frame: how the part is found, turned upright and cropped to the size; `fit` does not matter then. None takes
            images as they are.
        tile_scale: factor by which an image is resized before it is cut into tiles of the size, see `read_whole`; the
            whole image at the size is then an overview for people. None for models without tiles.
        tile_image: height and width in pixels to which each image is resized instead, where tiles are compared with
            those at the same place.
        area: the area of each image that is looked at; all of the above applies to it. None takes the whole image.

    Raises:
        ValueError: a value is none of these.

    >>> Preprocessing(28, 28, binarize=0.5, value_range=(0, 4095)).to_dict()  # doctest: +NORMALIZE_WHITESPACE
    {'height': 28, 'width': 28, 'channels': 1, 'fit': 'stretch', 'binarize': 0.5, 'value_range': [0, 4095],
    'float_range': None, 'frame': None, 'tile_scale': None, 'tile_image': None, 'area': None}
    """

    height: int = 64
    width: int = 64
    channels: int = 1
    fit: str = "stretch"
    binarize: float | None = None
    value_range: Range | None = None
    float_range: Range | None = None
    frame: Frame | None = None
    tile_scale: float | None = None
    tile_image: tuple[int, int] | None = None
    area: Area | None = None

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ValueError(f"image size {self.height} x {self.width}: both must be positive")
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels}: 1 (grey) or 3 (RGB)")
        if self.fit not in ("stretch", "pad"):
            raise ValueError(f"fit={self.fit!r}: 'stretch' or 'pad'")
        if self.binarize is not None and not 0 < self.binarize < 1:
            raise ValueError(f"binarize={self.binarize!r}: a number above 0 and below 1, or None for grey levels")
        self._check_tiles()
        for name, kind in (("frame", Frame), ("area", Area)):
            if isinstance(fields := getattr(self, name), dict):
                object.__setattr__(self, name, kind(**fields))
        self._check_area()
        for name in ("value_range", "float_range"):
            if getattr(self, name) is not None:
                # JSON knows no tuples.
                object.__setattr__(self, name, tuple(getattr(self, name)))
                low, high = getattr(self, name)
                if not (np.isfinite([low, high]).all() and low < high):
                    raise ValueError(f"{name}={low},{high}: two finite numbers, the lower one first")

    def _check_area(self) -> None:
        if self.area is not None and (self.frame is not None or self.fit != "stretch"):
            raise ValueError("an area of each image is taken as it is: it cannot be combined with a part or fit='pad'")

    def _check_tiles(self) -> None:
        if self.tile_scale is not None and not 0 < self.tile_scale <= MOST_SCALE:
            raise ValueError(f"tile_scale={self.tile_scale!r}: a number above 0 and up to {MOST_SCALE}, or None")
        if self.tile_image is not None:
            object.__setattr__(self, "tile_image", tuple(self.tile_image))
            if not all(least <= side for side, least in zip(self.tile_image, (self.height, self.width), strict=True)):
                raise ValueError(f"tile_image={self.tile_image}: expected height and width of at least one tile")

    @property
    def n_values(self) -> int:
        """Numbers in one image."""
        return self.height * self.width * self.channels

    @property
    def ranges(self) -> Ranges:
        """What becomes 0 and 1 in images of more than 8 bits."""
        return Ranges(self.value_range, self.float_range)

    def part_filled(self, width: float, height: float) -> tuple[int, int, int, int]:
        """Where an upright image of `width` x `height` pixels lies in the input: left, upper, right and lower edge in
        pixels.

        >>> Preprocessing(64, 64, fit="pad").part_filled(200, 100), Preprocessing(64, 64).part_filled(200, 100)
        ((0, 16, 64, 48), (0, 0, 64, 64))
        """
        if self.fit == "stretch":
            return (0, 0, self.width, self.height)
        scale = min(self.width / width, self.height / height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        left, upper = (self.width - inner[0]) // 2, (self.height - inner[1]) // 2
        return (left, upper, left + inner[0], upper + inner[1])

    def scale(self, width: float, height: float) -> tuple[float, float]:
        """Pixels of the input for each pixel of an upright image of `width` x `height` pixels, down and across.

        >>> Preprocessing(64, 64, fit="pad").scale(256, 128), Preprocessing(64, 64).scale(256, 128)
        ((0.25, 0.25), (0.5, 0.25))
        """
        if self.frame is not None:
            step = self.frame.scale(self.height, self.width) / max(width, height)
            return step, step
        if self.area is not None and self.area.crop is not None:
            *_, width, height = self.area.crop
        left, upper, right, lower = self.part_filled(width, height)
        return (lower - upper) / height, (right - left) / width

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON holds them: without tuples."""
        fields: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return fields


class Fitted(NamedTuple):
    """A picture of the model's size, for `to_pixels`.

    bands: one image of mode L, RGB or F, or three of mode F, as in `nelbo.data.decoder.samples.Picture`.
    drops_colour: whether the picture had colour that one channel does not hold.
    part: what was found of the part; None where no part is looked for.
    aspect: width over height of what is seen: of the image if it was stretched, else of the model's input.
    size: width and height of the upright original in pixels.
    overview: bands of the whole image at the same size, if the model looks at an area of it; empty if it sees all.
    """

    bands: tuple[Image.Image, ...]
    drops_colour: bool
    part: Part | None
    aspect: float
    size: tuple[int, int]
    overview: tuple[Image.Image, ...] = ()


def read_picture(content: bytes, preprocessing: Preprocessing, limits: Limits) -> Fitted:
    """The bytes of a file as a picture of the model's size.

    Raises:
        ImageError: it cannot be read; the error's ``reason`` says why.
    """
    at_least: tuple[int, int] | None = (_SPARE * preprocessing.width, _SPARE * preprocessing.height)
    if preprocessing.frame is not None:
        # Both sides, since the longer one is not known yet.
        longer = _SPARE * math.ceil(preprocessing.frame.scale(preprocessing.height, preprocessing.width))
        at_least = (longer, longer)
    if preprocessing.tile_scale is not None or preprocessing.area is not None:
        # An overview must not depend on whether tiles are cut; and an area is given in pixels of the original.
        at_least = None
    picture = decode(content, limits, at_least=at_least, ranges=preprocessing.ranges)
    return fit(look(picture, preprocessing), preprocessing)


def read_whole(content: bytes, preprocessing: Preprocessing, limits: Limits) -> tuple[Fitted, Levels]:
    """The bytes of a file as a picture of the model's size, and at its own resolution, for tiles; decoded once.

    Raises:
        ImageError: it cannot be read; the error's ``reason`` says why.
    """
    seen = look(decode(content, limits, ranges=preprocessing.ranges), preprocessing)
    return fit(seen, preprocessing), whole(seen.picture, preprocessing)


class Looked(NamedTuple):
    """The area of a picture that is looked at; and the whole picture, where that is more."""

    picture: Picture
    beyond: Picture | None = None


def look(picture: Picture, preprocessing: Preprocessing) -> Looked:
    """The area of a picture that is looked at.

    Raises:
        ImageError: ``other_size``, see `Area`.
    """
    if preprocessing.area is None:
        return Looked(picture)
    return Looked(Picture(applied(preprocessing.area, picture.bands)), picture)


def whole(picture: Picture, preprocessing: Preprocessing) -> Levels:
    """A picture resized by `tile_scale`, each side at least as long as a tile's, never padded.

    Returns:
        (rows, columns) or (rows, columns, 3); uint8, or uint16 where there are more than 8 bits. The type's whole
        range means [0, 1].

    >>> whole(picture_of(np.full((2, 6), 7, np.uint8)), Preprocessing(4, 4, tile_scale=1.0)).shape
    (4, 6)
    """
    factor = preprocessing.tile_scale or 1.0
    sides = zip(picture.bands[0].size, (preprocessing.width, preprocessing.height), strict=True)
    width, height = (max(least, round(factor * side)) for side, least in sides)
    if preprocessing.tile_image is not None:
        height, width = preprocessing.tile_image
    bands = picture.bands
    if bands[0].size != (width, height):
        larger = width > bands[0].width or height > bands[0].height
        way = Image.Resampling.BILINEAR if larger else _AREA
        bands = tuple(band.resize((width, height), way) for band in bands)
    is_deep = bands[0].mode == "F"
    colours = (3,) if preprocessing.channels == 3 and (bands[0].mode == "RGB" or len(bands) == 3) else ()
    found: Levels = np.empty((height, width, *colours), np.uint16 if is_deep else np.uint8)
    for top in range(0, height, _STRIP):
        # Strip by strip: the whole picture as floats would take many times its memory.
        box = (0, top, width, min(top + _STRIP, height))
        strip = Picture(tuple(_of_channels(band.crop(box), preprocessing) for band in bands)).values
        if is_deep or preprocessing.binarize is not None:
            unit = to_pixels(strip, preprocessing)[..., : (3 if colours else 1)]
            strip = np.rint(unit * np.float32(np.iinfo(found.dtype).max)).reshape(len(strip), width, *colours)
        found[top : top + _STRIP] = strip
    return found


def fit(looked: Looked, preprocessing: Preprocessing) -> Fitted:
    """A picture resized or cropped to the model's size."""
    picture = looked.picture
    bands, part = _fit(picture, preprocessing)
    shown = looked.beyond or picture
    width, height = shown.box[2:] if shown.box else shown.bands[0].size
    if preprocessing.frame is not None or preprocessing.fit != "stretch":
        width, height = preprocessing.width, preprocessing.height
    drops_colour = preprocessing.channels == 1 and _is_coloured(picture)
    overview = () if looked.beyond is None else _fit(looked.beyond, preprocessing)[0]
    return Fitted(bands, drops_colour, part, width / height, shown.size, overview)


def picture_of(values: NDArray[Any], ranges: Ranges = Ranges()) -> Picture:  # noqa: B008 - immutable
    """An image in memory as a picture.

    Args:
        values: (rows, columns), or with a last axis of 1 or 3 channels; whole numbers or floats.
        ranges: what becomes 0 and 1 in images of more than 8 bits.

    Raises:
        ImageError: a value is NaN or infinite.
        ValueError: the array has a shape or a type that is not supported.
    """
    if values.ndim not in (2, 3) or not values.size or values.shape[2:] not in ((), (1,), (3,)):
        raise ValueError(
            f"an image has shape {values.shape}: expected (rows, columns), or with a last axis of 1 or 3 channels"
        )
    if values.dtype.kind not in "uif":
        raise ValueError(f"an image has type {values.dtype}: expected whole numbers, such as uint8, or floats")
    values = values[..., 0] if values.shape[2:] == (1,) else values
    return to_picture(Samples(values, "grey" if values.ndim == 2 else "rgb", 8 * values.itemsize), ranges)


def to_pixels(values: NDArray[Any], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """The values of a picture of the model's size as (h, w, c) float32 in [0, 1].

    Args:
        values: (h, w) or (h, w, 3), uint8, or float32 in [0, 1].
        preprocessing: channels and threshold.

    >>> to_pixels(np.full((2, 2), 51, np.uint8), Preprocessing(2, 2, channels=3))[0, 0].tolist()
    [0.20000000298023224, 0.20000000298023224, 0.20000000298023224]
    """
    # Averages of floats can leave [0, 1] by a rounding error.
    unit = np.divide(values, 255, dtype=np.float32) if values.dtype == np.uint8 else np.clip(values, 0, 1)
    if unit.ndim == 3 and preprocessing.channels == 1:
        unit = np.clip(unit @ np.array(LUMA, np.float32), 0, 1)
    if preprocessing.binarize is not None:
        # Compared as float32, so that an 8-bit level written as a decimal number is not above itself.
        unit = (unit > np.float32(preprocessing.binarize)).astype(np.float32)
    if unit.ndim == 3:
        return unit
    return unit[..., None] if preprocessing.channels == 1 else np.repeat(unit[..., None], 3, axis=2)


def _is_coloured(picture: Picture) -> bool:
    if len(picture.bands) == 1 and picture.bands[0].mode != "RGB":
        return False
    # Fewer pixels first: all of them as an array would take a fifth of the time that decoding takes.
    width, height = picture.bands[0].size
    size = (min(width, LOOKED_AT), min(height, LOOKED_AT))
    return is_coloured(np.dstack([np.asarray(band.resize(size, Image.Resampling.NEAREST)) for band in picture.bands]))


def _fit(picture: Picture, preprocessing: Preprocessing) -> tuple[tuple[Image.Image, ...], Part | None]:
    if preprocessing.frame is not None:
        # OpenCV takes a tenth of a second to load.
        from nelbo.data.part.part import crop

        values, part = crop(picture.values, preprocessing.frame, preprocessing.height, preprocessing.width)
        bands = [values] if values.ndim == 2 or values.dtype == np.uint8 else list(np.moveaxis(values, -1, 0))
        cropped = tuple(Image.fromarray(np.ascontiguousarray(band)) for band in bands)
        return tuple(_of_channels(band, preprocessing) for band in cropped), part
    fitted = tuple(_fit_band(band, picture.box, preprocessing) for band in picture.bands)
    return fitted, None


def _of_channels(band: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    return band.convert("L") if preprocessing.channels == 1 and band.mode == "RGB" else band


def _fit_band(band: Image.Image, box: Box | None, preprocessing: Preprocessing) -> Image.Image:
    band = _of_channels(band, preprocessing)
    left, upper, right, lower = preprocessing.part_filled(*(box[2:] if box else band.size))
    fitted = band.resize((right - left, lower - upper), _AREA, box)
    size = (preprocessing.width, preprocessing.height)
    if fitted.size == size:
        return fitted
    padded = Image.new(band.mode, size)
    padded.paste(fitted, (left, upper))
    return padded
