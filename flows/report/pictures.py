"""Pictures of flagged images, drawn from their rows alone: neither the image nor the model need be there any more."""

import base64
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nelbo.flows.inference.maps import jpeg
from nelbo.flows.report.heatmap import colours, enlarged
from nelbo.flows.report.outlines import Polygon, drawn, outline

#: Columns that it is drawn from.
LOOKED_AT = ("map", "map_low", "map_high", "thumbnail", "heatmap_png")
#: Longer side of a picture: smaller ones are enlarged, and larger ones than the largest model takes are not nelbo's.
SIDE_PX, MOST_PX = 192, 1024
_QUALITIES = (75, 60, 40, 20, 10)


class Pictures(NamedTuple):
    """A flagged image, the same with lines around where it is unusual, and its map; None where the row has no such.

    Rows that were written before version 6 of the schema hold a heatmap alone.
    """

    original: Image.Image | None
    outlined: Image.Image | None
    heatmap: Image.Image | None


def pictures(row: Mapping[Any, Any], side_px: int = MOST_PX) -> Pictures:
    """Draw a row of ``flagged``; what in it is damaged, or was not written by nelbo, counts as not there.

    Args:
        row: with its columns ``LOOKED_AT``, as Arrow, pandas or DuckDB give them.
        side_px: longer side at most.

    >>> row = {"map": [[1.0, 3.0]], "map_low": 1.0, "map_high": 3.0, "thumbnail": None, "heatmap_png": None}
    >>> shown = pictures(row)
    >>> shown.original, shown.heatmap.size, shown.heatmap.getpixel((0, 0)), shown.heatmap.getpixel((191, 0))
    (None, (192, 96), (0, 0, 4), (252, 255, 164))
    """
    original = original_of(row, side_px)
    heatmap = heatmap_of(row, original.size if original else None, side_px)
    outlined = drawn(original, outline_of(row)) if original and _is_there(row["map"]) else None
    return Pictures(original, outlined, heatmap)


def outline_of(row: Mapping[Any, Any]) -> list[Polygon]:
    """Lines around where a row of ``flagged`` is unusual, as `outline` gives them; none where it holds no map."""
    levels = _levels(row)
    return [] if levels is None else outline(levels)


def original_of(row: Mapping[Any, Any], side_px: int = MOST_PX) -> Image.Image | None:
    """The image that a row holds a thumbnail of, as `pictures` has it."""
    picture = opened(row["thumbnail"], "JPEG")
    return picture and picture.resize(_shown_size(picture.size, side_px))


def heatmap_of(
    row: Mapping[Any, Any], size: tuple[int, int] | None = None, side_px: int = MOST_PX
) -> Image.Image | None:
    """The map that a row holds in colours, as `pictures` has it.

    Args:
        size: width and height; by default as far as it is enlarged by itself.
    """
    levels = _levels(row)
    if levels is not None:
        return Image.fromarray(colours(enlarged(levels.clip(0, 1), size or _shown_size(levels.shape[::-1], side_px))))
    former = None if _is_there(row["map"]) else opened(row["heatmap_png"], "PNG")
    return former and former.convert("RGB").resize(_shown_size(former.size, side_px), Image.Resampling.BILINEAR)


def _levels(row: Mapping[Any, Any]) -> NDArray[np.floating] | None:
    """(gh, gw) places on the colour scale, beyond 1 too; a place without a number is at its top. None without a map."""
    if not _is_there(row["map"]):
        return None
    low, high = np.array([row["map_low"], row["map_high"]], float)
    rows = [np.asarray(values, np.float32) for values in row["map"]]
    size = (len(rows), *{len(values) for values in rows})
    if len(size) != 2 or not 0 < min(size) <= max(size) <= MOST_PX or not np.isfinite(high - low):
        return None
    return np.nan_to_num((np.stack(rows) - low) / (high - low if high > low else 1.0), nan=1.0)


def opened(content: Any, kind: str) -> Image.Image | None:
    """A small picture of that format; None where there is none, or another."""
    if not _is_there(content):
        return None
    try:
        picture = Image.open(io.BytesIO(content), formats=[kind])
        # Before it is unpacked.
        if max(picture.size) > MOST_PX:
            return None
        picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return picture


def _is_there(value: Any) -> bool:
    """Whether it is not null: pandas says NaN for that, too."""
    return value is not None and not isinstance(value, float)


def _shown_size(size: tuple[int, ...], most_px: int) -> tuple[int, int]:
    width, height = size
    times = min(max(1.0, SIDE_PX / max(size)), most_px / max(size))
    return max(1, round(width * times)), max(1, round(height * times))


def jpeg_url(shown: Image.Image, n_bytes: int) -> str:
    """A picture as a JPEG of the best of a few qualities that keeps it within so many bytes."""
    for quality in _QUALITIES:
        content = jpeg(shown, quality)
        if len(content) <= n_bytes:
            break
    return data_url("image/jpeg", content)


def data_url(kind: str, content: bytes) -> str:
    """A URL that holds what it stands for.

    >>> data_url("text/plain", b"hello")
    'data:text/plain;base64,aGVsbG8='
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
