"""Steps and composition of ``score``: a batch of images in, verdicts in Parquet out."""

import logging
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data import MEASURES, QUALITY, SHARD_SCHEMA, Manifest, read_metadata, read_rows, remove_folder, write_table
from flows.calibrations import calibration_of
from flows.drift import drift_facts
from flows.errors import UsageError
from flows.ingestion import Batch, freeze_batch
from flows.landing import drop_batch, finish_batch, freeze_new, unfinished_batch
from flows.models import load_model, score_files
from flows.publishing import AllChangedError, Published, publish
from flows.reporting import Reported, show_reported, write_report
from flows.run import Run
from flows.runner import Runner
from flows.settings import IngestOptions, ScoreOptions
from flows.shards import Shard, Target, chunks, plan_shards
from flows.workspace import Workspace

log = logging.getLogger(__name__)

#: How often other jobs may finish the same batch first before this one gives up.
_ATTEMPTS = 5


def score_batch(options: ScoreOptions, runner: Runner) -> dict[str, Any]:
    """Freeze, score shard by shard, publish, report; what the command prints."""
    run = Run("score", options)
    workspace = Workspace.at(options.workspace)
    model_id = workspace.model(options.model)
    calibration_id = _calibration_id(workspace, model_id, options)
    if options.new and options.batch_id is None:
        return _score_new(options, model_id, calibration_id, runner)
    # A damaged model is found before anything is written.
    load_model(workspace, model_id)
    ingest_options = IngestOptions(**options.model_dump(include=set(IngestOptions.model_fields)))
    batch = runner.call(freeze_batch, ingest_options, run)
    return _score_frozen(options, Target(batch.batch_id, model_id, calibration_id, run.run_id), batch, runner, run)


def _score_new(options: ScoreOptions, model_id: str, calibration_id: str | None, runner: Runner) -> dict[str, Any]:
    """What no earlier batch of the folder holds, after the batch that an earlier run has left unfinished."""
    done: list[dict[str, Any]] = []

    def score(batch: Batch, run: Run) -> None:
        target = Target(batch.batch_id, model_id, calibration_id, run.run_id)
        try:
            result = _score_frozen(options, target, batch, runner, run)
        except AllChangedError:
            runner.call(drop_batch, options, batch.batch_id, model_id)
        else:
            runner.call(finish_batch, options, batch.batch_id, model_id)
            done.append(result)

    left = runner.call(unfinished_batch, options)
    if left is not None:
        score(left, Run("score", options))
    run = Run("score", options)
    batch = runner.call(freeze_new, options, run)
    if batch.n_images:
        score(batch, run)
    if not done:
        counts = dict.fromkeys(("n_images", "n_scored", "n_not_scored", "n_anomalous", "n_review"), 0)
        waiting = {"n_waiting": batch.n_waiting + batch.n_images, "n_skipped": batch.n_skipped}
        return {"skipped": f"nothing new in {options.images}", "batch_id": None, **counts, **waiting, "batches": []}
    of_both = sum(result["n_anomalous"] for result in done)
    return {**done[-1], "batches": [result["batch_id"] for result in done], "n_anomalous_in_batches": of_both}


def _score_frozen(options: ScoreOptions, target: Target, batch: Batch, runner: Runner, run: Run) -> dict[str, Any]:
    """All steps after the first, and what there is to print of them."""
    runner.rename(f"{target.batch_id} with {target.model_id}")
    workspace = Workspace.at(options.workspace)
    # Loading is none of the time that images take.
    load_model(workspace, target.model_id)
    published, images_per_s = _score_and_publish(options, target, batch, runner, run)
    reported = runner.call(write_report, options, target.batch_id, target.model_id)
    counts = {
        "n_images": published.n_images,
        "n_scored": published.n_scored,
        "n_not_scored": published.n_images - published.n_scored,
        "n_anomalous": published.n_anomalous,
        "n_review": published.n_review,
        # Changed while they were listed, or between that and being scored.
        "n_waiting": batch.n_waiting + published.n_waiting,
    }
    ids = {"batch_id": target.batch_id, "model_id": target.model_id, "calibration_id": target.calibration_id}
    run.record(workspace, **ids, **counts, fpr=published.fpr, images_per_s=images_per_s, **drift_facts(published.drift))
    result = {
        **ids,
        "run_id": run.run_id,
        **counts,
        "n_skipped": batch.n_skipped,
        **({"n_discoveries": published.n_discoveries} if options.fdr is not None else {}),
        "promise": published.promise,
        "drift": published.drift and {name: published.drift[name] for name in ("alarm", "findings")},
        "scores": str(workspace.scores(target.model_id, target.batch_id)),
        "flagged": str(workspace.flagged(target.model_id, target.batch_id)),
        "report": reported.path,
        "seconds": round(run.seconds, 3),
        "images_per_s": round(images_per_s, 1),
        **({"metrics": reported.metrics} if reported.metrics else {}),
    }
    _tell(result, reported, options, runner)
    return result


