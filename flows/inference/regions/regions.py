"""Regions of an image: connected places where its map exceeds a level, in the pixels of the original."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from nelbo.data import REGION, REGIONS, REGIONS_SCHEMA, Part, Preprocessing
from nelbo.data.regions.run_length import encode
from nelbo.flows.inference.regions.halos import without_halos
from nelbo.flows.inference.regions.placing import placed

#: Columns of a region itself; the others are those of its image.
_OWN = ("region_id", *(field.name for field in REGION))
#: Pixels that a map is enlarged to at a time.
_STRIP_PX = 4_000_000

Plane = NDArray[np.float32]


class Region(NamedTuple):
    """A place of connected pixels, which may touch at corners; the fields are those of ``REGION``.

    x_px, y_px, width_px, height_px: of the rectangle around it, from the top left of the upright original.
    area_px: pixels in it.
    peak: the enlarged map's largest value in it, in units above what is usual.
    mask: its pixels in run lengths over the whole original, see `nelbo.data.regions.run_length`.
    """

    x_px: int
    y_px: int
    width_px: int
    height_px: int
    area_px: int
    peak: float
    mask: str


def regions(
    units: Plane, level: float, size: tuple[int, int], part: Part | None, preprocessing: Preprocessing
) -> list[Region]:
    """The regions where a map without its halos exceeds a level, the most unusual first.

    The map is enlarged bilinearly, so nothing exceeds its largest value: if that is at most the level, there is no
    region. Places that are NaN belong to no region.

    Args:
        units: (gh, gw) how unusual each place is.
        level: in the same units; a value equal to it is not above it.
        size: width and height of the upright original in pixels.
        part: what was found in it, where the model looks for parts.

    >>> one = np.float32([[0, 0, 0], [0, 9, 0]])
    >>> (found,) = regions(one, 4, (6, 4), None, Preprocessing(2, 3))
    >>> found.x_px, found.y_px, found.area_px, found.peak, found.mask
    (2, 2, 4, 6.75, ':2206')
    """
    if not np.nanmax(units, initial=-np.inf) > level:
        return []
    whole = _Whole(units, level, size, part, preprocessing)
    numbered, (left, top) = whole.numbered()
    boxes = find_objects(numbered)
    peaks = whole.peaks(numbered, (left, top), len(boxes))
    found = []
    for number, (rows, columns) in enumerate(boxes, start=1):
        mask = numbered[rows, columns] == number
        x, y = left + columns.start, top + rows.start
        height, width = mask.shape
        found.append(Region(x, y, width, height, int(mask.sum()), float(peaks[number]), encode(mask, (x, y), size)))
    return sorted(found, key=lambda region: (-region.peak, region.y_px, region.x_px))


def regions_of(
    units: Plane,
    levels: NDArray[np.floating[Any]],
    sizes: Sequence[tuple[int, int]],
    parts: Sequence[Part | None],
    preprocessing: Preprocessing,
) -> pa.Array:
    """The regions of each image, of type ``REGIONS``; null where its level is NaN.

    Args:
        units: (n, gh, gw) maps.
        levels: (n,) the level of each image, or NaN.
        sizes, parts: see `regions`.
    """
    found: list[list[dict[str, Any]] | None] = [None] * len(units)
    for row in np.flatnonzero(~np.isnan(levels)).tolist():
        cut = regions(units[row], float(levels[row]), sizes[row], parts[row], preprocessing)
        found[row] = [one._asdict() for one in cut]
    return pa.array(found, REGIONS)


def each_region(rows: pa.Table) -> pa.Table:
    """Rows of ``REGIONS_SCHEMA``, one for each region of some images.

    Args:
        rows: of images, with the column ``regions``.
    """
    found = rows["regions"].combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(found), 0).to_numpy()
    of_image = rows.select([name for name in REGIONS_SCHEMA.names if name not in _OWN])
    table = of_image.take(pa.array(np.repeat(np.arange(rows.num_rows), lengths)))
    for name, values in zip(_OWN, [_numbers(lengths), *pc.list_flatten(found).flatten()], strict=True):
        table = table.append_column(name, values)
    return table.select(REGIONS_SCHEMA.names)


def _numbers(lengths: NDArray[np.integer[Any]]) -> pa.Array:
    """The ranges 0, 1, ... of each of some lengths, one after another."""
    return pa.array(np.concatenate([np.empty(0, np.int32), *map(np.arange, lengths)]), pa.int32())


class _Whole:
    """A map on its original, processed a few rows at a time: a copy at 64 megapixels takes a quarter of a gigabyte."""

    def __init__(
        self, units: Plane, level: float, size: tuple[int, int], part: Part | None, preprocessing: Preprocessing
    ) -> None:
        self.level, self.shape, self.part, self.preprocessing = level, size[::-1], part, preprocessing
        is_outside = np.isnan(units)
        self.outside = is_outside.astype(np.float32) if is_outside.any() else None
        # Ignored places get the level itself: it adds no region, and takes nothing from one nearby.
        self.units = np.where(is_outside, np.float32(level), units).astype(np.float32)

    def strips(self, units: Plane) -> Iterator[tuple[int, Plane]]:
        """A map enlarged in strips: the first row of each, and its values; -inf where the model does not look."""
        height, width = self.shape
        step = max(1, _STRIP_PX // width)
        for first in range(0, height, step):
            rows = (first, min(first + step, height))
            found = placed(units, self.shape, self.part, self.preprocessing, rows)
            if self.outside is not None:
                found[placed(self.outside, self.shape, self.part, self.preprocessing, rows) >= 0.5] = -np.inf
            yield first, found

    def numbered(self) -> tuple[NDArray[np.int32], tuple[int, int]]:
        """The number of each pixel's region, from 1, in the rectangle around all regions; and its upper left corner."""
        inside = np.zeros(self.shape, np.uint8)
        for first, values in self.strips(without_halos(self.units, self.level)):
            np.greater(values, self.level, out=inside[first : first + len(values)], casting="unsafe")
        rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            # The place above the level lies between two pixels.
            return np.zeros((1, 1), np.int32), (0, 0)
        # For a few places in a large image, numbering all pixels would take most of the memory.
        within = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        _, numbered = cv2.connectedComponents(np.ascontiguousarray(within), connectivity=8, ltype=cv2.CV_32S)
        return numbered, (int(columns[0]), int(rows[0]))

    def peaks(self, numbered: NDArray[np.int32], corner: tuple[int, int], n: int) -> Plane:
        """(1 + n,) the largest value in each region."""
        left, top = corner
        height, width = numbered.shape
        found = np.full(1 + n, -np.inf, np.float32)
        for first, values in self.strips(self.units):
            rows = slice(max(first, top), min(first + len(values), top + height))
            if rows.start < rows.stop:
                numbers = numbered[rows.start - top : rows.stop - top]
                own = values[rows.start - first : rows.stop - first, left : left + width]
                np.maximum.at(found, numbers[numbers > 0], own[numbers > 0])
        return found
