"""The step of ``train`` that takes time: decode once, fit, and keep the model with what is known about it."""

import contextlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo import vae_core
from nelbo.data import (
    CHANGED,
    Cache,
    CachedPixels,
    Manifest,
    Part,
    Place,
    Preprocessing,
    cache_images,
    folds,
    image_quality,
    may_have_colour,
    near_duplicates,
    part_quality,
    write_table,
)
from nelbo.data import n_groups as n_groups_of
from nelbo.data.area.looking import outside
from nelbo.detectors import images_of_variant
from nelbo.flows.evaluation import normals as looks
from nelbo.flows.evaluation.normals import Finding
from nelbo.flows.evaluation.thresholds import calibration_needs
from nelbo.flows.inference.maps import Window, learn_window
from nelbo.flows.inference.measured import with_quality
from nelbo.flows.inference.models import import_keras, keep_bundle
from nelbo.flows.inference.painting.simulation import Unseen, simulate
from nelbo.flows.inference.pipeline import columns_of, size_z
from nelbo.flows.inference.progress import progress
from nelbo.flows.inference.tiles.learning import learn_tiles
from nelbo.flows.inference.why.looks import keep_looks, learn_looks
from nelbo.flows.options.options import TrainOptions
from nelbo.flows.options.settings import TrainingSettings
from nelbo.flows.report.found_parts import write_found_parts, write_strangest, write_variants
from nelbo.flows.report.normals import keep_normals
from nelbo.flows.steps.ingest import content_id, publish_manifest, read_manifest, said
from nelbo.flows.steps.parts import (
    assign_parts,
    check_enough,
    count_groups,
    crosses,
    each_once,
    first_of_each,
    is_enough,
    with_alike,
    with_parts,
)
from nelbo.flows.steps.precision.fitting import check_precision, fit_second
from nelbo.flows.steps.sensitivity import keep as keep_simulated
from nelbo.flows.steps.settle import Settled
from nelbo.flows.workspace.calibrations.statistic import Statistic
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.models import SEEN_DIGITS
from nelbo.flows.workspace.runs import Run, code_version
from nelbo.flows.workspace.tables import with_column
from nelbo.vae_core.pixels import to_unit
from nelbo.vae_core.seen import places_of

log = logging.getLogger(__name__)

PARTS = ("train", "validation", "calibration")
#: Parts that a linear head is fitted on.
_FITTED = ("train", "validation")

#: Images examined at a time.
_CHUNK = 256


@dataclass(frozen=True)
class Fitted:
    """A trained model, the sizes of its parts, and how many groups its images form.

    crossed: whether images that it was trained on set the threshold, see `unseen_rows`; then all of them count.
    findings: what people should know about its images.
    has_second: whether a fit in 8 bits lies beside it.
    """

    model_id: str
    n_train: int
    n_validation: int
    n_calibration: int
    n_groups: int | None = None
    n_near_duplicates: int = 0
    crossed: bool = False
    findings: tuple[Finding, ...] = ()
    has_second: bool = False


@dataclass(frozen=True)
class Normals:
    """Decoded normal images, in parts.

    pixels: the pixels of all usable images.
    table: their rows of the manifest, with the use of each as its ``split``.
    found: the part found in each image; None where none is looked for.
    alike: findings on near-duplicates among them.
    crossed: whether all of them also set the threshold.
    """

    pixels: CachedPixels
    table: pa.Table
    found: list[Part | None]
    alike: list[Finding]
    crossed: bool

    def rows(self, *parts: str) -> np.ndarray:
        """Row numbers of some parts."""
        return np.flatnonzero(pc.is_in(self.table["split"], pa.array(parts)))

    def texts(self, column: str, rows: np.ndarray) -> list[Any]:
        """The values of some rows in a column."""
        return self.table[column].take(pa.array(rows)).to_pylist()

    @property
    def counts(self) -> dict[str, int]:
        """Images in each part."""
        return {part: len(self.rows(part)) for part in PARTS}


