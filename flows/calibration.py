"""Steps and composition of ``calibrate``: held-out images in, a threshold out; the weights stay as they are."""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data import CALIBRATION_SCHEMA, MEASURES, InputError, Manifest, read_table, write_json, write_table
from detectors import Threshold, check_size, conformal_threshold, labelled_threshold, supported_fpr
from flows.errors import UsageError
from flows.ingestion import content_id, publish_manifest, read_source
from flows.models import SEEN_DIGITS, describe_model, load_model, read_manifest, score_files
from flows.parts import first_of_each
from flows.progress import progress
from flows.run import Run
from flows.runner import Runner
from flows.settings import CalibrateOptions, DecodingSettings, TrainOptions
from flows.workspace import Workspace

FORMAT_VERSION = 1
_FILES = ("calibration.json", "scores.parquet")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to calibrate on: one part of a manifest, with a rate or an objective."""

    model_id: str
    batch_id: str = ""
    fpr: float | None = None
    objective: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Calibrated:
    """A calibration in the workspace."""

    calibration_id: str
    model_id: str
    threshold: float
    fpr: float | None
    objective: str
    n_calibration: int
    n_left_out: int


@dataclass(frozen=True)
class Calibration:
    """A calibration as read: what verdicts are made with.

    threshold: with its promise.
    normal_scores: (n,) sorted, of the normal images behind it.
    heatmap_top: value of the smoothed local z at the upper end of the heatmaps' colour scale.
    """

    calibration_id: str
    model_id: str
    threshold: Threshold
    normal_scores: np.ndarray
    heatmap_top: float


def recalibrate(options: CalibrateOptions, runner: Runner) -> dict[str, Any]:
    """Calibrate a model on further normal images or on labelled ones; what the command prints."""
    run = Run("calibrate", options)
    workspace = Workspace.at(options.workspace)
    model_id = workspace.model(options.model)
    if options.normal is not None and options.labels is None and options.objective is None:
        source, fpr = options.normal, options.fpr
    elif options.labels is not None and options.normal is None and options.objective is not None:
        source, fpr = options.labels, None
    else:
        raise UsageError(
            "calibrate takes either --normal DIR with --fpr, or --labels CSV with --objective f1 or youden."
        )
    # A damaged model is found before anything is written.
    load_model(workspace, model_id)
    request = Request(model_id, fpr=fpr, objective=options.objective)
    request = runner.call(freeze_calibration_images, source, request, options, run)
    calibrated = runner.call(calibrate_model, request, options, run)
    run.record(
        workspace,
        model_id=model_id,
        calibration_id=calibrated.calibration_id,
        batch_id=request.batch_id,
        n_images=calibrated.n_calibration,
        fpr=fpr,
    )
    return {**asdict(calibrated), "run_id": run.run_id, "seconds": round(run.seconds, 3)}


def freeze_calibration_images(source: str, request: Request, options: CalibrateOptions, run: Run) -> Request:
    """Ingest the images, check that they are enough, publish their manifest; the request with its batch's id."""
    manifest = read_source(source, options)
    workspace = Workspace.at(options.workspace)
    held_out, _ = _held_out(manifest.table, request, workspace)
    if request.fpr is not None:
        check_size(held_out.num_rows, request.fpr)
    batch_id = content_id("k", manifest)
    publish_manifest(manifest, workspace.prepare(), batch_id, run)
    return replace(request, batch_id=batch_id)


def calibrate_model(request: Request, options: TrainOptions | CalibrateOptions, run: Run) -> Calibrated:
    """Score held-out images, find the threshold, write the calibration and make it the model's current one.

    Images that the model was trained or stopped on are left out: the promise holds for others only.
    """
    workspace = Workspace.at(options.workspace)
    manifest = read_manifest(workspace, request.batch_id)
    table, n_left_out = _held_out(manifest.table, request, workspace)
    if n_left_out:
        log.info("%d images that the model was trained on are left out", n_left_out)
    model = load_model(workspace, request.model_id)
    scores, peaks = _score(model, Manifest(table, manifest.root), options)
    threshold = _threshold(scores, request)
    normal = pc.not_equal(scores["label"], 1)
    content = {
        "format_version": FORMAT_VERSION,
        "model_id": request.model_id,
        "statistic": model.config.statistic,
        "batch_id": request.batch_id,
        "threshold": threshold.to_dict(),
        # Twice what few normal images exceed: a defect has room above it.
        "heatmap_top": 2 * float(np.quantile(peaks[np.asarray(normal)], 0.95)),
    }
    calibration_id = _write(content, scores, workspace, run)
    workspace.use_calibration(request.model_id, calibration_id)
    if threshold.fpr is not None:
        supported = supported_fpr(threshold.fpr, threshold.n_calibration)
        log.info(
            "promised false-alarm rate %.3g; with %d calibration images it lies between %.1f and %.1f %% (95 %%)",
            threshold.fpr,
            threshold.n_calibration,
            100 * supported.low,
            100 * supported.high,
        )
    return Calibrated(
        calibration_id,
        request.model_id,
        threshold.value,
        threshold.fpr,
        threshold.objective,
        threshold.n_calibration,
        n_left_out,
    )


