"""Steps and composition of ``score``: a batch of images in, verdicts in Parquet out."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from data import MEASURES, QUALITY, SHARD_SCHEMA, Manifest, read_metadata, read_rows, remove_folder, write_table
from flows.calibrations import calibration_of
from flows.drift import drift_facts
from flows.errors import UsageError
from flows.ingestion import Batch, freeze_batch
from flows.models import load_model, score_files
from flows.publishing import Published, publish
from flows.reporting import write_report
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
    # A damaged model is found before anything is written.
    load_model(workspace, model_id)
    ingest_options = IngestOptions(**options.model_dump(include=set(IngestOptions.model_fields)))
    batch = runner.call(freeze_batch, ingest_options, run)
    target = Target(batch.batch_id, model_id, calibration_id, run.run_id)
    published, images_per_s = _score_and_publish(options, target, batch, runner, run)
    reported = runner.call(write_report, options, batch.batch_id, model_id)
    counts = {
        "n_images": published.n_images,
        "n_scored": published.n_scored,
        "n_not_scored": published.n_images - published.n_scored,
        "n_anomalous": published.n_anomalous,
        "n_review": published.n_review,
        # Changed while they were listed, or between that and being scored.
        "n_waiting": batch.n_waiting + published.n_waiting,
    }
    ids = {"batch_id": batch.batch_id, "model_id": model_id, "calibration_id": calibration_id}
    run.record(workspace, **ids, **counts, fpr=published.fpr, images_per_s=images_per_s, **drift_facts(published.drift))
    return {
        **ids,
        "run_id": run.run_id,
        **counts,
        "n_skipped": batch.n_skipped,
        **({"n_discoveries": published.n_discoveries} if options.fdr is not None else {}),
        "promise": published.promise,
        "drift": published.drift and {name: published.drift[name] for name in ("alarm", "findings")},
        "scores": str(workspace.scores(model_id, batch.batch_id)),
        "flagged": str(workspace.flagged(model_id, batch.batch_id)),
        "report": reported.path,
        "seconds": round(run.seconds, 3),
        "images_per_s": round(images_per_s, 1),
        **({"metrics": reported.metrics} if reported.metrics else {}),
    }


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
    files = Manifest(table, read_metadata(manifest)["nelbo.root"]).files
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
    columns = {name: table[name] for name in ("relative_path", "image_id", "label", "width_px", "height_px")}
    # from_pandas: NaN, a file without a score, becomes null.
    columns |= {name: pa.array(values, from_pandas=True) for name, values in found.items()}
    columns |= {
        "reason": pa.array(reasons, pa.string()),
        "scored_at_utc": pa.array([datetime.now(UTC)] * len(files), pa.timestamp("us", tz="UTC")),
    }
    write_table(pa.table(columns), shard.path, SHARD_SCHEMA)
    return len(files)
