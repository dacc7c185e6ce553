"""A tile model's scores of normal images with simulated defects painted on them, at the images' own resolution.

A defect changes the few tiles that it lies in; the other tiles of an image are scored only once.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nelbo import vae_core
from nelbo.data import SIMULATED_SCHEMA, Images, Preprocessing
from nelbo.data.area.looking import outside, seen_of
from nelbo.data.defects.painting import Defect, Painted, paint, spread, usual_sizes
from nelbo.data.defects.painting import defects as kinds_of
from nelbo.data.defects.subject import subject_of
from nelbo.flows.inference.maps import Window
from nelbo.flows.inference.painting.simulation import Unseen, Work, rows_of, sizes_of
from nelbo.flows.inference.pipeline import columns_of
from nelbo.flows.inference.progress import progress
from nelbo.vae_core.pixels import to_unit

#: Rows and columns.
Around = tuple[slice, ...]

#: Most defects that are painted; each one costs a few tiles.
MOST_PAINTED = 300
#: About how many tiles the unpainted images have in all, and the least and most images: 64 megapixels are 1,296 tiles.
MOST_TILES, LEAST_IMAGES, MOST_IMAGES = 4_000, 10, 120
#: Side of the piece that a defect is painted on: in lengths of the defect, and the least in pixels.
_AROUND, _LEAST_AROUND_PX = 4, 64


def n_images(model: "vae_core.Model", table: pa.Table) -> int:
    """How many images of a manifest are painted on: about as many as have `MOST_TILES` tiles."""
    config, preprocessing = model.config, Preprocessing(**model.preprocessing)
    step = config.height - (config.tile_overlap or 0)
    scale = (preprocessing.tile_scale or 1.0) / step
    each = np.median([max(1.0, scale * width) * max(1.0, scale * height) for width, height in sizes_of(table)] or [1])
    return int(np.clip(MOST_TILES // each, LEAST_IMAGES, MOST_IMAGES))


def simulate_tiles(
    model: "vae_core.Model",
    images: Iterable[Images],
    table: pa.Table,
    sizes_px: Sequence[float] = (),
    seed: int = 0,
    window: Window | None = None,
) -> pa.Table:
    """Score normal images as they are, and with defects painted on them; rows of ``SIMULATED_SCHEMA``.

    Args:
        model: of tiles, that has not seen these images.
        images: one at a time, decoded with their wholes; those that cannot be read are left out.
        table: their rows of a manifest.
        sizes_px: lengths of the defects, in pixels of the originals; by default those of `usual_sizes` for a tile.
        seed: of all random choices.
        window: that the model's pictures are shown by.
    """
    random = np.random.default_rng(seed)
    unseen = Unseen(np.empty(0), table, pa.nulls(table.num_rows, pa.float64()), window)
    graph = vae_core.fast_graph(model)
    preprocessing = Preprocessing(**model.preprocessing)
    side = model.config.height / (preprocessing.tile_scale or 1.0)
    kinds = kinds_of(sizes_px or usual_sizes([(round(side), round(side))]), coloured=model.config.channels == 3)
    wanted = spread(table.num_rows, kinds, MOST_PAINTED, random)
    tables = []
    with progress("painting simulated defects", table.num_rows) as advance:
        for row, image in enumerate(images):
            advance(1)
            if not image.wholes:
                continue
            work = [Work(row), *(Work(row, defect, is_shown=True) for number, defect in wanted if number == row)]
            painter = _Painter(image, sizes_of(table)[row], preprocessing, random)
            painted, found = zip(*_scored(model, graph, painter, work), strict=True)
            columns = [columns_of(one, model) for one in found]
            scored = {name: pa.concat_arrays([one[name] for one in columns]) for name in columns[0]}
            tables.append(rows_of(work, painted, scored, unseen))
    return pa.concat_tables(tables) if tables else SIMULATED_SCHEMA.empty_table()


def _scored(
    model: "vae_core.Model", graph: Any, painter: "_Painter", work: Sequence[Work]
) -> Iterator[tuple[Painted, vae_core.Score]]:
    """Pictures and scores of an image as it is, and with each defect; a defect's picture shows its surroundings."""
    looked = vae_core.LookedAt(model, painter.levels, graph)
    for one in work:
        if one.defect is None:
            yield Painted(painter.overview, np.nan, np.nan, np.nan), looked.score()
            continue
        around, painted, levels = painter(one.defect)
        before = painter.levels[around].copy()
        painter.levels[around] = levels
        yield painted, looked.score_changed(painter.levels, _changed(around, before, levels))
        painter.levels[around] = before


