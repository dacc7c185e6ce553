"""The area that a model is to look at, checked against the training images before training starts."""

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nelbo.data import File, ImageError, Manifest, Preprocessing, iter_images, iter_masks
from nelbo.data.area.area import OFF, Area, Kept, check_crop, suits
from nelbo.data.area.looking import kept_mask, outside
from nelbo.flows.options.settings import DecodingSettings
from nelbo.flows.workspace.errors import UsageError

#: Width and height in pixels.
Size = tuple[int, int]

#: Largest share of image or crop that may be ignored: less than a tenth leaves hardly a place that counts.
MOST_HIDDEN = 0.9
#: Enough to see how an image lies.
_SMALL = Preprocessing(16, 16)
_DRAW = "Draw one of the images' shape, white where they are to be ignored and black elsewhere"


def read_mask(path: str | None, decoding: DecodingSettings) -> Kept | None:
    """The mask of what is to be ignored in all images, as a model keeps it.

    Args:
        path: of a picture that is white there; None ignores nothing.
        decoding: limits on it.

    Raises:
        UsageError: the file is missing, not a picture, or too large, or ignores nothing or everything.
    """
    if path is None:
        return None
    if not os.path.isfile(path):  # noqa: PTH113 - a name of any bytes
        raise UsageError(f"ignore={path}: there is no such file. {_DRAW}.")
    (found,) = iter_masks([File.at(path)], limits=decoding.limits, workers=1)
    if isinstance(found, ImageError):
        raise UsageError(f"ignore={path}: it cannot be used ({found.reason}: {found}). {_DRAW}.")
    try:
        return kept_mask(found)
    except ValueError as error:
        raise UsageError(f"ignore={path}: {error}. {_DRAW}.") from error


def area_of(
    crop: Sequence[int] | None, mask: Kept | None, manifest: Manifest, rows: Sequence[int], decoding: DecodingSettings
) -> Area | None:
    """The area of images that a model is to look at; None where that is all of them.

    Args:
        crop, mask: see `Area`.
        manifest: of the images; rows: of those that are usable.
        decoding: limits and processes.

    Raises:
        UsageError: the images differ in size, the crop does not fit in them, or the mask has another shape.
    """
    if crop is None and mask is None:
        return None
    sizes = _upright_sizes(manifest, rows, decoding)
    commonest = sizes.most_common(1)[0][0]
    if mask is not None:
        _check_shapes(sizes, (mask[1], mask[0]))
    if crop is None:
        return _checked(Area(mask=mask))
    if len(sizes) > 1:
        raise UsageError(
            f"crop={list(crop)} is in pixels, but the images have several sizes: {_named(sizes)}. Train on images of "
            "one size, or leave crop out."
        )
    try:
        check_crop(crop, commonest)
    except ValueError as error:
        raise UsageError(f"{error}. Give left and upper edge, width and height within the image.") from error
    return _checked(Area(tuple(crop), commonest, mask))  # type: ignore[arg-type]


def _checked(area: Area) -> Area:
    """Raise a UsageError where a mask leaves nothing of the crop, or next to nothing."""
    hidden = outside(area)
    if hidden is not None and hidden.mean() > MOST_HIDDEN:
        of = "the image" if area.crop is None else f"the crop {list(area.crop)}"
        raise UsageError(
            f"ignore: {hidden.mean():.1%} of {of} is ignored, and at most {MOST_HIDDEN:.0%} may be. Ignore less, or "
            "use crop."
        )
    return area


def _check_shapes(sizes: Counter[Size], mask: Size) -> None:
    off = Counter({size: n for size, n in sizes.items() if not suits(size, mask)})
    if off:
        raise UsageError(
            f"the mask of what to ignore is {mask[0]} x {mask[1]} pixels, but {off.total()} of {sizes.total()} images "
            f"have another shape: {_named(off)}. Expected width over height within {OFF:.0%} of theirs. {_DRAW}."
        )


def _named(sizes: Counter[Size], most: int = 3) -> str:
    some = [f"{n} of {width} x {height}" for (width, height), n in sizes.most_common(most)]
    return ", ".join(some) + (f" and {len(sizes) - most} more sizes" if len(sizes) > most else "")


def _upright_sizes(manifest: Manifest, rows: Sequence[int], decoding: DecodingSettings) -> Counter[Size]:
    """Counts of the images' upright widths and heights; the manifest has the sizes as stored.

    One image of each stored size is decoded, and the others are assumed to be turned alike; scoring looks at each one.
    """
    some = manifest.table.select(["width_px", "height_px"]).take(pa.array(rows))
    stored = list(zip(*(some[name].to_pylist() for name in ("width_px", "height_px")), strict=True))
    files, found = manifest.files, Counter[Size]()
    for size, n in Counter(stored).items():
        number = rows[stored.index(size)]
        with closing(iter_images([files[number]], _SMALL, 1, limits=decoding.limits, workers=1)) as images:
            found[_turned(size, next(images).aspects)] += n
    return found


def _turned(size: Size, aspects: NDArray[np.float64]) -> Size:
    """The upright size of a picture stored with this size; unchanged if it cannot be decoded, which is said later."""
    if len(aspects) and not suits(size, (round(1000 * float(aspects[0])), 1000)):
        return size[1], size[0]
    return size
