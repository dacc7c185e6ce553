"""What is kept of a flagged image so that it can be looked at: its map, the ends of its colours, and a thumbnail."""

import io

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from nelbo.data import PICTURED_SCHEMA

#: Of the JPEGs.
_QUALITY = 85
#: Larger nats than float16 has numbers for are as bright as these.
_LARGEST = float(np.finfo(np.float16).max)


def pictured(
    pixels: NDArray[np.float32],
    aspects: NDArray[np.floating],
    maps: NDArray[np.float32] | None,
    ends: NDArray[np.floating],
) -> pa.Table:
    """Rows of ``PICTURED_SCHEMA``.

    Args:
        pixels: (n, h, w, c) in [0, 1], as the model saw them.
        aspects: (n,) width over height of what is seen.
        maps: (n, gh, gw) nats; None if there are none.
        ends: (n, 2) nats that are drawn black, and pale yellow; NaN if there are none.
    """
    clipped = None if maps is None else np.clip(maps, -_LARGEST, _LARGEST).astype(np.float16)
    columns = {
        "map": pa.nulls(len(pixels)) if clipped is None else _nested(clipped),
        "map_low": pa.array(ends[:, 0], pa.float64(), from_pandas=True),
        "map_high": pa.array(ends[:, 1], pa.float64(), from_pandas=True),
        "thumbnail": pa.array([thumbnail(*one) for one in zip(pixels, aspects, strict=True)], pa.binary()),
    }
    return pa.table(columns, PICTURED_SCHEMA)


def thumbnail(pixels: NDArray[np.float32], aspect: float) -> bytes:
    """A JPEG of an image as the model saw it, in the shape that people know it in.

    Args:
        pixels: (h, w, c) in [0, 1].
        aspect: width over height.

    >>> Image.open(io.BytesIO(thumbnail(np.zeros((64, 64, 1)), aspect=2.0))).size
    (64, 32)
    """
    longer = max(pixels.shape[:2])
    size = (longer, max(1, round(longer / aspect))) if aspect >= 1 else (max(1, round(longer * aspect)), longer)
    picture = as_picture(pixels)
    return jpeg(picture if picture.size == size else picture.resize(size), _QUALITY)


def jpeg(picture: Image.Image, quality: int) -> bytes:
    """The bytes of a picture as a JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def as_picture(pixels: NDArray[np.floating]) -> Image.Image:
    """(h, w, c) in [0, 1] as an 8-bit picture."""
    values = (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)


def _nested(maps: NDArray[np.float16]) -> pa.Array:
    """(n, gh, gw) as a column of lists of lists."""
    _, height, width = maps.shape
    rows = pa.FixedSizeListArray.from_arrays(pa.array(maps.ravel()), width)
    return pa.FixedSizeListArray.from_arrays(rows, height).cast(PICTURED_SCHEMA.field("map").type)
