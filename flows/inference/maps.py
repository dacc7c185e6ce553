"""What is kept of a flagged image so that it can be looked at: its map, the ends of its colours, and a thumbnail."""

import io
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from nelbo.data import PICTURED_SCHEMA, InputError, Preprocessing, is_float, read_metadata, top_of
from nelbo.flows.workspace.layout import Workspace
from nelbo.vae_core.pixels import PixelRows, to_unit

#: Of the JPEGs.
_QUALITY = 85
#: Of a file's metadata.
_WINDOW = "nelbo.window"
#: Images that a window is learnt from, the share of their pixels that is darker, and brighter; and white in 16 bits.
_LEARNT_FROM, _BEYOND, _MOST = 64, 0.001, 65_535.0
#: Larger nats than float16 has numbers for are as bright as these.
_LARGEST = float(np.finfo(np.float16).max)


class Window(NamedTuple):
    """What of a model's pixels its pictures show, the same of all images: the darker is black, the brighter white.

    low, high: in [0, 1], as the model takes pixels.
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
        """Pixels as they are shown: 0 is black and below, 1 white and above."""
        return (pixels - self.low) / (self.high - self.low)

    @property
    def ends(self) -> tuple[float, float]:
        """Values in the files that are shown black and white."""
        low, high = (self.zero + share * (self.one - self.zero) for share in (self.low, self.high))
        return low, high


def learn_window(pixels: PixelRows, modes: Sequence[str | None], preprocessing: Preprocessing) -> Window | None:
    """What to show of images of more than 8 bits, of which most use a small part of what their type can say.

    That is the range that they are read by, if one was asked for; else all but the darkest and the brightest thousandth
    of the training images. It is never an image's own, so that images compare.

    Args:
        pixels: (n, h, w, c) of training images, as the model takes them.
        modes: (n,) as they are stored.

    Returns:
        None where all have 8 bits: these are shown as they are.
    """
    known = [mode or "" for mode in modes]
    tops = [top for mode in known if (top := top_of(mode)) is not None]
    floats = any(map(is_float, known))
    # Colours of 16 bits have no mode of their own; turning a part upright makes all images deep.
    if not (tops or floats or (pixels.dtype == np.uint16 and preprocessing.frame is None)):
        return None
    if preprocessing.value_range is not None:
        return Window(0, 1, *preprocessing.value_range)
    some = to_unit(pixels[np.linspace(0, len(pixels) - 1, min(_LEARNT_FROM, len(pixels))).astype(int)])[:, ::2, ::2]
    low, high = np.quantile(some, [_BEYOND, 1 - _BEYOND]).tolist()
    ends = (preprocessing.float_range or (0.0, 1.0)) if floats else (0.0, max(tops, default=_MOST))
    return Window(low, high, *ends) if low < high else None


def write_window(window: Window | None) -> dict[str, str]:
    """A window as a file's metadata holds it."""
    return {} if window is None else {_WINDOW: json.dumps(window)}


def parse_window(metadata: Mapping[str, str]) -> Window | None:
    """The window in a file's metadata; None where there is none, or none that makes sense.

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
        # Of a model of an earlier version; what is damaged is said where the pictures are read.
        return None


def pictured(
    pixels: NDArray[np.float32],
    aspects: NDArray[np.floating],
    maps: NDArray[np.float32] | None,
    ends: NDArray[np.floating],
    window: Window | None = None,
) -> pa.Table:
    """Rows of ``PICTURED_SCHEMA``.

    Args:
        pixels: (n, h, w, c) in [0, 1], as the model saw them.
        aspects: (n,) width over height of what is seen.
        maps: (n, gh, gw) nats; None if there are none.
        ends: (n, 2) nats that are drawn black, and pale yellow; NaN if there are none.
        window: of the thumbnails.
    """
    clipped = None if maps is None else np.clip(maps, -_LARGEST, _LARGEST).astype(np.float16)
    columns = {
        "map": pa.nulls(len(pixels)) if clipped is None else _nested(clipped),
        "map_low": pa.array(ends[:, 0], pa.float64(), from_pandas=True),
        "map_high": pa.array(ends[:, 1], pa.float64(), from_pandas=True),
        "thumbnail": pa.array([thumbnail(*one, window) for one in zip(pixels, aspects, strict=True)], pa.binary()),
    }
    return pa.table(columns, PICTURED_SCHEMA)


def thumbnail(pixels: NDArray[np.float32], aspect: float, window: Window | None = None) -> bytes:
    """A JPEG of an image as the model saw it, in the shape that people know it in.

    Args:
        pixels: (h, w, c) in [0, 1].
        aspect: width over height.

    >>> Image.open(io.BytesIO(thumbnail(np.zeros((64, 64, 1)), aspect=2.0))).size
    (64, 32)
    """
    longer = max(pixels.shape[:2])
    size = (longer, max(1, round(longer / aspect))) if aspect >= 1 else (max(1, round(longer * aspect)), longer)
    picture = as_picture(pixels, window)
    return jpeg(picture if picture.size == size else picture.resize(size), _QUALITY)


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
    """(n, gh, gw) as a column of lists of lists."""
    _, height, width = maps.shape
    rows = pa.FixedSizeListArray.from_arrays(pa.array(maps.ravel()), width)
    return pa.FixedSizeListArray.from_arrays(rows, height).cast(PICTURED_SCHEMA.field("map").type)
