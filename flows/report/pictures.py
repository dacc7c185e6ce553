"""Pictures of flagged images, drawn from their rows alone; neither image nor model need exist any more."""

import base64
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nelbo.data import PICTURED_SCHEMA
from nelbo.flows.inference.maps import jpeg
from nelbo.flows.report.heatmap import colours, enlarged
from nelbo.flows.report.outlines import Polygon, drawn, outline

#: Columns that pictures are drawn from.
LOOKED_AT = (*PICTURED_SCHEMA.names, "heatmap_png")
#: Longer side of a picture: a smaller one is enlarged; one above the largest model's input was not written by nelbo.
SIDE_PX, MOST_PX = 192, 1024
_QUALITIES = (75, 60, 40, 20, 10)


class Pictures(NamedTuple):
    """A flagged image, the same with lines around its unusual places, and its map; None for what the row lacks.

    Rows that were written before version 6 of the schema hold only a heatmap.
    """

    original: Image.Image | None
    outlined: Image.Image | None
    heatmap: Image.Image | None


def pictures(row: Mapping[Any, Any], side_px: int = MOST_PX) -> Pictures:
    """Draw a row of ``flagged``; damaged values, and those that nelbo did not write, count as missing.

    Args:
        row: with its columns ``LOOKED_AT``, as Arrow, pandas or DuckDB give them.
        side_px: most pixels of the longer side.

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
    """Lines around the unusual places of a row of ``flagged``, see `outline`; none where it holds no map.

    If the row holds the regions' level, they surround its regions; rows from before version 9 of the schema do not.
    """
    levels = _levels(row)
    if levels is None:
        return []
    said = (row.get(name) for name in ("map_low", "map_high", "map_level"))
    low, high, level = (np.nan if one is None else float(one) for one in said)
    return outline(levels, None if np.isnan(level) else (level - low) / (high - low if high > low else 1.0))


def original_of(row: Mapping[Any, Any], side_px: int = MOST_PX) -> Image.Image | None:
    """The image in a row's thumbnail, sized as in `pictures`."""
    picture = opened(row["thumbnail"], "JPEG")
    return picture and picture.resize(_shown_size(picture.size, side_px))


def heatmap_of(
    row: Mapping[Any, Any], size: tuple[int, int] | None = None, side_px: int = MOST_PX
) -> Image.Image | None:
    """A row's map in colours, sized as in `pictures`.

    Args:
        size: width and height; by default those of the map, enlarged as a picture is.
    """
    levels = _levels(row)
    if levels is not None:
        # Where the model does not look, nothing is unusual.
        levels = np.nan_to_num(levels, nan=0.0)
        return Image.fromarray(colours(enlarged(levels.clip(0, 1), size or _shown_size(levels.shape[::-1], side_px))))
    former = None if _is_there(row["map"]) else opened(row["heatmap_png"], "PNG")
    return former and former.convert("RGB").resize(_shown_size(former.size, side_px), Image.Resampling.BILINEAR)


def _levels(row: Mapping[Any, Any]) -> NDArray[np.floating] | None:
    """(gh, gw) places on the colour scale, which may exceed 1; None without a map."""
    if not _is_there(row["map"]):
        return None
    low, high = np.array([row["map_low"], row["map_high"]], float)
    rows = [np.asarray(values, np.float32) for values in row["map"]]
    size = (len(rows), *{len(values) for values in rows})
    if len(size) != 2 or not 0 < min(size) <= max(size) <= MOST_PX or not np.isfinite(high - low):
        return None
    return np.asarray((np.stack(rows) - low) / (high - low if high > low else 1.0))


def opened(content: Any, kind: str) -> Image.Image | None:
    """A small picture in the format `kind`; None if it is missing, damaged, too large or in another format."""
    if not _is_there(content):
        return None
    try:
        picture = Image.open(io.BytesIO(content), formats=[kind])
        # Checked before the picture is decoded.
        if max(picture.size) > MOST_PX:
            return None
        picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return picture


def _is_there(value: Any) -> bool:
    """Whether a value is not null; pandas stores nulls as NaN, too."""
    return value is not None and not isinstance(value, float)


def _shown_size(size: tuple[int, ...], most_px: int) -> tuple[int, int]:
    width, height = size
    times = min(max(1.0, SIDE_PX / max(size)), most_px / max(size))
    return max(1, round(width * times)), max(1, round(height * times))


def jpeg_url(shown: Image.Image, n_bytes: int) -> str:
    """A data URL of a picture as JPEG, in the best of a few qualities that keeps within `n_bytes`."""
    for quality in _QUALITIES:
        content = jpeg(shown, quality)
        if len(content) <= n_bytes:
            break
    return data_url("image/jpeg", content)


def data_url(kind: str, content: bytes) -> str:
    """A URL that embeds its content.

    >>> data_url("text/plain", b"hello")
    'data:text/plain;base64,aGVsbG8='
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
