"""Steps and composition of ``export``: a model made ready for an engine, if its scores and verdicts stay the same."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import vae_core
from data import Manifest, Preprocessing, publish_folder, read_images, remove_folder
from flows.calibration import measure
from flows.calibrations import Calibration, calibration_of
from flows.errors import UsageError
from flows.ingestion import read_manifest, scan_source
from flows.models import read_bundle
from flows.parts import first_of_each
from flows.run import Run
from flows.runner import Runner
from flows.settings import ExportOptions
from flows.workspace import Workspace

#: Images that every scoring run starts with.
N_REFERENCES = 32
#: Digits that a statistic may lose before it is compared with a threshold: `peak` subtracts what is usual first.
_LOST = 10


def export_model(options: ExportOptions, runner: Runner) -> dict[str, Any]:
    """Make a model ready for an engine; what the command prints."""
    run = Run("export", options)
    workspace = Workspace.at(options.workspace).prepare()
    model_id = workspace.model(options.model)
    runner.rename(f"{model_id} for {options.engine}")
    made = runner.call(export_engine, options, model_id, run)
    run.record(workspace, model_id=model_id, calibration_id=made["calibration_id"], n_images=made["n_images"])
    return {"model_id": model_id, **made, "run_id": run.run_id, "seconds": round(run.seconds, 3)}


def export_engine(options: ExportOptions, model_id: str, run: Run) -> dict[str, Any]:
    """Compile, compare with Keras on all calibration images, and publish; what there is to say of it.

    Raises:
        EngineError: scores differ by more than the tolerance, or a verdict changes.
    """
    workspace = Workspace.at(options.workspace)
    engine = options.engine
    calibration = calibration_of(workspace, model_id)
    model = read_bundle(workspace.models / model_id)
    manifest = _images(workspace, model_id, calibration, options)
    expected = measure(model, manifest, options, "scoring with keras")
    if not expected.num_rows:
        raise UsageError(
            f"none of the {len(manifest)} images to compare engines on can be read in {manifest.root}. "
            "Name normal images: --normal DIR"
        )
    exported = vae_core.export(
        model, engine, _references(model, manifest, expected, options), model_id=model_id, tolerance=options.tolerance
    )
    scored_by = replace(model, batch_size=exported.batch_size) if engine == "keras" else exported
    found = measure(scored_by, manifest, options, f"scoring with {engine}")
    difference = _check_scores(found, expected, exported)
    n_changed = 0 if calibration is None else _check_verdicts(found, expected, calibration, exported)
    _publish(exported, workspace, run)
    return {
        "engine": engine,
        "engine_version": exported.made_with,
        "calibration_id": calibration.calibration_id if calibration else None,
        "n_images": expected.num_rows,
        "difference": difference,
        "tolerance": options.tolerance,
        "n_verdicts_changed": n_changed,
        "batch_size": exported.batch_size,
        "images_per_s": {name: round(speed, 1) for name, speed in exported.images_per_s.items()},
        "path": str(workspace.engine(model_id, engine)),
    }


def _images(workspace: Workspace, model_id: str, calibration: Calibration | None, options: ExportOptions) -> Manifest:
    """What engines are compared on: the images named, or those behind the calibration; each content once."""
    if options.normal is not None:
        manifest = scan_source(options.normal, options).manifest()
    elif calibration is not None:
        manifest = read_manifest(workspace, calibration.batch_id)
        chosen = pc.is_in(manifest.table["image_id"], calibration.image_ids)
        manifest = replace(manifest, table=manifest.table.filter(chosen))
    else:
        raise UsageError(f"model {model_id} is not calibrated. Name images to compare engines on: --normal DIR")
    rows = pa.array(first_of_each(manifest.table).values(), pa.int64())
    return replace(manifest, table=manifest.table.take(rows))


def _references(model: vae_core.Scorable, manifest: Manifest, scored: pa.Table, options: ExportOptions) -> np.ndarray:
    """Pixels of a few images, from the one with the lowest nelbo to the one with the highest."""
    ids = scored.sort_by("nelbo_nats")["image_id"].to_pylist()
    places = np.linspace(0, len(ids) - 1, min(N_REFERENCES, len(ids))).round().astype(int)
    file_of = {file.image_id: file for file in manifest.files}
    files = [file_of[ids[place]] for place in places]
    preprocessing = Preprocessing(**model.preprocessing)
    return read_images(files, preprocessing, limits=options.limits, workers=options.workers).pixels


def _check_scores(found: pa.Table, expected: pa.Table, exported: vae_core.Exported) -> float:
    """The largest difference, relative to |distortion| + rate."""
    scale = np.abs(expected["distortion_nats"].to_numpy()) + expected["rate_nats"].to_numpy()
    names = ("nelbo_nats", "distortion_nats", "rate_nats", "worst_pixels_nats")
    worst = np.max([np.abs(found[name].to_numpy() - expected[name].to_numpy()) / scale for name in names], axis=0)
    n_off = int((~(worst <= exported.tolerance)).sum())
    if n_off:
        raise vae_core.EngineError(
            f"engine {exported.engine} {exported.made_with} is refused: of {len(worst)} images {n_off} score more than "
            f"{exported.tolerance:.0e} of |distortion| + rate off what Keras says, up to {worst.max():.1e}. "
            "Use another engine, or allow more with --tolerance"
        )
    return float(worst.max())


def _check_verdicts(found: pa.Table, expected: pa.Table, calibration: Calibration, exported: vae_core.Exported) -> int:
    """How many verdicts change, all of them of scores that lie on a threshold, as far as the tolerance can tell."""
    ours, theirs = calibration.statistic.scores(expected), calibration.statistic.scores(found)
    changed = calibration.verdicts(ours) != calibration.verdicts(theirs)
    thresholds = [value for value in (calibration.threshold.value, calibration.threshold.review) if value is not None]
    distance = np.min([np.abs(ours - value) for value in thresholds], axis=0)
    n_wrong = int((changed & (distance > _LOST * exported.tolerance * np.maximum(1, np.abs(ours)))).sum())
    if n_wrong:
        raise vae_core.EngineError(
            f"engine {exported.engine} {exported.made_with} is refused: it changes the verdicts on {n_wrong} of "
            f"{len(ours)} images whose scores are further from the threshold than the tolerance. Use another engine"
        )
    return int(changed.sum())


def _publish(exported: vae_core.Exported, workspace: Workspace, run: Run) -> None:
    """Put an engine in its place; one that was there goes."""
    folder = workspace.engine(exported.model_id, exported.engine)
    unfinished = workspace.local_staging / f"{run.run_id}-{exported.engine}"
    vae_core.save_exported(exported, unfinished)
    remove_folder(folder)
    publish_folder(unfinished, folder)
    remove_folder(unfinished)
