"""Steps and composition of ``export``: export a model for an engine, if its scores and verdicts stay the same."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo import vae_core
from nelbo.data import (
    JOINT_PARTS,
    MEASURED,
    STATISTICS,
    Manifest,
    Preprocessing,
    normal_in,
    publish_folder,
    read_images,
    remove_folder,
)
from nelbo.flows.inference.measured import measure
from nelbo.flows.inference.models import read_bundle
from nelbo.flows.inference.painting.noise import painted
from nelbo.flows.inference.pipeline import columns_of
from nelbo.flows.inference.progress import progress
from nelbo.flows.options.options import ExportOptions
from nelbo.flows.runner import Runner
from nelbo.flows.steps.ingest import read_manifest, scan_source
from nelbo.flows.steps.parts import each_once
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.calibrations.calibration import Calibration, calibration_of, rows_of
from nelbo.flows.workspace.calibrations.statistic import Statistic
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run
from nelbo.flows.workspace.tables import only

log = logging.getLogger(__name__)

#: Images that every scoring run starts with, and how many of them are painted.
N_REFERENCES, _N_PAINTED = 32, 8
#: Images of a cross-fitted calibration that engines are compared on.
_N_CROSSED = 64
#: The same for models that see an image in hundreds of tiles.
_N_TILED = 8
#: Painted images that engines are compared on.
_N_COMPARED = 32


def export_model(options: ExportOptions, runner: Runner) -> dict[str, Any]:
    """Export a model for an engine; returns what the command prints."""
    run = Run("export", options)
    workspace = Workspace.at(options.workspace).prepare()
    model_id = catalog.find_model(workspace, options.model)
    runner.rename(f"{model_id} for {options.engine}")
    made = runner.call(export_engine, options, model_id, run)
    run.record(workspace, model_id=model_id, calibration_id=made["calibration_id"], n_images=made["n_images"])
    return {"model_id": model_id, **made, "run_id": run.run_id, "seconds": round(run.seconds, 3)}


def export_engine(options: ExportOptions, model_id: str, run: Run) -> dict[str, Any]:
    """Compile, compare with Keras on all calibration images and on painted ones, and publish; returns facts about it.

    Raises:
        EngineError: a number differs by more than the tolerance, is the same for all images, or a verdict changes.
    """
    workspace = Workspace.at(options.workspace)
    engine = options.engine
    calibration = calibration_of(workspace, model_id)
    model = read_bundle(workspace.models / model_id)
    most = _N_CROSSED if model.tiles is None else _N_TILED
    manifest, said = _images(workspace, model_id, calibration, options, most)
    expected = measure(model, manifest, options, "scoring with keras") if said is None else only(said, manifest.table)
    if not expected.num_rows:
        raise UsageError(
            f"none of the {len(manifest)} images to compare engines on can be read in {manifest.root}. "
            "Name normal images: --normal DIR"
        )
    normal = _pixels(model, manifest, expected, options)
    strange = painted(normal, model.config.likelihood)
    expected = _with(expected, model, strange)
    n_above = _n_above(expected, calibration)
    with progress("making the engine"):
        exported = vae_core.export(
            model,
            engine,
            _references(normal, strange),
            model_id=model_id,
            tolerance=options.tolerance,
            aside=workspace.local_staging,
        )
    scored_by = replace(model, batch_size=exported.batch_size) if engine == "keras" else exported
    found = _with(measure(scored_by, manifest, options, f"scoring with {engine}"), scored_by, strange)
    difference = _check_scores(found, expected, exported)
    n_changed = 0 if calibration is None else _check_verdicts(found, expected, calibration, exported)
    publish_engine(exported, workspace, run)
    return {
        "engine": engine,
        "engine_version": exported.made_with,
        "calibration_id": calibration.calibration_id if calibration else None,
        "n_images": expected.num_rows - len(strange),
        "n_painted": len(strange),
        "n_above_threshold": n_above,
        "difference": difference,
        "tolerance": options.tolerance,
        "n_verdicts_changed": n_changed,
        "batch_size": exported.batch_size,
        "images_per_s": {name: round(speed, 1) for name, speed in exported.images_per_s.items()},
        "machine": exported.machine,
        "path": str(workspace.engine(model_id, engine)),
    }


def _images(
    workspace: Workspace, model_id: str, calibration: Calibration | None, options: ExportOptions, most: int
) -> tuple[Manifest, pa.Table | None]:
    """The images to compare engines on: those named, or those behind the calibration; each content once.

    And what Keras measured on them when the calibration was made; None if it did not. Of a cross-fitted calibration,
    at most `most` images.
    """
    if options.normal is not None:
        manifest = scan_source(options.normal, options, find=normal_in).manifest()
        return replace(manifest, table=each_once(manifest.table)), None
    if calibration is None:
        raise UsageError(f"model {model_id} is not calibrated. Name images to compare engines on: --normal DIR")
    manifest, said = read_manifest(workspace, calibration.batch_id), rows_of(workspace, calibration)
    table = each_once(only(manifest.table, said))
    if calibration.threshold.cross:
        # Their scores come from other models. Scoring all would take as long as fitting, and some show as much.
        return replace(manifest, table=table.take(_spread(len(table), most))), None
    return replace(manifest, table=table), said


def _pixels(model: vae_core.Scorable, manifest: Manifest, scored: pa.Table, options: ExportOptions) -> np.ndarray:
    """Pixels of a few images, from the one with the lowest nelbo to the one with the highest."""
    ids = scored.sort_by("nelbo_nats")["image_id"].to_pylist()
    file_of = {file.image_id: file for file in manifest.files}
    files = [file_of[ids[place]] for place in _spread(len(ids), _N_COMPARED)]
    preprocessing = Preprocessing(**model.preprocessing)
    return read_images(files, preprocessing, limits=options.limits, workers=options.workers).pixels


def _references(normal: np.ndarray, strange: np.ndarray) -> np.ndarray:
    """The images that an engine keeps: some of the calibration, and painted ones."""
    some = strange[_spread(len(strange), _N_PAINTED)]
    return np.concatenate([normal[_spread(len(normal), N_REFERENCES - len(some))], some])


def _spread(n: int, most: int) -> np.ndarray:
    """At most `most` places from the first of n to the last, evenly spaced."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(int)


