"""A model's scores of normal images with simulated defects painted on them."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from nelbo.data import SIMULATED_SCHEMA, Preprocessing
from nelbo.data.area.looking import seen_of
from nelbo.data.defects.painting import Defect, Painted, defects, paint, spread, usual_sizes
from nelbo.data.defects.subject import subject_of
from nelbo.flows.inference.maps import Window, thumbnail
from nelbo.flows.inference.pipeline import columns_of
from nelbo.flows.inference.progress import progress
from nelbo.vae_core import Scorable, Score
from nelbo.vae_core.pixels import PixelRows, to_unit

#: Most painted images; most normal images that they are made of.
MOST_PAINTED, MOST_IMAGES = 600, 120
#: Number of painted images whose pictures are kept.
_PICTURED = 240
#: Images painted and scored at a time.
_CHUNK = 64


class Unseen(NamedTuple):
    """Normal images that a model has not seen.

    pixels: n images, as the model takes them.
    table: their rows of a manifest.
    size_z: (n,) how far the size of each one's part is off; null where parts are not looked for.
    window: that the model's pictures are shown by.
    """

    pixels: PixelRows
    table: pa.Table
    size_z: pa.Array
    window: Window | None = None


class Work(NamedTuple):
    """A normal image, by its row, and what is painted on it; None to score it as it is."""

    row: int
    defect: Defect | None = None
    is_shown: bool = False


def simulate(
    model: Scorable,
    score: Callable[[np.ndarray], Score],
    unseen: Unseen,
    sizes_px: Sequence[float] = (),
    seed: int = 0,
) -> pa.Table:
    """Score normal images as they are, and with defects painted on them; rows of ``SIMULATED_SCHEMA``.

    Args:
        model: gives the configuration and preprocessing of the images.
        score: pixels to scores, by a model that has not seen these images.
        unseen: images, at most ``MOST_IMAGES`` of which are used.
        sizes_px: lengths of the defects, in pixels of the originals; by default those of `usual_sizes`.
        seed: of all random choices.
    """
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(unseen.table.num_rows)[:MOST_IMAGES])
    of = pa.array(rows)
    unseen = Unseen(unseen.pixels[rows], unseen.table.take(of), unseen.size_z.take(of), unseen.window)
    originals = sizes_of(unseen.table)
    sizes = sizes_px or usual_sizes(originals)
    kinds = defects(sizes, coloured=model.config.channels == 3)
    wanted = spread(len(rows), kinds, MOST_PAINTED, random)
    shown = set(random.permutation(len(wanted))[:_PICTURED].tolist())
    work = [Work(row) for row in range(len(rows))]
    work += [Work(row, defect, number in shown) for number, (row, defect) in enumerate(wanted)]
    painter = _Painter(model, unseen.pixels, originals, random)
    tables = []
    with progress("painting simulated defects", len(work)) as advance:
        for start in range(0, len(work), _CHUNK):
            some = work[start : start + _CHUNK]
            painted = [painter(one) for one in some]
            scored = columns_of(score(np.stack([one.pixels for one in painted])), model)
            tables.append(rows_of(some, painted, scored, unseen))
            advance(len(some))
    return pa.concat_tables(tables)


class _Painter:
    """Paints defects on images as a model takes them."""

    def __init__(
        self, model: Scorable, pixels: PixelRows, originals: Sequence[tuple[int, int]], random: np.random.Generator
    ) -> None:
        self.originals, self.random = originals, random
        self.preprocessing = Preprocessing(**model.preprocessing)
        self.levels = model.config.likelihood == "discretised_logistic"
        # Each image is painted on several times.
        self.image = cache(lambda row: to_unit(pixels[[row]])[0])
        size = self.preprocessing.height, self.preprocessing.width
        self.seen = None if self.preprocessing.area is None else seen_of(self.preprocessing.area, size)
        self.subject = cache(lambda row: self._within(subject_of(self.image(row))))

    def __call__(self, work: Work) -> Painted:
        image = self.image(work.row)
        if work.defect is None:
            return Painted(image, np.nan, np.nan, np.nan)
        scale = self.preprocessing.scale(*self.originals[work.row])
        painted = paint(image, work.defect, scale, self.random, self.subject(work.row))
        # The model does not see the part of a defect that lies outside of its area.
        pixels = painted.pixels if self.seen is None else np.where(self.seen[..., None], painted.pixels, image)
        return painted._replace(pixels=self._allowed(pixels))

    def _within(self, subject: np.ndarray | None) -> np.ndarray | None:
        """Where a defect may lie: on the part of the subject that the model looks at."""
        if self.seen is None:
            return subject
        return subject & self.seen if subject is not None and (subject & self.seen).any() else self.seen

    def _allowed(self, pixels: np.ndarray) -> np.ndarray:
        """The pixels, rounded to values that the likelihood is defined for."""
        if self.preprocessing.binarize is not None:
            return np.asarray(pixels > 0.5, np.float32)
        return (pixels * 255).round() / np.float32(255) if self.levels else pixels


def rows_of(work: Sequence[Work], painted: Sequence[Painted], scored: dict[str, pa.Array], unseen: Unseen) -> pa.Table:
    of = pa.array([one.row for one in work])
    what = [(None,) * len(Defect._fields) if one.defect is None else one.defect for one in work]
    pictures = [
        thumbnail(found.pixels, found.pixels.shape[1] / found.pixels.shape[0], unseen.window) if one.is_shown else None
        for one, found in zip(work, painted, strict=True)
    ]
    columns = {
        **scored,
        **{name: unseen.table[name].take(of) for name in ("relative_path", "image_id")},
        "size_z": unseen.size_z.take(of),
        **dict(zip(Defect._fields, zip(*what, strict=True), strict=True)),
        **{name: pa.array([getattr(one, name) for one in painted], from_pandas=True) for name in Painted._fields[1:]},
        "thumbnail": pictures,
    }
    return pa.table({name: columns[name] for name in SIMULATED_SCHEMA.names}, SIMULATED_SCHEMA)


def sizes_of(table: pa.Table) -> list[tuple[int, int]]:
    """(width, height) in pixels of the images of a manifest's rows."""
    return list(zip(table["width_px"].to_pylist(), table["height_px"].to_pylist(), strict=True))