def fit(settled: Settled, batch_id: str, run: Run) -> Fitted:
    """Decode, split, train and save the model; readability and split go back into the manifest.

    If it is killed and run again with the same options, it continues after the last finished epoch.
    """
    options = settled.options
    workspace = Workspace.at(options.workspace)
    manifest = read_manifest(workspace, batch_id)
    findings = said(_of_listed(manifest, options))
    cache = _decode(manifest, options, batch_id)
    manifest, normals = _part(manifest, cache, options)
    publish_manifest(manifest, workspace, batch_id, run)
    findings += said([*looks.unusable([manifest.table]), *normals.alike])
    findings += said(looks.of_pixels(normals.pixels, normals.table))
    training = _train(manifest, normals, options, unfinished(options, batch_id) / "checkpoint.safetensors")
    strangest, question = _strangest(training, normals)
    findings += [*said(_of_trained(training, normals)), question]
    for warning in training.warnings:
        log.warning("%s", warning)
    n_groups, variants = count_groups(manifest.table), _sizes(training)
    facts = _facts(training, normals, manifest, options, batch_id) | {
        **_of_files(manifest.table),
        "n_groups": n_groups,
        "settled": settled.why,
        "data": [finding.to_dict() for finding in findings],
        **({"curve": looks.describe_curve(training.curve)} if training.curve else {}),
        **({"variants": variants} if variants else {}),
        **({"crossed": True} if normals.crossed else {}),
    }
    if normals.crossed:
        _keep_unseen(training.unseen, normals, training.model, unseen_rows(options, batch_id))
    model_id = keep_bundle(training.model, workspace, facts)
    has_second = _fit_again(training, normals, options, batch_id, model_id, run)
    _keep_beside(training, normals, strangest, options, model_id, run)
    counts = {f"n_{part}": n for part, n in normals.counts.items()}
    if normals.crossed:
        counts["n_calibration"] = len(normals.rows(*_FITTED))
    n_alike = sum(finding.n for finding in normals.alike if finding.name == "alike")
    return Fitted(
        model_id,
        **counts,
        n_groups=n_groups,
        n_near_duplicates=n_alike,
        crossed=normals.crossed,
        findings=tuple(findings),
        has_second=has_second,
    )


def _fit_again(training: Any, normals: Normals, options: TrainOptions, batch_id: str, model_id: str, run: Run) -> bool:
    """Make the second fit if the options ask for it, and keep what sets its threshold; returns whether it was made."""
    rows = normals.rows(*_FITTED)
    given = (normals.pixels.take(rows), train_config(options), _folds(normals, options))
    unseen = fit_second(training, *given, options, model_id, unfinished(options, batch_id), run)
    if unseen is not None and normals.crossed:
        _keep_unseen(unseen, normals, training.model, unseen_rows(options, batch_id, vae_core.INT8))
    return unseen is not None


def _keep_beside(
    training: Any, normals: Normals, strangest: np.ndarray, options: TrainOptions, model_id: str, run: Run
) -> None:
    """Keep beside a model what it sees of simulated defects, how its images look, its history, and pictures."""
    workspace = Workspace.at(options.workspace)
    window = _window(training, normals)
    simulated = _simulate(training, normals, options, window)
    if simulated is not None:
        keep_simulated(simulated, workspace, model_id, run)
    _keep_normals(training, normals, options.seed, workspace, model_id, run, window)
    # If the same model is made again in another way, history and bundle keep describing the first time.
    if not workspace.history(model_id).exists():
        _write_history(training.history, workspace.history(model_id), workspace, run)
    if options.frame is not None:
        write_found_parts(workspace, model_id, normals.pixels, normals.found, window)
    if training.model.config.variants:
        fitted_on = normals.pixels.take(normals.rows(*_FITTED))
        write_variants(workspace, model_id, fitted_on, training.unseen.variant, window, options.area)
    write_strangest(workspace, model_id, normals.pixels.take(strangest), window, options.area)


def _of_listed(manifest: Manifest, options: TrainOptions) -> list[Finding]:
    """Findings from the headers of the files."""
    table = each_once(manifest.table)
    is_whole = options.frame is None and options.tile is None
    findings = looks.of_files([table], whole=is_whole, coloured=options.n_channels > 1)
    return findings + (looks.of_resolution(table) if is_whole else [])


def _of_trained(training: Any, normals: Normals) -> list[Finding]:
    """Findings from a model's features and its learning curve."""
    paths = normals.texts("relative_path", normals.rows(*_FITTED))
    n_variants = len(training.model.config.variants) or 1
    return [*looks.of_kinds(training.kinds, n_variants, paths), *looks.of_curve(training.curve)]


