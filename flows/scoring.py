"""Steps and composition of ``score``: a batch of images in, verdicts in Parquet out."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from data import MEASURES, QUALITY, SHARD_SCHEMA, Manifest, remove_folder, write_table
from flows.calibrations import calibration_of
from flows.drift import drift_facts
from flows.errors import UsageError
from flows.ingestion import freeze_batch
from flows.models import load_model, read_manifest, score_files
from flows.publishing import Shard, Target, publish
from flows.reporting import write_report
from flows.run import Run
from flows.runner import Runner
from flows.settings import IngestOptions, ScoreOptions
from flows.workspace import Workspace


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
    scoring_started = run.seconds
    try:
        shards = plan_shards(options, target, batch.n_images)
        runner.map(score_shard, shards, [shard.size for shard in shards])
        images_per_s = batch.n_images / (run.seconds - scoring_started)
        published = runner.call(publish, shards, run)
    finally:
        remove_folder(target.staging(options))
    reported = runner.call(write_report, options, batch.batch_id, model_id)
    counts = {
        "n_images": published.n_images,
        "n_scored": published.n_scored,
        "n_not_scored": published.n_images - published.n_scored,
        "n_anomalous": published.n_anomalous,
        "n_review": published.n_review,
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


def plan_shards(options: ScoreOptions, target: Target, n: int) -> list[Shard]:
    """The batch in shards of ``shard_size``; by default a fiftieth of it, between 256 and 4,096 images."""
    size = options.shard_size or min(4096, max(256, -(-n // 50)))
    return [Shard(target, options, start, min(size, n - start)) for start in range(0, n, size)]


def score_shard(shard: Shard) -> None:
    """Decode and score a shard's files and write its rows to the staging folder."""
    workspace = Workspace.at(shard.options.workspace)
    manifest = read_manifest(workspace, shard.target.batch_id)
    table = manifest.table.slice(shard.start, shard.size)
    model = load_model(workspace, shard.target.model_id)
    files = Manifest(table, manifest.root).files
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
