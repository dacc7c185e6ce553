"""Pictures as a model sees them: cropped to its area, with what the mask ignores filled in."""

import base64
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nelbo.data.area.area import MOST_SIDE, Area, Kept, check_mask, suits, unpacked
from nelbo.data.errors import ImageError

#: The most rows and columns that `outside` returns.
_SHARES = 256


@lru_cache(maxsize=4)
def ignored(area: Area) -> NDArray[np.bool_] | None:
    """(rows, columns) which parts of the whole picture are ignored; None without a mask."""
    if area.mask is None:
        return None
    rows, columns, _ = area.mask
    bits = np.frombuffer(unpacked(area.mask), np.uint8)
    return np.unpackbits(bits, count=rows * columns).reshape(rows, columns).astype(bool)


def outside(area: Area | None) -> NDArray[np.float32] | None:
    """(rows, columns) share of each part of the crop that is ignored; None without a mask.

    >>> outside(Area(mask=kept_mask(np.array([[True, False]])))).tolist()
    [[1.0, 0.0]]
    """
    if area is None or (found := ignored(area)) is None:
        return None
    left, upper, right, lower = area.box
    rows, columns = found.shape
    edges = (left * columns, upper * rows, right * columns, lower * rows)
    size = tuple(max(1, min(_SHARES, round(end - start))) for start, end in zip(edges[:2], edges[2:], strict=True))
    shares = Image.fromarray(found.astype(np.float32)).resize(size, Image.Resampling.BOX, edges)
    return np.asarray(shares).clip(0, 1)


def seen_of(area: Area, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """(rows, columns) which pixels of the crop, or places of a coarser grid, are not ignored; None without a mask.

    >>> seen_of(Area(crop=(1, 0, 2, 1), image=(4, 1)), (1, 2)) is None
    True
    """
    if (found := outside(area)) is None:
        return None
    return np.asarray(Image.fromarray(found).resize(shape[::-1], Image.Resampling.BOX)) < 0.5


def hidden(area: Area, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(rows, columns) which pixels of a whole picture are not looked at: outside the crop, or ignored.

    >>> hidden(Area(crop=(1, 0, 2, 1), image=(4, 1)), (1, 4)).tolist()
    [[True, False, False, True]]
    """
    left, upper, right, lower = area.box
    rows, columns = ((np.arange(n) + 0.5) / n for n in shape)
    beyond = ~(((rows >= upper) & (rows < lower))[:, None] & ((columns >= left) & (columns < right)))
    if (found := ignored(area)) is None:
        return beyond
    return beyond | (np.asarray(_resized(found, shape[::-1])) > 0)


def applied(area: Area, bands: Sequence[Image.Image]) -> tuple[Image.Image, ...]:
    """The bands of an upright picture, cropped, with what is ignored in the mean colour of the rest.

    No pixel outside the area affects the result.

    Raises:
        ImageError: ``other_size``.

    >>> area = Area(mask=kept_mask(np.array([[True, False, False, False]])))
    >>> (band,) = applied(area, [Image.fromarray(np.uint8([[9, 1, 2, 3]]))])
    >>> np.asarray(band).tolist()
    [[2, 1, 2, 3]]
    """
    width, height = bands[0].size
    if area.image is not None and (width, height) != area.image:
        of = f"the crop applies to images of {area.image[0]} x {area.image[1]}"
        raise ImageError("other_size", f"{width} x {height} px, and {of}")
    if area.mask is not None and not suits((width, height), (area.mask[1], area.mask[0])):
        of = f"the mask, {area.mask[1]} x {area.mask[0]}, has another shape"
        raise ImageError("other_size", f"{width} x {height} px, and {of}")
    return tuple(looked_at(area, band) for band in bands)


def looked_at(area: Area, band: Image.Image) -> Image.Image:
    """One band of a picture, or a small copy of a picture, cropped and filled in like `applied`."""
    left, upper, right, lower = area.box
    width, height = band.size
    edges = (round(left * width), round(upper * height), round(right * width), round(lower * height))
    cropped = band if area.crop is None else band.crop(edges)
    if (found := ignored(area)) is None:
        return cropped
    return _filled(cropped, _resized(found, band.size).crop(edges))


def kept_mask(white: NDArray[np.bool_]) -> Kept:
    """A mask as a model stores it, with at most `MOST_SIDE` rows and columns.

    A larger mask is reduced: neighbouring rows and columns are merged, and ignored where any of them is.

    Raises:
        ValueError: it ignores nothing or all, or is too ragged to be kept.

    >>> ignored(Area(mask=kept_mask(np.array([[True, False]])))).tolist()
    [[True, False]]
    """
    if white.all() or not white.any():
        raise ValueError("it ignores everything" if white.all() else "it ignores nothing: no pixel of it is white")
    white = _fewer_rows(_fewer_rows(white).T).T
    if white.all():
        raise ValueError("it ignores everything except for dots")
    bits = base64.b64encode(zlib.compress(np.packbits(white).tobytes(), 9)).decode()
    kept = (*white.shape, bits)
    check_mask(kept)
    return kept


def _fewer_rows(white: NDArray[np.bool_]) -> NDArray[np.bool_]:
    n, fewer = len(white), min(len(white), MOST_SIDE)
    if n == fewer:
        return white
    edges = np.arange(fewer + 1) * n / fewer
    before = np.concatenate([np.zeros((1, white.shape[1]), np.int32), np.cumsum(white, axis=0, dtype=np.int32)])
    return np.asarray(before[np.ceil(edges[1:]).astype(int)] > before[np.floor(edges[:-1]).astype(int)])


def _resized(white: NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    """The mask at this width and height: white where the picture is ignored."""
    return Image.fromarray(white.astype(np.uint8) * np.uint8(255)).resize(size, Image.Resampling.NEAREST)


def _filled(band: Image.Image, white: Image.Image) -> Image.Image:
    """A band whose ignored pixels have the mean of the others."""
    colour = _mean(band, white)
    filled = band.copy()
    filled.paste(colour, (0, 0, *band.size), white)
    return filled


def _mean(band: Image.Image, white: Image.Image) -> Any:
    seen = white.point([255] + [0] * 255)
    if band.mode != "F":
        # Sums of whole numbers: the same whatever the order.
        counts = np.array(band.histogram(seen), np.int64).reshape(-1, 256)
        means = (counts @ np.arange(256) / np.maximum(counts.sum(axis=1), 1)).round().astype(int).tolist()
        return tuple(means) if len(means) > 1 else means[0]
    values = np.asarray(band)[np.asarray(seen) > 0]
    return float(values.mean(dtype=np.float64)) if values.size else 0.0
