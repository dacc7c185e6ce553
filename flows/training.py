"""Steps and composition of ``train``: normals in, a model with a calibrated threshold out."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data import (
    InputError,
    Manifest,
    Preprocessing,
    read_images,
    write_table,
)
from detectors import n_needed
from flows.calibration import Calibrated, Request, calibrate_model
from flows.errors import UsageError
from flows.ingestion import content_id, publish_manifest, read_source
from flows.models import SEEN_DIGITS, import_vae_core, read_manifest
from flows.parts import assign_parts, check_parts, first_of_each, with_parts, without_test
from flows.progress import progress
from flows.run import Run
from flows.runner import Runner
from flows.settings import TrainOptions
from flows.workspace import Workspace

MIN_NORMALS = 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """A trained model and the sizes of its parts."""

    model_id: str
    n_train: int
    n_validation: int
    n_calibration: int


def train_model(options: TrainOptions, runner: Runner) -> dict[str, Any]:
    """Ingest, split, train, calibrate, promote; what the command prints."""
    run = Run("train", options)
    workspace = Workspace.at(options.workspace)
    batch_id = runner.call(freeze_normals, options, run)
    log.info(
        "training %s at %d x %d x %d (%s), likelihood %s, statistic %s, fpr %g",
        options.preset,
        *options.image_size,
        options.channels,
        options.fit,
        model_config(options).likelihood,
        options.statistic,
        options.fpr,
    )
    fitted = runner.call(fit, options, batch_id, run)
    calibrated = None
    if fitted.n_calibration:
        request = Request(fitted.model_id, batch_id, fpr=options.fpr, split="calibration")
        calibrated = runner.call(calibrate_model, request, options, run)
    else:
        log.warning(
            "fpr=%g needs %d calibration images, more than half of these normals: the model is not calibrated. "
            "Score with --uncalibrated, or train with more images or a larger fpr.",
            options.fpr,
            n_needed(options.fpr),
        )
    if options.promote:
        workspace.promote(fitted.model_id)
    return _result(run, workspace, batch_id, fitted, calibrated)


def _result(
    run: Run, workspace: Workspace, batch_id: str, fitted: Fitted, calibrated: Calibrated | None
) -> dict[str, Any]:
    n_images = fitted.n_train + fitted.n_validation + fitted.n_calibration
    calibration = {
        "calibration_id": calibrated.calibration_id if calibrated else None,
        "fpr": calibrated.fpr if calibrated else None,
    }
    run.record(workspace, batch_id=batch_id, model_id=fitted.model_id, n_images=n_images, **calibration)
    return {
        "model_id": fitted.model_id,
        **calibration,
        "run_id": run.run_id,
        "n_train": fitted.n_train,
        "n_validation": fitted.n_validation,
        "n_calibration": fitted.n_calibration,
        "threshold": calibrated.threshold if calibrated else None,
        "seconds": round(run.seconds, 3),
    }


def freeze_normals(options: TrainOptions, run: Run) -> str:
    """Ingest the normal images, check that they can be trained on, and publish their manifest; its id."""
    manifest = read_source(options.normal, options)
    check_parts(options.normal, manifest.table)
    table = without_test(manifest.table)
    anomalous = table.filter(pc.equal(table["label"], 1))
    if anomalous.num_rows:
        raise InputError(
            f"{options.normal}: {anomalous.num_rows} images are labelled anomalous "
            f"(first: {anomalous['relative_path'][0]}), and training takes normal ones. "
            "Leave them out, or give them the split 'test'."
        )
    usable = list(first_of_each(table))
    _check_enough(options.normal, len(usable), table.num_rows)
    assign_parts(table, usable, options)
    # Before an hour of decoding, not after it.
    model_config(options)
    workspace = Workspace.at(options.workspace).prepare()
    kept = Manifest(table, manifest.root, manifest.n_skipped)
    # Another seed, rate or limit parts the same files differently.
    batch_id = content_id("t", kept, options.seed, options.fpr, options.max_pixels)
    publish_manifest(kept, workspace, batch_id, run)
    return batch_id


def _check_enough(source: str, n_distinct: int, n_listed: int) -> None:
    if n_distinct < MIN_NORMALS:
        raise InputError(
            f"{source} holds {n_distinct} different usable normal images among {n_listed} files, "
            f"and training needs at least {MIN_NORMALS}. Add normal images."
        )


def fit(options: TrainOptions, batch_id: str, run: Run) -> Fitted:
    """Decode, split, train and save the model; readability and split go back into the manifest."""
    workspace = Workspace.at(options.workspace)
    manifest = read_manifest(workspace, batch_id)
    files = manifest.files
    # A duplicate would only weigh more, and a file without usable header has no pixels.
    first = first_of_each(manifest.table)
    preprocessing = _preprocessing(options)
    images = read_images(
        [files[row] for row in first.values()], preprocessing, max_pixels=options.max_pixels, workers=options.workers
    )
    unreadable = {image_id: reason for image_id, reason in zip(first, images.reasons, strict=True) if reason}
    usable = [image_id for image_id in first if image_id not in unreadable]
    _check_enough(options.normal, len(usable), len(manifest))
    part_of = assign_parts(manifest.table, usable, options)
    manifest = Manifest(with_parts(manifest.table, part_of, unreadable), manifest.root)
    publish_manifest(manifest, workspace, batch_id, run)
    if manifest.n_unusable:
        log.warning("%d of %d files cannot be used; the manifest says why", manifest.n_unusable, len(manifest))
    parts = np.array([part_of[image_id] for image_id in usable])
    counts = {part: int((parts == part).sum()) for part in ("train", "validation", "calibration")}

    vae_core = import_vae_core()
    import keras

    with progress(f"training on {counts['train']} images", options.epochs) as advance:
        training = vae_core.train(
            images.pixels[parts == "train"],
            images.pixels[parts == "validation"],
            model_config(options),
            vae_core.TrainConfig(
                options.epochs, options.patience, options.batch_size, options.learning_rate, options.seed
            ),
            preprocessing=preprocessing.to_dict(),
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: advance(1))],
        )
    facts = {
        "batch_id": batch_id,
        **{f"n_{part}": n for part, n in counts.items()},
        # A later calibration leaves these out, wherever the model is taken.
        "seen": sorted(image_id[:SEEN_DIGITS] for image_id, part in part_of.items() if part != "calibration"),
    }
    model_id = vae_core.save_bundle(training.model, workspace.models, facts, workspace.staging)
    _write_history(training.history, workspace.history(model_id), workspace, run)
    return Fitted(model_id, **{f"n_{part}": n for part, n in counts.items()})


def model_config(options: TrainOptions) -> Any:
    """The network's configuration; a UsageError says what does not go together."""
    height, width = options.image_size
    try:
        return import_vae_core().VAEConfig(
            height=height,
            width=width,
            channels=options.channels,
            preset=options.preset,
            statistic=options.statistic,
            smoothing_px=options.smoothing_px,
            noise_draws=options.noise_draws,
        )
    except ValueError as error:
        raise UsageError(f"{error}.") from error


def _preprocessing(options: TrainOptions) -> Preprocessing:
    height, width = options.image_size
    return Preprocessing(height, width, options.channels, options.fit)


def _write_history(history: dict[str, list[float]], target: Path, workspace: Workspace, run: Run) -> None:
    columns = {"epoch": pa.array(range(1, len(history["loss"]) + 1), pa.int32())}
    columns |= {name: pa.array(values, pa.float64()) for name, values in sorted(history.items())}
    table = pa.table(columns)
    write_table(table, target, table.schema, run.metadata, workspace.staging)