def _tell(result: dict[str, Any], reported: Reported, options: ScoreOptions, runner: Runner) -> None:
    """What people see beside the run, and what others may wait for."""
    paths = {name: result[name] for name in ("scores", "flagged", "report")}
    shown = {name: value for name, value in result.items() if isinstance(value, str | int | float)}
    runner.show("summary", [{"what": name, "value": value} for name, value in shown.items()])
    show_reported(reported, paths, runner)
    ids = {name: result[name] for name in ("batch_id", "model_id", "calibration_id", "run_id")}
    about = {**ids, "workspace": options.workspace, "images": options.images}
    counts = {name: value for name, value in result.items() if name.startswith("n_")}
    runner.announce("nelbo.scores.ready", f"batch.{result['batch_id']}", **about, **counts, **paths)
    if result["drift"] and result["drift"]["alarm"]:
        runner.announce(
            "nelbo.drift.detected", f"batch.{result['batch_id']}", **about, findings=result["drift"]["findings"]
        )


def _score_and_publish(
    options: ScoreOptions, target: Target, batch: Batch, runner: Runner, run: Run
) -> tuple[Published, float]:
    """What was published, and the images scored a second. Shards of a run that fails stay for the next one."""
    for left in reversed(range(_ATTEMPTS)):
        started = run.seconds
        try:
            shards = plan_shards(options, target, batch.n_images)
            parts = chunks(shards)
            n_scored = sum(runner.map(score_shards, parts, [sum(shard.size for shard in part) for part in parts]))
            images_per_s = n_scored / (run.seconds - started)
            published = runner.call(publish, shards, run)
        except FileNotFoundError:
            # Another job on this batch has published it and tidied up: the shards that both share are gone.
            if not left:
                raise
            log.info("another job has just published batch %s: what it removed is scored again", target.batch_id)
            continue
        remove_folder(target.staging(options))
        return published, images_per_s
    raise AssertionError("the last attempt returns or raises")


def _calibration_id(workspace: Workspace, model_id: str, options: ScoreOptions) -> str | None:
    if options.uncalibrated:
        return None
    calibration = calibration_of(workspace, model_id, options.calibration)
    if calibration is None:
        raise UsageError(
            f"model {model_id} is not calibrated, so there are no verdicts. "
            "Calibrate it with: nelbo calibrate --normal DIR, or ask for numbers only with --uncalibrated."
        )
    return calibration.calibration_id


def score_shards(shards: Sequence[Shard]) -> int:
    """Score a few shards, one after the other; how many files were scored now."""
    return sum(map(score_shard, shards))


def score_shard(shard: Shard) -> int:
    """Decode and score a shard's files and write its rows to the staging folder; how many were scored now."""
    if shard.is_finished:
        return 0
    workspace = Workspace.at(shard.options.workspace)
    manifest = workspace.manifest(shard.target.batch_id)
    table = read_rows(manifest, shard.start, shard.size)
    model = load_model(workspace, shard.target.model_id)
    root = read_metadata(manifest)["nelbo.root"]
    _check_root(root)
    files = Manifest(table, root).files
    reasons: list[str | None] = table["reason"].to_pylist()
    # What the manifest found unusable is not opened again.
    usable = [row for row, reason in enumerate(reasons) if reason is None]
    found = {name: np.full(len(files), np.nan) for name in (*MEASURES, *QUALITY)}
    done = 0
    for chunk in score_files(model, [files[row] for row in usable], shard.options):
        rows = usable[done : done + len(chunk.reasons)]
        done += len(rows)
        for name, values in chunk.columns.items():
            found[name][rows] = values
        for row, reason in zip(rows, chunk.reasons, strict=True):
            reasons[row] = reason
    # Again: had it gone meanwhile, images would stand there as unreadable.
    _check_root(root)
    columns = {name: table[name] for name in ("relative_path", "image_id", "label", "width_px", "height_px")}
    # from_pandas: NaN, a file without a score, becomes null.
    columns |= {name: pa.array(values, from_pandas=True) for name, values in found.items()}
    columns |= {
        "reason": pa.array(reasons, pa.string()),
        "scored_at_utc": pa.array([datetime.now(UTC)] * len(files), pa.timestamp("us", tz="UTC")),
    }
    write_table(pa.table(columns), shard.path, SHARD_SCHEMA)
    return len(files)


def _check_root(root: str) -> None:
    """That a batch's folder or archive is there: without it, each of its files would seem to be unreadable or gone."""
    if "://" not in root and not Path(root).exists():
        raise UsageError(
            f"{root} is not there on {platform.node()}, and images in it are to be scored. Mount it, or make it "
            "visible there under the same path; then run the same command again."
        )
