"""The step that ends a batch: shards joined, decided on, and put in their place at once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data import FLAGGED_SCHEMA, SCORES_SCHEMA, SHARD_SCHEMA, Manifest, Place, read_table, write_scores, write_table
from flows.calibrations import Calibration, read_calibration
from flows.drift import find_drift, write_drift
from flows.heatmap import heatmap_png
from flows.models import load_model, look_again, read_manifest
from flows.run import Run
from flows.settings import DecodingSettings, ScoreOptions
from flows.statistic import Statistic
from flows.workspace import Workspace


@dataclass(frozen=True)
class Target:
    """What a batch is scored with, and as."""

    batch_id: str
    model_id: str
    calibration_id: str | None
    run_id: str

    def staging(self, options: ScoreOptions) -> Place:
        """Where the batch waits until it is whole."""
        return Workspace.at(options.workspace).staging / self.run_id


@dataclass(frozen=True)
class Shard:
    """A run of rows of a manifest, scored as one piece of work."""

    target: Target
    options: ScoreOptions
    start: int
    size: int

    @property
    def path(self) -> Place:
        """Where its scores wait for the rest of the batch."""
        return self.target.staging(self.options) / f"shard-{self.start:09d}.parquet"


@dataclass(frozen=True)
class Published:
    """What there is to say of a published batch; n_discoveries, promise, fpr and drift are None where there are none.

    n_discoveries: images with q <= ``fdr``.
    promise: of the calibration, in words.
    drift: see `flows.drift.find_drift`.
    """

    n_images: int
    n_scored: int
    n_anomalous: int
    n_review: int
    n_discoveries: int | None
    fpr: float | None
    promise: str | None
    drift: dict[str, Any] | None


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
    drift = find_drift(joined, calibration, workspace, target.batch_id, options) if calibration else None
    flagged = table.filter(pc.is_in(table["verdict"].cast(pa.string()), pa.array(["anomalous", "review"])))
    flagged = _with_heatmaps(flagged, model, calibration, manifest.root, options)
    metadata = {**run.metadata, "nelbo.root": manifest.root, **write_drift(drift)}
    batch = (target.model_id, target.batch_id)
    write_table(flagged, workspace.flagged(*batch), FLAGGED_SCHEMA, metadata, workspace.staging)
    write_scores(table, workspace.scores(*batch), metadata, workspace.staging)
    return Published(
        n_images=table.num_rows,
        n_scored=table.num_rows - table["anomaly_score"].null_count,
        n_anomalous=_count(table, "anomalous"),
        n_review=_count(table, "review"),
        n_discoveries=_n_discoveries(table, options.fdr) if calibration else None,
        fpr=calibration.threshold.fpr if calibration else None,
        promise=calibration.threshold.describe() if calibration else None,
        drift=drift,
    )


def _decide(joined: pa.Table, calibration: Calibration | None, config: Any, target: Target, engine: str) -> pa.Table:
    """Score rows with thresholds, p- and q-values and verdicts; q-values need the whole batch."""
    n = joined.num_rows
    scored = np.asarray(pc.is_valid(joined["nelbo_nats"]))
    rows = joined.filter(pa.array(scored))
    decided = {name: np.full(n, np.nan) for name in ("anomaly_score", "threshold", "p_value", "q_value")}
    verdict = np.full(n, None, object)
    verdict[~scored] = "not_scored"
    if calibration is None:
        statistic = config.statistic
        decided["anomaly_score"][scored] = Statistic(statistic).scores(rows)
    else:
        statistic = calibration.statistic.name
        judged = calibration.judge(rows)
        decided["anomaly_score"][scored] = judged.anomaly_score
        decided["threshold"][scored] = calibration.threshold.value
        decided["p_value"][scored] = judged.p_value
        decided["q_value"][scored] = judged.q_value
        verdict[scored] = judged.verdict
    constants = {
        "statistic": statistic,
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


def _count(table: pa.Table, word: str) -> int:
    return int(pc.sum(pc.equal(table["verdict"].cast(pa.string()), word)).as_py() or 0)


def _n_discoveries(table: pa.Table, fdr: float | None) -> int | None:
    if fdr is None:
        return None
    return int(pc.sum(pc.less_equal(table["q_value"], fdr)).as_py() or 0)


def _with_heatmaps(
    flagged: pa.Table, model: Any, calibration: Calibration | None, root: str, decoding: DecodingSettings
) -> pa.Table:
    """The same rows with a picture each; null where the file has gone since it was scored."""
    files = Manifest(flagged, root).files
    # Without a calibration nothing is flagged.
    top = calibration.heatmap_top if calibration else 1.0
    looks = look_again(model, files, decoding)
    pictures = [None if look is None else heatmap_png(look.local_z, top) for look in looks]
    return flagged.append_column("heatmap_png", pa.array(pictures, pa.binary()))
