"""What is kept of a flagged image for people to look at: its map, the ends of its colour scale, and a thumbnail."""

import io
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from nelbo.data import PICTURED_SCHEMA, InputError, Preprocessing, is_float, read_metadata, top_of
from nelbo.data.area.area import Area
from nelbo.flows.inference.area.hatch import hatched
from nelbo.flows.workspace.layout import Workspace
from nelbo.vae_core.pixels import PixelRows, to_unit

#: JPEG quality of thumbnails.
_QUALITY = 85
#: Key in a file's metadata.
_WINDOW = "nelbo.window"
#: Images that a window is learnt from; the share of their pixels below it, and above it; and white in 16 bits.
_LEARNT_FROM, _BEYOND, _MOST = 64, 0.001, 65_535.0
#: The largest number of float16: maps are clipped to it.
_LARGEST = float(np.finfo(np.float16).max)


class Window(NamedTuple):
    """The range of pixel values that a model's pictures show, the same for all images: black to white.

    low, high: the ends, in [0, 1], as the model takes pixels.
    zero, one: values in the files that become 0 and 1.

    >>> window = Window(0.25, 0.5, 0, 4096)
    >>> window.ends, window(np.array([0.25, 0.375, 0.5])).tolist()
    ((1024.0, 2048.0), [0.0, 0.5, 1.0])
    """

    low: float
    high: float
    zero: float
    one: float

    def __call__(self, pixels: NDArray[np.floating]) -> NDArray[np.floating]:
        """Pixels as they are shown: up to 0 is black, from 1 on white."""
        return (pixels - self.low) / (self.high - self.low)

    @property
    def ends(self) -> tuple[float, float]:
        """Values in the files that are shown as black and as white."""
        low, high = (self.zero + share * (self.one - self.zero) for share in (self.low, self.high))
        return low, high


def learn_window(pixels: PixelRows, modes: Sequence[str | None], preprocessing: Preprocessing) -> Window | None:
    """The window of images of more than 8 bits, most of which use a small part of their type's range.

    It is the range that they are read by, if the preprocessing has one; else it leaves out the darkest and the
    brightest thousandth of the training images' pixels. All images share one window, so that they can be compared.

    Args:
        pixels: (n, h, w, c) of training images, as the model takes them.
        modes: (n,) the images' modes as stored.

    Returns:
        None where all have 8 bits: they are shown as they are.
    """
    known = [mode or "" for mode in modes]
    tops = [top for mode in known if (top := top_of(mode)) is not None]
    floats = any(map(is_float, known))
    # 16-bit colour has no mode of its own; turning a part upright makes all images 16-bit.
    if not (tops or floats or (pixels.dtype == np.uint16 and preprocessing.frame is None)):
        return None
    if preprocessing.value_range is not None:
        return Window(0, 1, *preprocessing.value_range)
    some = to_unit(pixels[np.linspace(0, len(pixels) - 1, min(_LEARNT_FROM, len(pixels))).astype(int)])[:, ::2, ::2]
    low, high = np.quantile(some, [_BEYOND, 1 - _BEYOND]).tolist()
    ends = (preprocessing.float_range or (0.0, 1.0)) if floats else (0.0, max(tops, default=_MOST))
    return Window(low, high, *ends) if low < high else None


def write_window(window: Window | None) -> dict[str, str]:
    """The metadata of a file that hold a window."""
    return {} if window is None else {_WINDOW: json.dumps(window)}


def parse_window(metadata: Mapping[str, str]) -> Window | None:
    """The window in a file's metadata; None where it is missing or invalid.

    >>> window = Window(0.25, 0.5, 0, 4096)
    >>> parse_window(write_window(window)) == window, parse_window({"nelbo.window": "[1, 0, 0, 1]"})
    (True, None)
    """
    try:
        window = Window(*map(float, json.loads(metadata.get(_WINDOW, "[]"))))
    except (TypeError, ValueError):
        return None
    return window if np.isfinite(window).all() and 0 <= window.low < window.high <= 1 else None


def read_window(workspace: Workspace, model_id: str) -> Window | None:
    """The window that a model's pictures are shown by; None where they are shown as they are."""
    try:
        return parse_window(read_metadata(workspace.normals(model_id)))
    except InputError:
        # The model is of an earlier version. If the file is damaged, reading the pictures says so.
        return None


def pictured(
    pixels: NDArray[np.float32],
    aspects: NDArray[np.floating],
    maps: NDArray[np.float32] | None,
    ends: NDArray[np.floating],
    window: Window | None = None,
    levels: NDArray[np.floating] | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    area: Area | None = None,
) -> pa.Table:
    """Rows of ``PICTURED_SCHEMA``.

    Args:
        pixels: (n, h, w, c) in [0, 1], whole images as the model prepares them.
        aspects: (n,) width over height of what is seen.
        maps: (n, gh, gw) nats; None if there are none.
        ends: (n, 2) nats that are drawn black and pale yellow; NaN where there is no map.
        window: of the thumbnails.
        levels: (n,) nats that regions exceed; NaN, or None, where that is not known.
        sizes: (n,) width and height of the upright originals in pixels, where they are known.
        area: that the model looked at; the rest is hatched.
    """
    clipped = None if maps is None else np.clip(maps, -_LARGEST, _LARGEST).astype(np.float16)
    upright = [(None, None)] * len(pixels) if sizes is None else sizes
    thumbnails = [thumbnail(*one, window, area) for one in zip(pixels, aspects, strict=True)]
    columns = {
        "map": pa.nulls(len(pixels)) if clipped is None else _nested(clipped),
        "map_low": pa.array(ends[:, 0], pa.float64(), from_pandas=True),
        "map_high": pa.array(ends[:, 1], pa.float64(), from_pandas=True),
        "map_level": pa.array(np.full(len(pixels), np.nan) if levels is None else levels, from_pandas=True),
        "thumbnail": pa.array(thumbnails, pa.binary()),
        "upright_width_px": pa.array([width for width, _ in upright], pa.int32()),
        "upright_height_px": pa.array([height for _, height in upright], pa.int32()),
    }
    return pa.table(columns, PICTURED_SCHEMA)


def thumbnail(
    pixels: NDArray[np.float32], aspect: float, window: Window | None = None, area: Area | None = None
) -> bytes:
    """A JPEG of an image as the model saw it, in its original aspect ratio.

    Args:
        pixels: (h, w, c) in [0, 1].
        aspect: width over height.
        area: that the model looked at; the rest is hatched.

    >>> Image.open(io.BytesIO(thumbnail(np.zeros((64, 64, 1)), aspect=2.0))).size
    (64, 32)
    """
    longer = max(pixels.shape[:2])
    size = (longer, max(1, round(longer / aspect))) if aspect >= 1 else (max(1, round(longer * aspect)), longer)
    picture = as_picture(pixels, window)
    return jpeg(hatched(picture if picture.size == size else picture.resize(size), area), _QUALITY)


def jpeg(picture: Image.Image, quality: int) -> bytes:
    """The bytes of a picture as a JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def as_picture(pixels: NDArray[np.floating], window: Window | None = None) -> Image.Image:
    """(h, w, c) in [0, 1] as an 8-bit picture."""
    values = (np.clip(pixels if window is None else window(pixels), 0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)


def _nested(maps: NDArray[np.float16]) -> pa.Array:
    """Maps (n, gh, gw) as a column of nested lists."""
    _, height, width = maps.shape
    rows = pa.FixedSizeListArray.from_arrays(pa.array(maps.ravel()), width)
    return pa.FixedSizeListArray.from_arrays(rows, height).cast(PICTURED_SCHEMA.field("map").type)