def _strangest(training: Any, normals: Normals) -> tuple[np.ndarray, Finding]:
    """Rows of the images that look least normal to a model that has not seen them, and the question to ask people."""
    model, rows = training.model, normals.rows(*_FITTED)
    scored = [(rows, training.unseen)]
    if training.unseen is None:
        rows = normals.rows("validation", "calibration")
        score = vae_core.fast_scorer(model)
        chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
        scored = [(some, score(to_unit(normals.pixels[some]))) for some in chunks]
    statistic = Statistic(model.config.statistic)
    tables = [pa.table(_measured(found, normals, some, model)) for some, found in scored]
    scores = np.concatenate([statistic.scores(table) for table in tables])
    order, question = looks.strangest(scores, normals.texts("relative_path", rows))
    log.info("%s", question.sentence)
    return rows[order], question


def _measured(score: Any, normals: Normals, rows: np.ndarray, model: Any) -> dict[str, pa.Array]:
    """Scores of some images by the names of ``MEASURED``."""
    return columns_of(score, model) | {"size_z": size_z([normals.found[row] for row in rows])}


def _sizes(training: Any) -> dict[str, int]:
    """How many of the fitted images belong to each variant; empty if there is only one."""
    names = training.model.config.variants
    if not names:
        return {}
    counts = np.bincount(training.unseen.variant.astype(int), minlength=len(names)).tolist()
    found = dict(zip(names, counts, strict=True))
    log.info("variants: %s", ", ".join(f"{name} ({n} images)" for name, n in found.items()))
    return found


def _of_files(table: pa.Table) -> dict[str, Any]:
    """Facts about the images' files that the model may not see."""
    usable = each_once(table)
    return {
        "median_size_px": [round(float(np.median(usable[name].to_numpy()))) for name in ("width_px", "height_px")],
        "may_have_colour": any(map(may_have_colour, usable["mode"].to_pylist())),
    }


def _simulate(training: Any, normals: Normals, options: TrainOptions, window: Window | None) -> pa.Table | None:
    """The model's scores of simulated defects on images that it has not seen; None if it has seen all images."""
    if options.tile is not None:
        log.info("not yet tried on simulated defects. To do so, give other normal images: nelbo sensitivity --on DIR")
        return None
    model, rows = training.model, normals.rows("calibration")
    if not len(rows):
        if training.of_others is None:
            return None
        # The kept model knows all images; a model fitted without one fold sees as well as it does.
        model, rows = training.of_others, normals.rows(*_FITTED)[training.apart]
    unseen = Unseen(
        normals.pixels.take(rows),
        normals.table.take(pa.array(rows)),
        size_z([normals.found[row] for row in rows]),
        window,
    )
    return simulate(model, vae_core.fast_scorer(model), unseen, options.defect_px, options.seed)


def _window(training: Any, normals: Normals) -> Window | None:
    """The range of values that pictures of the model show."""
    rows = normals.rows(*_FITTED)
    preprocessing = Preprocessing(**training.model.preprocessing)
    return learn_window(normals.pixels.take(rows), normals.texts("mode", rows), preprocessing)


def _keep_normals(
    training: Any,
    normals: Normals,
    seed: int,
    workspace: Workspace,
    model_id: str,
    run: Run,
    window: Window | None,
) -> None:
    """Keep what flagged images are compared with: how the fitted images look, and some of these images."""
    rows = normals.rows(*_FITTED)
    pixels, table = normals.pixels.take(rows), normals.table.take(pa.array(rows))
    names = training.model.config.variants
    variants = [names[int(number)] for number in training.unseen.variant] if names else [None] * len(rows)
    keep_looks(learn_looks(pixels, variants, seed), workspace, model_id, run)
    area = Preprocessing(**training.model.preprocessing).area
    keep_normals(pixels, table, seed, workspace, model_id, run, window, area)