def _with(rows: pa.Table, model: vae_core.Scorable, pixels: np.ndarray) -> pa.Table:
    """The measures of scored files, followed by those of further images."""
    further = pa.table(columns_of(vae_core.score(model, pixels, maps=False), model))
    return pa.concat_tables([rows.select(MEASURED), further.select(MEASURED)])


def _n_above(expected: pa.Table, calibration: Calibration | None) -> int | None:
    """How many of the images that engines are compared on lie above the threshold; None without one."""
    if calibration is None:
        return None
    n = int((calibration.statistic.scores(expected) > calibration.threshold.value).sum())
    if not n:
        log.warning("none of the images that engines are compared on lies above the threshold, not even a painted one")
    return n


def _check_scores(found: pa.Table, expected: pa.Table, exported: vae_core.Exported) -> float:
    """The largest difference, relative to the scale of its measure."""
    ours, theirs = _scores(found, exported), _scores(expected, exported)
    still = vae_core.unmoved(ours, theirs, exported.subtracted)
    if still:
        raise exported.refused(f"is refused: it gives all {len(theirs.nelbo)} images the same {', '.join(still)}")
    shares = vae_core.differences(ours, theirs, exported.subtracted)
    worst = np.max(list(shares.values()), axis=0)
    n_off = int((~(worst <= exported.tolerance)).sum())
    if n_off:
        names = [name for name, share in shares.items() if not share.max() <= exported.tolerance]
        raise exported.refused(
            f"is refused: of {len(worst)} images {n_off} differ from Keras by more than {exported.tolerance:.0e} of "
            f"the scale in {', '.join(names)}, up to {worst.max():.1e}. Allow more with --tolerance, if that is sound"
        )
    return float(worst.max())


def _scores(table: pa.Table, exported: vae_core.Exported) -> vae_core.Score:
    """The measures of a table by the names of a score, without maps."""
    numbers = {name: table[column].to_numpy() for name, column in STATISTICS.items()}
    empty: Any = dict.fromkeys(vae_core.Score._fields)
    others = {name: table[name].to_numpy() for name in (*JOINT_PARTS, "variant_z") if not table[name].null_count}
    if exported.config.variants:
        place = pc.index_in(table["variant"], pa.array(exported.config.variants))
        others["variant"] = np.asarray(place.combine_chunks(), np.float64)
    score = vae_core.Score(**{**empty, **numbers, **others})
    return score._replace(anomaly_score=Statistic(exported.config.statistic).scores(table))


def _check_verdicts(found: pa.Table, expected: pa.Table, calibration: Calibration, exported: vae_core.Exported) -> int:
    """How many verdicts change; all of them belong to scores that lie on a threshold, within the tolerance.

    For a single statistic, no difference is above the tolerance here. Statistics that a rule of 0.1 joins are
    logarithms of probabilities, and may differ by ten times the tolerance.
    """
    ours, theirs = calibration.statistic.scores(expected), calibration.statistic.scores(found)
    changed = calibration.verdicts(ours) != calibration.verdicts(theirs)
    if calibration.statistic.rule is None:
        scores = (
            _scores(found, exported)._replace(anomaly_score=theirs),
            _scores(expected, exported)._replace(anomaly_score=ours),
        )
        wrong = changed & (vae_core.differences(*scores, exported.subtracted)["anomaly_score"] > exported.tolerance)
    else:
        limits = (calibration.threshold.value, calibration.threshold.review)
        thresholds = [value for value in limits if value is not None]
        distance = np.min([np.abs(ours - value) for value in thresholds], axis=0)
        wrong = changed & (distance > vae_core.LOST * exported.tolerance * np.maximum(1, np.abs(ours)))
    if wrong.any():
        raise exported.refused(
            f"is refused: it changes the verdicts on {wrong.sum()} of {len(ours)} images whose scores are farther from "
            "the threshold than the tolerance"
        )
    return int(changed.sum())


def publish_engine(exported: vae_core.Exported, workspace: Workspace, run: Run) -> None:
    """Put an engine in its place, replacing a previous one; what a kill leaves lies in the staging folder."""
    unfinished = workspace.local_staging / f"{run.run_id}-{exported.engine}"
    vae_core.save_exported(exported, unfinished)
    publish_folder(unfinished, workspace.engine(exported.model_id, exported.engine))
    remove_folder(unfinished)
