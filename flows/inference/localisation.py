"""Maps of many images held against masks: where a map lies on its picture, and what is counted of both."""

import tempfile
from collections.abc import Sequence
from contextlib import closing
from typing import IO, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nelbo.data import File, ImageError, Part, Preprocessing, iter_masks
from nelbo.data.part.part import crop_matrix
from nelbo.detectors.metrics.localised import PixelCounts
from nelbo.flows.inference.pipeline import map_files
from nelbo.flows.options.settings import DecodingSettings
from nelbo.vae_core import Scorable

#: Pixels of an image that are looked at, at most: of more, squares of some side stand for their pixels.
_MOST_PX = 4_000_000

#: Values that the steps of curves are made of, at most.
_MOST_VALUES = 2_000_000

#: How far the shapes of an image and of its mask may differ: they were rounded to whole pixels.
_OFF = 0.02


class Pictured(NamedTuple):
    """An image that masks say something of.

    file: the image; mask: its mask, None of a normal one without any.
    is_normal: by its label.
    width_px, height_px: of the image as it is stored.
    """

    file: File
    mask: File | None
    is_normal: bool
    width_px: int
    height_px: int


class Localised(NamedTuple):
    """What maps and masks gave.

    counts: of the images that could be compared.
    rows: which of the images given each of those is.
    left_out: why others could not, by their place among the images given.
    """

    counts: PixelCounts
    rows: list[int]
    left_out: dict[int, str]


def localise(model: Scorable, images: Sequence[Pictured], decoding: DecodingSettings) -> Localised:
    """Compute the maps of images and count their pixels, at the masks' own resolution.

    Little is in memory: maps lie in a file, on their own grids, and one image is enlarged at a time.
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
    """What maps in a file are of: see `Mapped`, of which this is all that is in memory; shapes: of each map."""

    reasons: list[str | None]
    parts: list[Part | None]
    aspects: list[float]
    shapes: list[tuple[int, ...]]


def _mapped(model: Scorable, files: Sequence[File], decoding: DecodingSettings, aside: IO[bytes]) -> _Seen:
    """Write the maps of files to another one, float32."""
    seen = _Seen([], [], [], [])
    with closing(map_files(model, files, decoding)) as batches:
        for batch in batches:
            seen.reasons.extend(batch.reasons)
            seen.parts.extend(batch.parts)
            seen.aspects.extend(batch.aspects.tolist())
            seen.shapes.extend([batch.levels.shape[1:]] * len(batch.levels))
            aside.write(np.ascontiguousarray(batch.levels, np.float32).tobytes())
    aside.flush()
    return seen


def _levels(aside: IO[bytes], shapes: Sequence[tuple[int, ...]]) -> list[NDArray[np.float32]]:
    """The maps in a file, read as they are looked at."""
    values = np.memmap(aside, np.float32, "r")
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])
    return [values[end - np.prod(shape) : end].reshape(shape) for end, shape in zip(ends, shapes, strict=True)]


def placed(
    level: NDArray[np.float32], shape: tuple[int, int], part: Part | None, preprocessing: Preprocessing
) -> NDArray[np.float32]:
    """A map on its picture: bilinear between the middles of its cells, the nearest one beyond them.

    Where the model looks at a part alone, all is usual around it.

    Args:
        level: (gh, gw) on the map's own grid.
        shape: (height, width) of the upright picture.
        part: what was found in it, where the model looks for parts.

    >>> placed(np.float32([[0, 1]]), (1, 4), None, Preprocessing(1, 2))[0].tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    height, width = shape
    border = cv2.BORDER_REPLICATE
    if part is not None and preprocessing.frame is not None:
        border = cv2.BORDER_CONSTANT
        size = (preprocessing.height, preprocessing.width)
        # From the picture to the crop; both count from the middles of their first pixels.
        matrix = cv2.invertAffineTransform(crop_matrix(part, preprocessing.frame, size, shape))
    else:
        left, upper, right, lower = preprocessing.part_filled(width, height)
        across, down = (right - left) / width, (lower - upper) / height
        matrix = np.array([[across, 0, left + across / 2 - 0.5], [0, down, upper + down / 2 - 0.5]])
    across, down = level.shape[1] / preprocessing.width, level.shape[0] / preprocessing.height
    on_grid = matrix * np.array([[across], [down]])
    on_grid[:, 2] += [across / 2 - 0.5, down / 2 - 0.5]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(level, on_grid, (width, height), flags=flags, borderMode=border)


def _blank(image: Pictured, aspect: float) -> NDArray[np.bool_]:
    """No defect anywhere; upright, as far as the decoder has said how it lies."""
    stored, turned = (abs(np.log(aspect / shape)) for shape in _shapes(image))
    sides = image.height_px, image.width_px
    # What the model saw has another shape where it is no whole picture.
    return np.zeros(sides[::-1] if turned < min(stored, _OFF) else sides, bool)


def _unusable(mask: NDArray[np.bool_], image: Pictured) -> str | None:
    """Why a mask does not say where its image is defective."""
    height, width = mask.shape
    off = min(abs(np.log(width / height / shape)) for shape in _shapes(image))
    if off > _OFF:
        return f"its mask is {width} x {height} pixels, the image {image.width_px} x {image.height_px}: another shape"
    if image.is_normal:
        return "it is labelled normal, and its mask shows a defect" if mask.any() else None
    return None if mask.any() else "its mask is black"


def _shapes(image: Pictured) -> tuple[float, float]:
    """Width over height, as it is stored and turned by a right angle."""
    return image.width_px / image.height_px, image.height_px / image.width_px


def _fewer(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """The mask by squares, of which one is defective if any pixel of it is; and their side."""
    factor = int(np.ceil((mask.size / _MOST_PX) ** 0.5))
    if factor == 1:
        return mask, 1
    height, width = (-(-side // factor) for side in mask.shape)
    padded = np.zeros((height * factor, width * factor), bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return np.asarray(padded.reshape(height, factor, width, factor).any(axis=(1, 3))), factor


def _some(levels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Values of all maps, evenly."""
    step = max(1, -(-sum(level.size for level in levels) // _MOST_VALUES))
    return np.concatenate([level.ravel()[number % step :: step] for number, level in enumerate(levels)])
