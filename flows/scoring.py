"""Steps and composition of ``score``: a batch of images in, verdicts in Parquet out."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data import (
    FLAGGED_SCHEMA,
    MEASURES,
    SCORES_SCHEMA,
    SHARD_SCHEMA,
    Manifest,
    read_table,
    write_scores,
    write_table,
)
from detectors import p_values, q_values, verdicts
from flows.calibration import Calibration, read_calibration
from flows.errors import UsageError
from flows.heatmap import heatmap_png
from flows.ingestion import freeze_batch
from flows.models import load_model, look_again, read_manifest, score_files
from flows.reporting import write_report
from flows.run import Run
from flows.runner import Runner
from flows.settings import DecodingSettings, IngestOptions, ScoreOptions
from flows.workspace import Workspace


@dataclass(frozen=True)
class Target:
    """What a batch is scored with, and as."""

    batch_id: str
    model_id: str
    calibration_id: str | None
    run_id: str


@dataclass(frozen=True)
class Shard:
    """A run of rows of a manifest, scored as one piece of work."""

    target: Target
    options: ScoreOptions
    start: int
    size: int

    @property
    def path(self) -> Path:
        """Where its scores wait for the rest of the batch."""
        return _staging(self.options, self.target) / f"shard-{self.start:09d}.parquet"


@dataclass(frozen=True)
class Published:
    """Counts of a published batch."""

    n_images: int
    n_scored: int
    n_anomalous: int


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
        shutil.rmtree(_staging(options, target), ignore_errors=True)
    reported = runner.call(write_report, options, batch.batch_id, model_id)
    counts = {
        "n_images": published.n_images,
        "n_scored": published.n_scored,
        "n_not_scored": published.n_images - published.n_scored,
        "n_anomalous": published.n_anomalous,
        "n_review": 0,
    }
    ids = {"batch_id": batch.batch_id, "model_id": model_id, "calibration_id": calibration_id}
    run.record(workspace, **ids, **counts, images_per_s=images_per_s)
    return {
        **ids,
        "run_id": run.run_id,
        **counts,
        "n_skipped": batch.n_skipped,
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
    calibration_id = workspace.calibration(model_id, options.calibration)
    if calibration_id is None:
        raise UsageError(
            f"model {model_id} is not calibrated, so there are no verdicts. "
            "Calibrate it with: nelbo calibrate --normal DIR, or ask for numbers only with --uncalibrated."
        )
    calibration = read_calibration(workspace, calibration_id)
    if calibration.model_id != model_id:
        raise UsageError(
            f"calibration {calibration_id} belongs to model {calibration.model_id}, not to {model_id}. "
            "Name one of this model's, or leave --calibration out."
        )
    return calibration_id


def _staging(options: ScoreOptions, target: Target) -> Path:
    return Workspace.at(options.workspace).staging / target.run_id


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
    paths = Manifest(table, manifest.root).files
    reasons: list[str | None] = table["reason"].to_pylist()
    # What the manifest found unusable is not opened again.
    usable = [row for row, reason in enumerate(reasons) if reason is None]
    measures = {name: np.full(len(paths), np.nan) for name in MEASURES}
    done = 0
    for chunk in score_files(model, [paths[row] for row in usable], shard.options):
        rows = usable[done : done + len(chunk.reasons)]
        done += len(rows)
        for name in MEASURES:
            measures[name][rows] = chunk.columns[name]
        for row, reason in zip(rows, chunk.reasons, strict=True):
            reasons[row] = reason
    columns = {name: table[name] for name in ("relative_path", "image_id", "label", "width_px", "height_px")}
    # from_pandas: NaN, a file without a score, becomes null.
    columns |= {name: pa.array(values, from_pandas=True) for name, values in measures.items()}
    columns |= {
        "reason": pa.array(reasons, pa.string()),
        "scored_at_utc": pa.array([datetime.now(UTC)] * len(paths), pa.timestamp("us", tz="UTC")),
    }
    write_table(pa.table(columns), shard.path, SHARD_SCHEMA)


def publish(shards: list[Shard], run: Run) -> Published:
    """Join the shards, decide, and put the batch in its place: flagged rows first, all rows last."""
    options, target = shards[0].options, shards[0].target
    workspace = Workspace.at(options.workspace)
    manifest = read_manifest(workspace, target.batch_id)
    joined = pa.concat_tables([read_table(shard.path) for shard in shards])
    for column in ("relative_path", "image_id"):
        if not joined[column].equals(manifest.table[column]):
            raise RuntimeError(f"batch {target.batch_id} was ingested anew with other files while it was scored")
    model = load_model(workspace, target.model_id)
    calibration = read_calibration(workspace, target.calibration_id) if target.calibration_id else None
    table = _decide(joined, calibration, model.config, target, options.engine)
    flagged = table.filter(pc.equal(table["verdict"].cast(pa.string()), "anomalous"))
    flagged = _with_heatmaps(flagged, model, calibration, manifest.root, options)
    metadata = {**run.metadata, "nelbo.root": str(manifest.root)}
    batch = (target.model_id, target.batch_id)
    write_table(flagged, workspace.flagged(*batch), FLAGGED_SCHEMA, metadata, workspace.staging)
    write_scores(table, workspace.scores(*batch), metadata, workspace.staging)
    n_scored = table.num_rows - table["anomaly_score"].null_count
    return Published(table.num_rows, n_scored, flagged.num_rows)


def _decide(joined: pa.Table, calibration: Calibration | None, config: Any, target: Target, engine: str) -> pa.Table:
    """Score rows with thresholds, p- and q-values and verdicts; q-values need the whole batch."""
    n = joined.num_rows
    scored = np.asarray(pc.is_valid(joined["anomaly_score"]))
    decided = {name: np.full(n, np.nan) for name in ("threshold", "p_value", "q_value")}
    verdict = np.full(n, None, object)
    verdict[~scored] = "not_scored"
    if calibration is not None:
        scores = joined["anomaly_score"].drop_null().to_numpy()
        decided["threshold"][scored] = calibration.threshold.value
        decided["p_value"][scored] = p_values(scores, calibration.normal_scores)
        decided["q_value"][scored] = q_values(decided["p_value"][scored])
        verdict[scored] = verdicts(scores, calibration.threshold.value)
    constants = {
        "statistic": config.statistic,
        "likelihood": config.likelihood,
        "engine": engine,
        "run_id": target.run_id,
        "calibration_id": target.calibration_id,
    }
    columns = {name: joined[name] for name in SHARD_SCHEMA.names}
    columns |= {name: pa.array(values, from_pandas=True) for name, values in decided.items()}
    columns |= {"verdict": pa.array(verdict, pa.string())}
    columns |= {name: pa.array([value] * n, pa.string()) for name, value in constants.items()}
    return pa.table(columns).select(SCORES_SCHEMA.names).cast(SCORES_SCHEMA)


def _with_heatmaps(
    flagged: pa.Table, model: Any, calibration: Calibration | None, root: Path, decoding: DecodingSettings
) -> pa.Table:
    """The same rows with a picture each; null where the file has gone since it was scored."""
    files = [root / path for path in flagged["relative_path"].to_pylist()]
    # Without a calibration nothing is flagged.
    top = calibration.heatmap_top if calibration else 1.0
    looks = look_again(model, files, decoding)
    pictures = [None if look is None else heatmap_png(look.local_z, top) for look in looks]
    return flagged.append_column("heatmap_png", pa.array(pictures, pa.binary()))
