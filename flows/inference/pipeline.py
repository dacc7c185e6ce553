"""Files through a model, batch by batch: the next ones are decoded and prepared while one is computed."""

import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from itertools import chain, compress
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo import vae_core
from nelbo.data import (
    JOINT_PARTS,
    MEASURES,
    PICTURED_SCHEMA,
    QUALITY,
    File,
    Images,
    Part,
    Preprocessing,
    image_of,
    image_quality,
    iter_images,
    iter_wholes,
    part_quality,
)
from nelbo.flows.inference.ahead import ahead
from nelbo.flows.inference.kept.audit import keep_none
from nelbo.flows.inference.maps import Window, pictured
from nelbo.flows.inference.why.looks import Looks
from nelbo.flows.inference.why.sentences import explain
from nelbo.flows.options.settings import DecodingSettings
from nelbo.flows.workspace.calibrations.calibration import Calibration
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.tables import spread
from nelbo.vae_core import Scorable

log = logging.getLogger(__name__)

#: (n,) which of the next files in order may be drawn, and their scores -> (n,) which are kept to be looked at.
Drawing = Callable[[np.ndarray, np.ndarray], np.ndarray]

#: Images that are decoded, and then computed, at a time, at least.
_LEAST_IMAGES = 64

#: What scoring says of a file: numbers, null for a file without a score, or the reason why it has none; whether it has
#: colour that the model does not see; and what a flagged one is looked at by.
SCORED_SCHEMA = pa.schema(
    [
        *((name, pa.float64()) for name in (*MEASURES, *QUALITY)),
        ("reason", pa.string()),
        ("why", pa.string()),
        ("drops_colour", pa.bool_()),
        ("part", pa.string()),
        ("variant", pa.string()),
        *PICTURED_SCHEMA,
    ]
)


def score_files(
    model: Scorable,
    files: Iterable[File],
    decoding: DecodingSettings,
    calibration: Calibration | None = None,
    looks: Mapping[str | None, Looks] = MappingProxyType({}),
    draw: Drawing = keep_none,
    window: Window | None = None,
) -> Generator[pa.Table, None, None]:
    """Decode and score files; rows of ``SCORED_SCHEMA`` in the files' order, some at a time.

    Args:
        files: any number of them; taken as they are needed, on another thread.
        calibration: of the images that it flags a map, a thumbnail and why are kept; None keeps none.
        looks: of each variant's training images, as far as they are known, to say why by.
        draw: of which images that it does not flag a map and a thumbnail are kept, too, see `audit.Draw`, `near.Near`.
        window: of the thumbnails.
    """
    with closing(ahead(_prepared(model, files, decoding))) as batches:
        for images, quality in batches:
            yield _scored(model, images, quality, calibration, looks, draw, window)


def score_image(
    model: Scorable, values: np.ndarray, calibration: Calibration | None, looks: Mapping[str | None, Looks]
) -> pa.Table:
    """The same of an image in memory, one row; see `data.image_of`."""
    images = _sound(image_of(values, Preprocessing(**model.preprocessing)), model)
    return _scored(model, images, _quality(images), calibration, looks, keep_none, None)


class Mapped(NamedTuple):
    """Maps of some files.

    reasons: of each file, None or why it has no map.
    levels: (n_readable, gh, gw) float32, of those that have one: how unusual each place is, in units above what is
        usual; by one scale for all images, whatever their variant.
    parts, aspects: (n_readable) see `data.Images`.
    """

    reasons: list[str | None]
    levels: np.ndarray
    parts: list[Part | None]
    aspects: np.ndarray


def map_files(model: Scorable, files: Iterable[File], decoding: DecodingSettings) -> Generator[Mapped, None, None]:
    """Decode files and compute the maps of all of them, in the files' order, some at a time.

    Raises:
        UsageError: it is an engine of 0.1, which makes none.
    """
    with closing(ahead(_prepared(model, files, decoding))) as batches:
        for images, _ in batches:
            everything = np.ones(len(images.pixels), bool)
            score, rows, maps = _score_and_map(model, images, lambda _, of=everything: of)  # type: ignore[misc]
            levels = _units(maps, _scales(model, score, rows))
            if levels is None:
                raise UsageError("this engine makes no maps. Make it again with nelbo export, or say --engine keras.")
            yield Mapped(images.reasons, levels, images.parts, images.aspects)