def unfinished(options: TrainOptions, batch_id: str) -> Path:
    """Folder of what a training needs to continue: its checkpoint, and its decoded images unless these are kept.

    It is the same for the same images, network, preprocessing and training settings.
    """
    parts = (model_config(options), train_config(options), make_preprocessing(options))
    content = [batch_id, *(part.to_dict() for part in parts)]
    return Workspace.at(options.workspace).checkpoint(content_id("t", json.dumps(content, sort_keys=True)))


def kept(options: TrainOptions, batch_id: str) -> str:
    """The work of an unfinished training that the same command does not repeat; empty if there is none."""
    folder = unfinished(options, batch_id)
    parts = {"cache": "the decoded images", "checkpoint.safetensors": "the epochs that are over"}
    found = [what for name, what in parts.items() if (folder / name).exists()]
    return f"{' and '.join(found)} are kept" if found else ""


def unseen_rows(options: TrainOptions, batch_id: str, precision: str = vae_core.FLOAT32) -> Path:
    """The file with the cross-fitted scores of each image that a model was trained on."""
    return unfinished(options, batch_id) / f"unseen-{precision}.parquet"


def _keep_unseen(unseen: Any, normals: Normals, model: Any, path: Path) -> None:
    """Write cross-fitted scores in the rows that calibration makes of images that it scores itself."""
    rows = normals.rows(*_FITTED)
    table = normals.table.select(["relative_path", "image_id", "label", "split", "group"]).take(pa.array(rows))
    table = with_column(table, "label", [0] * len(rows))
    table = with_column(table, "split", ["calibration"] * len(rows))
    for name, column in _measured(unseen, normals, rows, model).items():
        table = table.append_column(name, column)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(table, path, table.schema)


def clean_up(options: TrainOptions, batch_id: str) -> None:
    """Remove what only an unfinished training needs."""
    # The same training may run twice at once, and the other one may be faster.
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(unfinished(options, batch_id))


def _decode(manifest: Manifest, options: TrainOptions, batch_id: str) -> Cache:
    files = manifest.files
    # Duplicates would only add weight, and files without a usable header have no pixels.
    wanted = [files[row] for row in first_of_each(manifest.table).values()]
    preprocessing = make_preprocessing(options)
    mine = unfinished(options, batch_id)
    kept = Workspace.at(options.workspace).cache(_cache_id(manifest, options))
    # A kept cache serves every training and is deleted by none.
    folder = kept if options.keep_cache or kept.exists() else mine / "cache"
    size_mb = len(wanted) * preprocessing.n_values / 1e6
    log.info("decoding %d images into %s: %.1f MB, twice that for 16-bit images", len(wanted), folder, size_mb)
    with progress("decoding", len(wanted)) as advance:
        return cache_images(
            wanted,
            preprocessing,
            folder,
            limits=options.limits,
            workers=options.workers,
            staging=mine,
            advance=advance,
        )


def _part(manifest: Manifest, cache: Cache, options: TrainOptions) -> tuple[Manifest, Normals]:
    """The manifest with reasons and parts, and the decoded images with their parts."""
    first = first_of_each(manifest.table)
    # A file that has changed by now is not the one that was listed.
    found = ("unreadable" if reason == CHANGED else reason for reason in cache.reasons)
    unreadable = {image_id: reason for image_id, reason in zip(first, found, strict=True) if reason}
    usable = [image_id for image_id in first if image_id not in unreadable]
    check_enough(options.normal, len(usable), len(manifest))
    solved = model_config(options).is_linear
    alike = near_duplicates(cache.pixels)
    table, alike_are = _in_groups(manifest.table, usable, alike, options, solved)
    part_of = assign_parts(table, usable, options, solved)
    parted = with_parts(table, part_of, unreadable)
    n_found = count_groups(parted) or len(usable)
    crossed = crosses(table, n_found, options, solved) and n_found >= calibration_needs(options)
    table = with_quality(parted, _looks(usable, cache))
    rows = table.take([first[image_id] for image_id in usable])
    paths, parts = (rows[name].to_pylist() for name in ("relative_path", "split"))
    said_of_alike = looks.of_alike(alike, paths, parts, alike_are)
    return replace(manifest, table=table), Normals(cache.pixels, rows, cache.parts, said_of_alike, crossed)


