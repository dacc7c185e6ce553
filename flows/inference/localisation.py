"""Maps of many images compared with their masks: counts of pixels."""

import tempfile
from collections.abc import Sequence
from contextlib import closing
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nelbo.data import File, ImageError, Part, Preprocessing, iter_masks
from nelbo.detectors.metrics.localised import PixelCounts
from nelbo.flows.inference.pipeline import map_files
from nelbo.flows.inference.regions.placing import placed
from nelbo.flows.options.settings import DecodingSettings
from nelbo.vae_core import Scorable

#: Most pixels of an image that are compared: in a larger image each square of pixels counts as one.
_MOST_PX = 4_000_000

#: Most values that the steps of the curves are computed from.
_MOST_VALUES = 2_000_000

#: How far the logarithms of the aspect ratios of an image and its mask may differ: sides are rounded to whole pixels.
_OFF = 0.02


class Pictured(NamedTuple):
    """An image whose defects are known, from a mask or because it is normal.

    file: the image; mask: its mask, None for a normal image without one.
    is_normal: by its label.
    width_px, height_px: of the image as it is stored.
    """

    file: File
    mask: File | None
    is_normal: bool
    width_px: int
    height_px: int


class Localised(NamedTuple):
    """What comparing maps with masks gave.

    counts: pixels of the images that could be compared.
    rows: the indices of these images among those given.
    left_out: why the others could not be compared, by index.
    """

    counts: PixelCounts
    rows: list[int]
    left_out: dict[int, str]


def localise(model: Scorable, images: Sequence[Pictured], decoding: DecodingSettings) -> Localised:
    """Compute the maps of images and count their pixels, at the masks' own resolution.

    This takes little memory: maps lie in a file, on their own grids, and are enlarged one at a time.
    """
    with tempfile.TemporaryFile(prefix="nelbo-") as aside:
        found = _mapped(model, [image.file for image in images], decoding, aside)
        left_out = {
            row: f"the image cannot be used ({reason})"
            for row, reason in enumerate(found.reasons)
            if reason is not None
        }
        rows = [row for row in range(len(images)) if row not in left_out]
        if not rows:
            return Localised(PixelCounts([0.0]), [], left_out)
        levels = _levels(aside, found.shapes)
        counts, compared = PixelCounts(_some(levels)), []
        named = (file for row in rows if (file := images[row].mask) is not None)
        masks = iter_masks(named, limits=decoding.limits, workers=decoding.workers)
        for level, row, part, aspect in zip(levels, rows, found.parts, found.aspects, strict=True):
            image = images[row]
            mask = _blank(image, aspect) if image.mask is None else next(masks)
            if isinstance(mask, ImageError):
                left_out[row] = f"its mask cannot be used ({mask.reason})"
            elif image.mask is not None and (why := _unusable(mask, image)):
                left_out[row] = why
            else:
                small, side = _fewer(mask)
                counts.add(small, placed(level, small.shape, part, Preprocessing(**model.preprocessing)), side**2)
                compared.append(row)
    return Localised(counts, compared, left_out)


class _Seen(NamedTuple):
    """What stays in memory when maps lie in a file: the other fields of `Mapped`, and shapes: of each map."""

    reasons: list[str | None]
    parts: list[Part | None]
    aspects: list[float]
    shapes: list[tuple[int, ...]]


def _mapped(model: Scorable, files: Sequence[File], decoding: DecodingSettings, aside: IO[bytes]) -> _Seen:
    """Write the maps of files to the file `aside`, as float32."""
    seen = _Seen([], [], [], [])
    with closing(map_files(model, files, decoding)) as batches:
        for batch in batches:
            seen.reasons.extend(batch.reasons)
            seen.parts.extend(batch.parts)
            seen.aspects.extend(batch.aspects.tolist())
            seen.shapes.extend([batch.levels.shape[1:]] * len(batch.levels))
            # Where the model does not look, all is usual. A quantile of values with NaN would be NaN.
            aside.write(np.nan_to_num(batch.levels.astype(np.float32, copy=False), nan=0.0).tobytes())
    aside.flush()
    return seen


def _levels(aside: IO[bytes], shapes: Sequence[tuple[int, ...]]) -> list[NDArray[np.float32]]:
    """The maps in a file, read when they are accessed."""
    values = np.memmap(aside, np.float32, "r")
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])
    return [values[end - np.prod(shape) : end].reshape(shape) for end, shape in zip(ends, shapes, strict=True)]


def _blank(image: Pictured, aspect: float) -> NDArray[np.bool_]:
    """A mask without a defect; turned as the image is, judging by the aspect ratio that the decoder saw."""
    stored, turned = (abs(np.log(aspect / shape)) for shape in _shapes(image))
    sides = image.height_px, image.width_px
    # A model that sees only an area of the picture sees another aspect ratio.
    return np.zeros(sides[::-1] if turned < min(stored, _OFF) else sides, bool)


def _unusable(mask: NDArray[np.bool_], image: Pictured) -> str | None:
    """Why a mask does not say where its image is defective."""
    height, width = mask.shape
    off = min(abs(np.log(width / height / shape)) for shape in _shapes(image))
    if off > _OFF:
        return f"its mask is {width} x {height} pixels, the image {image.width_px} x {image.height_px}: another shape"
    if image.is_normal:
        return "it is labelled normal, but its mask shows a defect" if mask.any() else None
    return None if mask.any() else "its mask is black"


def _shapes(image: Pictured) -> tuple[float, float]:
    """Width over height of an image, as it is stored and turned by a right angle."""
    return image.width_px / image.height_px, image.height_px / image.width_px


def _fewer(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """The mask reduced to squares of pixels, and their side; a square is defective if any of its pixels is."""
    factor = int(np.ceil((mask.size / _MOST_PX) ** 0.5))
    if factor == 1:
        return mask, 1
    height, width = (-(-side // factor) for side in mask.shape)
    padded = np.zeros((height * factor, width * factor), bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return np.asarray(padded.reshape(height, factor, width, factor).any(axis=(1, 3))), factor


def _some(levels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Values drawn evenly from all maps, about `_MOST_VALUES` at most."""
    step = max(1, -(-sum(level.size for level in levels) // _MOST_VALUES))
    return np.concatenate([level.ravel()[number % step :: step] for number, level in enumerate(levels)])