def _held_out(table: pa.Table, request: Request, workspace: Workspace) -> tuple[pa.Table, int]:
    """The usable rows of the asked part, each content once, without those that the model has seen; and how many."""
    if request.split is not None:
        table = table.filter(pc.equal(table["split"], request.split))
    elif request.objective is not None:
        table = table.filter(pc.greater_equal(table["label"], 0))
    elif n_anomalous := table.filter(pc.equal(table["label"], 1)).num_rows:
        raise InputError(f"{n_anomalous} images are labelled anomalous; --normal takes normal ones. Leave them out.")
    seen = _seen_in_training(request.model_id, workspace)
    first = first_of_each(table)
    keep = [row for image_id, row in first.items() if image_id[:SEEN_DIGITS] not in seen]
    return table.take(pa.array(keep, pa.int64())), len(first) - len(keep)


def _seen_in_training(model_id: str, workspace: Workspace) -> set[str]:
    """Beginnings of the content hashes of the images that the model was trained or stopped on."""
    seen = describe_model(workspace, model_id)["training"].get("seen")
    if seen is None:
        log.warning("%s does not say what it was trained on: overlap with those images is not checked", model_id)
    return set(seen or ())


def _score(model: Any, manifest: Manifest, decoding: DecodingSettings) -> tuple[pa.Table, np.ndarray]:
    """Calibration rows of the readable files, and the peak of each."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in (*MEASURES, "peak")}
    with progress("scoring calibration images", len(manifest)) as advance:
        for chunk in score_files(model, manifest.files, decoding):
            for name, values in chunk.columns.items():
                columns[name].append(values)
            advance(len(chunk.reasons))
    joined = {name: np.concatenate(values or [np.empty(0)]) for name, values in columns.items()}
    readable = np.isfinite(joined["anomaly_score"])
    table = manifest.table.select(["relative_path", "image_id", "label"]).filter(pa.array(readable))
    for name in MEASURES:
        table = table.append_column(name, pa.array(joined[name][readable]))
    return table.cast(CALIBRATION_SCHEMA), joined["peak"][readable]


def _threshold(scores: pa.Table, request: Request) -> Threshold:
    values, labels = scores["anomaly_score"].to_numpy(), scores["label"].to_numpy()
    if request.objective is None and request.fpr is not None:
        return Threshold(conformal_threshold(values, request.fpr), request.fpr, "conformal", len(values))
    objective = str(request.objective)
    n_normal = int((labels == 0).sum())
    return Threshold(labelled_threshold(labels, values, objective), None, objective, n_normal)


def _write(content: dict[str, Any], scores: pa.Table, workspace: Workspace, run: Run) -> str:
    """Publish the calibration's folder, whole; an equal one that is there already is kept."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    digest.update(json.dumps(scores.to_pydict(), sort_keys=True).encode())
    calibration_id = "c" + digest.hexdigest()[:16]
    folder = workspace.calibrations / calibration_id
    if folder.exists():
        read_calibration(workspace, calibration_id)
        return calibration_id
    unfinished = workspace.staging / f"{run.run_id}-{calibration_id}"
    write_json({**content, "calibration_id": calibration_id}, unfinished / "calibration.json")
    write_table(scores, unfinished / "scores.parquet", CALIBRATION_SCHEMA, run.metadata)
    write_json({name: _sha256(unfinished / name) for name in _FILES}, unfinished / "checksums.json")
    workspace.calibrations.mkdir(parents=True, exist_ok=True)
    unfinished.rename(folder)
    return calibration_id


def read_calibration(workspace: Workspace, calibration_id: str) -> Calibration:
    """A calibration of the workspace, verified."""
    folder = workspace.calibrations / calibration_id
    try:
        checksums = json.loads((folder / "checksums.json").read_text(encoding="utf-8"))
        damaged = [name for name in _FILES if _sha256(folder / name) != checksums.get(name)]
        content = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{folder} is not a whole calibration ({error}). Restore it from a copy, or delete it and calibrate again."
        ) from error
    if damaged or content.get("format_version") != FORMAT_VERSION:
        what = f"{damaged[0]} does not match its checksum" if damaged else "it has another format version"
        raise UsageError(f"{folder}: {what}. Restore it from a copy, or delete it and calibrate again.")
    table = read_table(folder / "scores.parquet")
    normal = table.filter(pc.not_equal(table["label"], 1))
    return Calibration(
        calibration_id,
        content["model_id"],
        Threshold(**content["threshold"]),
        np.sort(normal["anomaly_score"].to_numpy()),
        content["heatmap_top"],
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