def _in_groups(
    table: pa.Table, usable: list[str], alike: list[int], options: TrainOptions, solved: bool
) -> tuple[pa.Table, looks.AlikeAre]:
    """The rows with near-duplicates in groups, unless groups are named or too few are found."""
    n_found = len(set(alike))
    if not options.group_alike or n_found == len(alike) or table["group"].null_count < len(table):
        return table, "apart"
    if not is_enough(n_found, options, solved):
        return table, "too few"
    return with_alike(table, usable, alike), "together"


def _looks(usable: list[str], cache: Cache) -> pa.Table:
    """``image_id`` and ``QUALITY`` of the usable images."""
    pixels, chunks = cache.pixels, []
    for start in range(0, len(pixels), _CHUNK):
        some = slice(start, start + _CHUNK)
        found = image_quality(pixels[some] / np.iinfo(pixels.dtype).max) | part_quality(cache.parts[some])
        columns = {name: pa.array(values, from_pandas=True) for name, values in found.items()}
        chunks.append(pa.table({"image_id": usable[some], **columns}))
    return pa.concat_tables(chunks)


def _train(manifest: Manifest, normals: Normals, options: TrainOptions, checkpoint: Path) -> Any:
    """Solve a linear head, which needs no validation images; or train another network."""
    config, settings = model_config(options), train_config(options)
    rows = normals.rows(*_FITTED) if config.is_linear else normals.rows("train")
    if config.is_tiled:
        files = replace(manifest, table=normals.table.take(pa.array(rows))).files
        made_by = (config, settings, make_preprocessing(options))
        return learn_tiles(files, *made_by, _folds(normals, options), options, checkpoint.parent)
    if config.is_linear:
        log.info("features by %s, head %s", config.backbone, config.head)
        title, n_steps, then = "computing features", len(rows) * settings.rotations, "fitting the model"
    else:
        n_pretext = vae_core.n_pretext_epochs(config, settings)
        title, n_steps, then = "training", n_pretext + options.epochs, None
    with progress(title, n_steps, then) as advance:
        if config.is_linear:
            validation, more = None, _for_solving(normals, options) | {"advance": advance}
        else:
            validation, more = normals.pixels.take(normals.rows("validation")), _callbacks(n_pretext, advance)
        try:
            return vae_core.train(
                normals.pixels.take(rows),
                validation,
                config,
                settings,
                preprocessing=make_preprocessing(options).to_dict(),
                names=normals.texts("relative_path", rows),
                checkpoint=checkpoint,
                **more,
            )
        except vae_core.PixelsError as error:
            raise UsageError(f"{options.normal}: {error}.") from error
        except (vae_core.BackboneError, vae_core.VariantError) as error:
            raise UsageError(f"{error}.") from error


def _callbacks(n_pretext: int, advance: Callable[[int], None]) -> dict[str, Any]:
    """Callbacks that advance the progress bar after each epoch; the backbone's epochs come first."""
    import keras

    done = 0

    def ended(first: int) -> Any:
        def epoch_ended(epoch: int, _logs: Any) -> None:
            nonlocal done
            # A training that continues begins at a later epoch.
            advance(first + epoch + 1 - done)
            done = first + epoch + 1

        return [keras.callbacks.LambdaCallback(on_epoch_end=epoch_ended)]

    return {"callbacks": ended(n_pretext), "backbone_callbacks": ended(0)}


def _for_solving(normals: Normals, options: TrainOptions) -> dict[str, Any]:
    """Folds that keep groups together, and what is known about variants."""
    rows = normals.rows(*_FITTED)
    names = normals.texts("variant", rows)
    # Variants that are not named are found in the fit; each must have enough images to set its threshold.
    held_out = 0 if normals.crossed else normals.counts["calibration"]
    return {
        "folds": _folds(normals, options),
        # With variants=1, the images' names of variants do not count.
        "variants": None if options.variants == 1 or None in names else names,
        "images_of_variant": images_of_variant(calibration_needs(options), len(rows), held_out),
        "outside": outside(options.area),
    }


def _folds(normals: Normals, options: TrainOptions) -> Any:
    """The fold of each image that a linear head is fitted on; groups are kept together."""
    rows = normals.rows(*_FITTED)
    ids, groups = (normals.texts(column, rows) for column in ("image_id", "group"))
    return folds(ids, groups, min(vae_core.N_FOLDS, n_groups_of(ids, groups) or len(ids)), options.seed)