def _about(place: float, side: int, wide: int) -> slice:
    """A range of `wide` pixels along a side of an image, centred on `place`, shifted to lie within the image."""
    start = min(max(0, round(place - wide / 2)), max(0, side - wide))
    return slice(start, min(side, start + wide))


def _changed(around: Around, before: NDArray[Any], after: NDArray[Any]) -> tuple[int, int, int, int]:
    """Upper, left, lower and right edge of the changed pixels of an image; all 0 if nothing changed."""
    other = before != after
    rows, columns = np.nonzero(other if other.ndim == 2 else other.any(axis=2))
    if not len(rows):
        return 0, 0, 0, 0
    upper, left = around[0].start, around[1].start
    return upper + rows.min(), left + columns.min(), upper + rows.max() + 1, left + columns.max() + 1


class _Painter:
    """Paints on an image at its own resolution.

    Args:
        image: one, decoded with its whole.
        size: width and height in pixels of its file.
        preprocessing: of the model.
        random: where the choices come from.
    """

    def __init__(
        self, image: Images, size: tuple[int, int], preprocessing: Preprocessing, random: np.random.Generator
    ) -> None:
        self.levels, self.overview = image.wholes[0].copy(), image.pixels[0]
        self.random, self.is_binary = random, preprocessing.binarize is not None
        area = preprocessing.area
        shown = size if area is None or area.crop is None else area.crop[2:]
        height, width = self.levels.shape[:2]
        # The areas give the scale even if the image is turned.
        self.scale = math.sqrt(height * width / math.prod(shown))
        self.area = area
        self.places = np.argwhere(self._allowed(subject_of(self.overview), self.overview.shape[:2]))

    def __call__(self, defect: Defect) -> tuple[Around, Painted, NDArray[Any]]:
        """Paint a defect somewhere: the rows and columns of the piece around it, the painted piece, and its levels."""
        place = self.places[self.random.integers(len(self.places))] + self.random.random(2)
        at = place / self.overview.shape[:2] * self.levels.shape[:2]
        wide = round(max(_LEAST_AROUND_PX, _AROUND * defect.size_px * self.scale))
        around = tuple(_about(*one, wide) for one in zip(at, self.levels.shape[:2], strict=True))
        before = to_unit(self.levels[around])
        before = before if before.ndim == 3 else before[..., None]
        seen = self._seen(around)
        painted = paint(before, defect, (self.scale, self.scale), self.random, self._middle(seen))
        pixels = np.where(seen[..., None], painted.pixels, before)
        pixels = (pixels > 0.5).astype(np.float32) if self.is_binary else pixels
        levels = np.rint(pixels * np.iinfo(self.levels.dtype).max).astype(self.levels.dtype)
        return around, painted._replace(pixels=pixels), levels.reshape(self.levels[around].shape)

    def _allowed(self, subject: NDArray[np.bool_] | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Where a defect may lie: on the part of the subject that the model looks at."""
        seen = None if self.area is None else seen_of(self.area, shape)
        seen = np.ones(shape, bool) if seen is None else seen
        return seen if subject is None or not (subject & seen).any() else subject & seen

    def _seen(self, around: Around) -> NDArray[np.bool_]:
        """Which pixels of a piece are not ignored."""
        shape = tuple(one.stop - one.start for one in around)
        if self.area is None or (hidden := outside(self.area)) is None:
            return np.ones(shape, bool)
        rows, columns = (
            (np.arange(one.start, one.stop) + 0.5) / side for one, side in zip(around, self.levels.shape, strict=False)
        )
        n_rows, n_columns = hidden.shape
        return hidden[(rows * n_rows).astype(int)][:, (columns * n_columns).astype(int)] < 0.5

    def _middle(self, seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Where a defect's middle may lie, so that the piece shows its surroundings."""
        middle = np.zeros_like(seen)
        middle[tuple(slice(side // 3, side - side // 3) for side in seen.shape)] = True
        return middle & seen if (middle & seen).any() else seen
