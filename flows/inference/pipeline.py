"""Scores files with a model, some at a time: the next ones are decoded and prepared while the model computes."""

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
    MAP_PEAK,
    MEASURES,
    PICTURED_SCHEMA,
    QUALITY,
    REGIONS,
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
from nelbo.flows.inference.area.original import over_original, without_ignored
from nelbo.flows.inference.kept.audit import keep_none
from nelbo.flows.inference.maps import Window, pictured
from nelbo.flows.inference.regions.regions import regions_of
from nelbo.flows.inference.why.looks import Looks
from nelbo.flows.inference.why.sentences import explain
from nelbo.flows.options.settings import DecodingSettings
from nelbo.flows.workspace.calibrations.calibration import Calibration
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.tables import spread
from nelbo.vae_core import Scorable

log = logging.getLogger(__name__)

#: (n,) which of the next files may be drawn, and (n,) their scores -> (n,) of which pictures are kept.
Drawing = Callable[[np.ndarray, np.ndarray], np.ndarray]

#: Least number of images that are decoded, and then scored, at a time.
_LEAST_IMAGES = 64

#: What scoring says of a file: numbers, or null and the reason why it has no score; whether it has colour that the
#: model does not see; and for a flagged file its pictures and regions.
SCORED_SCHEMA = pa.schema(
    [
        *((name, pa.float64()) for name in (*MEASURES, *QUALITY, MAP_PEAK)),
        ("reason", pa.string()),
        ("why", pa.string()),
        ("drops_colour", pa.bool_()),
        ("part", pa.string()),
        ("variant", pa.string()),
        *PICTURED_SCHEMA,
        ("regions", REGIONS),
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
    *,
    peaks: bool = False,
) -> Generator[pa.Table, None, None]:
    """Decode and score files; rows of ``SCORED_SCHEMA`` in the files' order, some at a time.

    Args:
        files: any number of them; taken as they are needed, on another thread.
        calibration: keeps a map, a thumbnail and the reason of each image that it flags; None flags nothing.
        looks: of each variant's training images, as far as they are known, for the reasons.
        draw: which images that are not flagged keep a map and a thumbnail, too; see `audit.Draw`, `near.Near`.
        window: of the thumbnails.
        peaks: compute the map of each image, for its largest value.
    """
    with closing(ahead(_prepared(model, files, decoding))) as batches:
        for images, quality in batches:
            yield _scored(model, images, quality, calibration, looks, draw, window, peaks=peaks)


def score_image(
    model: Scorable, values: np.ndarray, calibration: Calibration | None, looks: Mapping[str | None, Looks]
) -> pa.Table:
    """Score one image in memory: one row of ``SCORED_SCHEMA``; for `values` see `data.image_of`."""
    images = _sound(image_of(values, Preprocessing(**model.preprocessing)), model)
    return _scored(model, images, _quality(images), calibration, looks, keep_none, None)


class Mapped(NamedTuple):
    """Maps of some files.

    reasons: of each file, None or why it has no map.
    levels: (n_readable, gh, gw) float32, the maps of the readable files: how unusual each place is, in units above
        what is usual; on one scale for all images, whatever their variant.
    parts, aspects: (n_readable) see `data.Images`.
    """

    reasons: list[str | None]
    levels: np.ndarray
    parts: list[Part | None]
    aspects: np.ndarray


def map_files(model: Scorable, files: Iterable[File], decoding: DecodingSettings) -> Generator[Mapped, None, None]:
    """Decode files and compute the maps of all of them, in the files' order, some at a time.

    Raises:
        UsageError: the engine was exported by version 0.1, and makes no maps.
    """
    with closing(ahead(_prepared(model, files, decoding))) as batches:
        for images, _ in batches:
            everything = np.ones(len(images.pixels), bool)
            score, rows, maps = _score_and_map(model, images, lambda _, of=everything: of)  # type: ignore[misc]
            if maps is None:
                raise UsageError("this engine makes no maps. Make it again with nelbo export, or say --engine keras.")
            levels = vae_core.map_units(maps, _scales(model, score, rows))
            yield Mapped(images.reasons, levels, images.parts, images.aspects)


def _prepared(
    model: Scorable, files: Iterable[File], decoding: DecodingSettings
) -> Generator[tuple[Images, dict[str, np.ndarray]], None, None]:
    """Decoded files, some at a time, without images outside the likelihood's support; with what they look like."""
    files = iter(files)
    if (first := next(files, None)) is None:
        # Without files the model need not be compiled.
        return
    files = chain([first], files)
    graph, preprocessing = model.graph(maps=False), Preprocessing(**model.preprocessing)
    if model.tiles is not None:
        for image in iter_wholes(files, preprocessing, limits=decoding.limits, workers=decoding.workers):
            yield image, _quality(image)
        return
    at_once = graph.batch_size * graph.parallel
    # At the end of each call all threads wait for the last one, so a call must hold more than a few large images.
    size = at_once * max(1, _LEAST_IMAGES // at_once)
    for decoded in iter_images(files, preprocessing, size, limits=decoding.limits, workers=decoding.workers):
        images = _sound(decoded, model)
        yield images, _quality(images)


def _quality(images: Images) -> dict[str, np.ndarray]:
    return {**image_quality(images.pixels), **part_quality(images.parts)}


def _sound(images: Images, model: Scorable) -> Images:
    """The images within the likelihood's support; the others get the reason "unsupported"."""
    sound = vae_core.supported(images.pixels, model.config.likelihood)
    if sound.all():
        # Nearly always; what follows copies all pixels.
        return images
    found = iter(sound)
    return Images(
        images.pixels[sound],
        [reason or (None if next(found) else "unsupported") for reason in images.reasons],
        images.drops_colour[sound],
        list(compress(images.parts, sound)),
        images.aspects[sound],
        images.overviews[sound],
        list(compress(images.sizes, sound)),
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
    *,
    peaks: bool = False,
) -> pa.Table:
    found: dict[str, pa.Array] = {}
    readable = np.array([reason is None for reason in images.reasons])
    is_flagged = np.zeros(len(readable), bool)

    def looked_at(score: vae_core.Score) -> np.ndarray:
        found.update({**columns_of(score, model), "size_z": size_z(images.parts)})
        if calibration is None:
            return np.full(readable.sum(), peaks)
        scores = np.full(len(readable), np.nan)
        scores[readable] = calibration.statistic.scores(pa.table(found))
        is_flagged[readable] = calibration.flags(pa.table(found))
        return (is_flagged | draw(readable & ~is_flagged, scores))[readable]

    score, rows, maps = _score_and_map(model, images, looked_at)
    scales = _scales(model, score, rows)
    if peaks and calibration is None and maps is not None:
        found[MAP_PEAK] = pa.array(vae_core.map_peaks(maps, scales).astype(np.float64))
    statuses = [None if part is None else part.status for part in images.parts]
    columns = found | {name: pa.array(values, pa.float64(), from_pandas=True) for name, values in quality.items()}
    columns |= {"drops_colour": pa.array(images.drops_colour), "part": pa.array(statuses, pa.string())}
    is_kept = np.zeros(len(readable), bool)
    whys, pictures, regions = pa.nulls(0, pa.string()), PICTURED_SCHEMA.empty_table(), pa.nulls(0, REGIONS)
    if calibration is not None:
        is_kept[np.flatnonzero(readable)[rows]] = True
        pixels, flagged = images.pixels[rows], is_flagged[readable][rows]
        measured = pa.table(columns).take(pa.array(rows[flagged]))
        units = None if maps is None else vae_core.map_units(maps, scales)
        levels = _levels(calibration, columns["variant"].take(pa.array(rows)).to_pylist())
        preprocessing = Preprocessing(**model.preprocessing)
        area, of_flagged = preprocessing.area, units if units is None else units[flagged]
        whys = explain(measured, pixels[flagged], of_flagged, calibration, looks, area)
        ends = np.stack([_nats(scales, 0.0), _nats(scales, calibration.heatmap_top)], axis=1)
        sizes, parts = ([some[row] for row in rows] for some in (images.sizes, images.parts))
        shown, aspects = images.overviews[rows], images.aspects[rows]
        pictures = pictured(shown, aspects, maps, ends, window, _nats(scales, levels), sizes, area)
        regions = (
            pa.nulls(len(rows), REGIONS)
            if units is None
            else regions_of(units, np.where(flagged, levels, np.nan), sizes, parts, preprocessing)
        )
    columns = spread(columns, readable) | spread({"why": whys}, is_flagged)
    columns |= spread({name: pictures[name] for name in pictures.column_names} | {"regions": regions}, is_kept)
    columns["reason"] = pa.array(images.reasons, pa.string())
    return pa.table({name: columns[name] for name in SCORED_SCHEMA.names}, SCORED_SCHEMA)


def _score_and_map(
    model: Scorable, images: Images, chosen: Callable[[vae_core.Score], np.ndarray]
) -> tuple[vae_core.Score, np.ndarray, np.ndarray | None]:
    """Scores of images, the rows that `chosen` picks by their scores, and the maps of these rows.

    Maps cover each whole image, NaN where the model does not look. See `vae_core.score_and_map`.
    """
    area = Preprocessing(**model.preprocessing).area
    if model.tiles is None:
        score, rows, maps = vae_core.score_and_map(model, images.pixels, chosen)
        return score, rows, None if maps is None else over_original(without_ignored(maps, area), area)
    score, of_tiles = vae_core.score_tiles(model, images.wholes)
    rows = np.flatnonzero(chosen(score))
    # Images of tiles come one by one, so all maps have one size.
    maps = np.stack([of_tiles[row] for row in rows]) if len(rows) else np.empty((0, 1, 1), np.float32)
    return score, rows, over_original(maps, area)


def _scales(model: Scorable, score: vae_core.Score, rows: np.ndarray) -> np.ndarray:
    """(k, 2) for each of some rows, the nats that are usual on its map, and the nats of one unit."""
    number = 0 if score.variant is None else score.variant[rows].astype(int)
    return np.broadcast_to(model.map_scales[number], (len(rows), 2))


def _nats(scales: np.ndarray, units: float | np.ndarray) -> np.ndarray:
    """(k,) the nats that lie so many units above what is usual."""
    return np.asarray(scales[:, 0] + units * scales[:, 1], np.float64)


def _levels(calibration: Calibration, variants: Sequence[str | None]) -> np.ndarray:
    """(k,) level that regions exceed in images of each variant, in units above what is usual; NaN if not known."""
    level = calibration.region_level
    return np.full(len(variants), np.nan) if level is None else level.of(variants)


def size_z(parts: Sequence[Part | None]) -> pa.Array:
    """(n,) how far the size of each part is off, see `data.Part`; null where parts are not looked for."""
    return pa.array([None if part is None else part.size_z for part in parts], pa.float64())


def columns_of(score: vae_core.Score, model: Scorable) -> dict[str, pa.Array]:
    """A model's scores as columns, each (n,): those of ``MEASURED``, and ``MAP_PEAK``; ``size_z`` is null."""
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
        MAP_PEAK: score.map_peak,
    }
    # Not every model has every score.
    nulls = pa.nulls(len(score.nelbo), pa.float64())
    columns = {
        name: nulls if values is None else pa.array(values, pa.float64(), from_pandas=name == MAP_PEAK)
        for name, values in numbers.items()
    }
    return columns | {"variant": _variants(score, config.variants)}


def _variants(score: vae_core.Score, names: Sequence[str]) -> pa.Array:
    if score.variant is None:
        return pa.nulls(len(score.nelbo), pa.string())
    return pa.array(names, pa.string()).take(pa.array(score.variant.astype(np.int64)))


def warn_of_colour(rows: pa.Table, model_id: str) -> int:
    """The number of scored rows whose colour is dropped; a warning tells it unless it is 0.

    Args:
        rows: with the column ``drops_colour``.
    """
    n = pc.sum(rows["drops_colour"]).as_py() or 0
    if n:
        log.warning(
            "%d of %d images have colour, but model %s sees them in grey: it misses defects of colour alone. "
            "Train a model on images in colour with channels=auto (or 3), or score grey images.",
            n,
            pc.sum(pc.is_valid(rows["drops_colour"])).as_py(),
            model_id,
        )
    return n