def _prepared(
    model: Scorable, files: Iterable[File], decoding: DecodingSettings
) -> Generator[tuple[Images, dict[str, np.ndarray]], None, None]:
    """Some files at a time, without images that the likelihood is not defined for; with what they look like."""
    files = iter(files)
    if (first := next(files, None)) is None:
        # Compiling takes longer than all else that there is to do with no files.
        return
    files = chain([first], files)
    graph, preprocessing = model.graph(maps=False), Preprocessing(**model.preprocessing)
    if model.tiles is not None:
        for image in iter_wholes(files, preprocessing, limits=decoding.limits, workers=decoding.workers):
            yield image, _quality(image)
        return
    at_once = graph.batch_size * graph.parallel
    # All threads wait for the last one at the end of each call, which four large images a batch would make often.
    size = at_once * max(1, _LEAST_IMAGES // at_once)
    for decoded in iter_images(files, preprocessing, size, limits=decoding.limits, workers=decoding.workers):
        images = _sound(decoded, model)
        yield images, _quality(images)


def _quality(images: Images) -> dict[str, np.ndarray]:
    return {**image_quality(images.pixels), **part_quality(images.parts)}


def _sound(images: Images, model: Scorable) -> Images:
    """Without those that the likelihood is not defined for."""
    sound = vae_core.supported(images.pixels, model.config.likelihood)
    found = iter(sound)
    return Images(
        images.pixels[sound],
        [reason or (None if next(found) else "unsupported") for reason in images.reasons],
        images.drops_colour[sound],
        list(compress(images.parts, sound)),
        images.aspects[sound],
        list(compress(images.wholes, sound)),
    )


def _scored(
    model: Scorable,
    images: Images,
    quality: dict[str, np.ndarray],
    calibration: Calibration | None,
    looks: Mapping[str | None, Looks],
    draw: Drawing,
    window: Window | None,
) -> pa.Table:
    found: dict[str, pa.Array] = {}
    readable = np.array([reason is None for reason in images.reasons])
    is_flagged = np.zeros(len(readable), bool)

    def looked_at(score: vae_core.Score) -> np.ndarray:
        found.update({**columns_of(score, model), "size_z": size_z(images.parts)})
        if calibration is None:
            return keep_none(readable)[readable]
        scores = np.full(len(readable), np.nan)
        scores[readable] = calibration.statistic.scores(pa.table(found))
        is_flagged[readable] = calibration.flags(pa.table(found))
        return (is_flagged | draw(readable & ~is_flagged, scores))[readable]

    score, rows, maps = _score_and_map(model, images, looked_at)
    statuses = [None if part is None else part.status for part in images.parts]
    columns = found | {name: pa.array(values, pa.float64(), from_pandas=True) for name, values in quality.items()}
    columns |= {"drops_colour": pa.array(images.drops_colour), "part": pa.array(statuses, pa.string())}
    is_kept = np.zeros(len(readable), bool)
    is_kept[np.flatnonzero(readable)[rows]] = True
    whys, pictures = pa.nulls(0, pa.string()), PICTURED_SCHEMA.empty_table()
    if calibration is not None:
        pixels, scales, flagged = images.pixels[rows], _scales(model, score, rows), is_flagged[readable][rows]
        measured = pa.table(columns).take(pa.array(rows[flagged]))
        units = _units(maps, scales)
        whys = explain(measured, pixels[flagged], units if units is None else units[flagged], calibration, looks)
        pictures = pictured(pixels, images.aspects[rows], maps, _ends(scales, calibration.heatmap_top), window)
    columns = spread(columns, readable) | spread({"why": whys}, is_flagged)
    columns |= spread({name: pictures[name] for name in pictures.column_names}, is_kept)
    columns["reason"] = pa.array(images.reasons, pa.string())
    return pa.table({name: columns[name] for name in SCORED_SCHEMA.names}, SCORED_SCHEMA)


def _score_and_map(
    model: Scorable, images: Images, chosen: Callable[[vae_core.Score], np.ndarray]
) -> tuple[vae_core.Score, np.ndarray, np.ndarray | None]:
    """Scores of images, rows of those that are chosen by them, and their maps; see `vae_core.score_and_map`."""
    if model.tiles is None:
        return vae_core.score_and_map(model, images.pixels, chosen)
    score, maps = vae_core.score_tiles(model, images.wholes)
    rows = np.flatnonzero(chosen(score))
    # Images of tiles come one by one, so all maps have one size.
    return score, rows, np.stack([maps[row] for row in rows]) if len(rows) else np.empty((0, 1, 1), np.float32)


def _scales(model: Scorable, score: vae_core.Score, rows: np.ndarray) -> np.ndarray:
    """(k, 2) nats that are usual on the maps of some rows, and one unit."""
    number = 0 if score.variant is None else score.variant[rows].astype(int)
    return np.broadcast_to(model.map_scales[number], (len(rows), 2))


def _ends(scales: np.ndarray, top: float) -> np.ndarray:
    """(k, 2) nats that are drawn black and pale yellow: what is usual, and `top` units above it."""
    usual, unit = scales.T
    return np.stack([usual, usual + top * unit], axis=1)


def _units(maps: np.ndarray | None, scales: np.ndarray) -> np.ndarray | None:
    """Maps in units above what is usual."""
    return None if maps is None else (maps - scales[:, :1, None]) / scales[:, 1:, None]


def size_z(parts: Sequence[Part | None]) -> pa.Array:
    """(n,) how far each part's size is off, see `data.Part`; null where none is looked for."""
    return pa.array([None if part is None else part.size_z for part in parts], pa.float64())


def columns_of(score: vae_core.Score, model: Scorable) -> dict[str, pa.Array]:
    """A model's scores by the names of ``MEASURED``; each (n,). A part's size is none of them, and null."""
    n_values = Preprocessing(**model.preprocessing).n_values
    config = model.config
    numbers = {
        "nelbo_nats": score.nelbo,
        "distortion_nats": score.distortion,
        "rate_nats": score.rate,
        "bits_per_dim": vae_core.bits_per_dim(score.nelbo, n_values, density=config.is_density)
        if config.is_pixels
        else None,
        "z_mean_norm": score.z_mean_norm,
        "z_log_var_sum": score.z_log_var_sum,
        "worst_pixels_nats": score.worst_pixels,
        "peak": score.peak,
        **{name: getattr(score, name) for name in JOINT_PARTS},
        "size_z": None,
        "variant_z": score.variant_z,
    }
    # Not all models have all of them.
    nulls = pa.nulls(len(score.nelbo), pa.float64())
    columns = {name: nulls if values is None else pa.array(values, pa.float64()) for name, values in numbers.items()}
    return columns | {"variant": _variants(score, config.variants)}


def _variants(score: vae_core.Score, names: Sequence[str]) -> pa.Array:
    if score.variant is None:
        return pa.nulls(len(score.nelbo), pa.string())
    return pa.array(names, pa.string()).take(pa.array(score.variant.astype(np.int64)))


def warn_of_colour(rows: pa.Table, model_id: str) -> int:
    """Say that colour is dropped, where it is; in how many of some scored rows.

    Args:
        rows: with the column ``drops_colour``.
    """
    n = pc.sum(rows["drops_colour"]).as_py() or 0
    if n:
        log.warning(
            "%d of %d images have colour, and model %s sees them in grey: what is wrong in colour alone is missed. "
            "Train a model on images in colour with channels=auto (or 3), or score grey images.",
            n,
            pc.sum(pc.is_valid(rows["drops_colour"])).as_py(),
            model_id,
        )
    return n