def _facts(training: Any, normals: Normals, manifest: Manifest, options: TrainOptions, batch_id: str) -> dict[str, Any]:
    """The facts about a training that its bundle keeps."""
    import keras

    curve = training.history["val_nelbo"]
    return {
        "source": options.normal,
        "batch_id": batch_id,
        "n_listed": len(manifest),
        "n_unusable": manifest.n_unusable,
        **{f"n_{part}": n for part, n in normals.counts.items()},
        "train_config": train_config(options).to_dict(),
        "n_epochs": len(curve),
        "best_epoch": 1 + int(np.argmin(curve)),
        "warnings": training.warnings,
        "seconds": round(sum(training.history["seconds"]), 1),
        "backend": keras.backend.backend(),
        "code_version": code_version(),
        "trained_at_utc": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        # A later calibration leaves these images out, wherever the model is copied.
        "seen": sorted(image_id[:SEEN_DIGITS] for image_id in normals.texts("image_id", normals.rows(*_FITTED))),
    }


def model_config(options: TrainOptions) -> Any:
    """The network's configuration; a UsageError names settings that do not go together."""
    if options.likelihood == "bernoulli" and options.binarize is None:
        raise UsageError(
            "likelihood=bernoulli is for binarised images, and binarize is not set. "
            "Set binarize=0.5, or take likelihood=continuous_bernoulli."
        )
    if options.tile is not None and options.variant_by is not None:
        raise UsageError(f"variant_by does not go with tile={options.tile}: leave one out, or train each separately.")
    height, width = options.input_size
    # The images decide which variants there are.
    names = {field.name for field in fields(vae_core.VAEConfig)} - {"channels", "variants"}
    try:
        config = vae_core.VAEConfig(
            height=height,
            width=width,
            channels=options.n_channels,
            tile_overlap=options.tile_overlap,
            **options.model_dump(include=names),
        )
    except ValueError as error:
        raise UsageError(f"{error}.") from error
    if options.ignore is not None and not config.is_linear:
        raise UsageError(
            f"ignore={options.ignore} goes with the heads linear and linear_image, which can leave places out, not "
            f"with {config.head or config.preset}. Set preset=features, or leave ignore out."
        )
    if options.ignore is not None and options.rotations > 1:
        raise UsageError(f"rotations={options.rotations} turns what is ignored, too: leave rotations or ignore out.")
    if config.is_linear and not config.is_tiled:
        try:
            places_of(config, outside(options.area))
        except ValueError as error:
            raise UsageError(f"ignore: {error}.") from error
    return config


def train_config(options: TrainOptions) -> Any:
    """How the network is trained; a UsageError names settings that do not go together."""
    names = set(TrainingSettings.model_fields) - {"keep_cache"}
    weights = options.backbone_weights
    if weights is not None and not Path(weights).is_file():
        raise UsageError(f"backbone_weights={weights}: there is no such file.")
    import_keras()
    try:
        config = vae_core.TrainConfig(**options.model_dump(include=names))
        vae_core.check_together(model_config(options), config)
        vae_core.check_devices(config)
        check_precision(config.precision, model_config(options))
        return config
    except ValueError as error:
        raise UsageError(f"{error}.") from error


def make_preprocessing(options: TrainOptions) -> Preprocessing:
    """How files become pixels."""
    height, width = options.input_size
    return Preprocessing(
        height,
        width,
        options.n_channels,
        options.fit,
        options.binarize,
        options.value_range,
        options.float_ends,
        options.frame,
        None if options.tile is None else options.scale,
        area=options.area,
    )


def _cache_id(manifest: Manifest, options: TrainOptions) -> str:
    """An id that is equal for the same contents decoded in the same way."""
    content = [list(first_of_each(manifest.table)), make_preprocessing(options).to_dict(), asdict(options.limits)]
    return content_id("p", json.dumps(content))


def _write_history(history: dict[str, list[float]], target: Place, workspace: Workspace, run: Run) -> None:
    columns = {name: pa.array(values, pa.float64()) for name, values in sorted(history.items())}
    table = pa.table({"epoch": pa.array(range(1, len(history["loss"]) + 1), pa.int32()), **columns})
    write_table(table, target, table.schema, run.metadata, workspace.staging)
