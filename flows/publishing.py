"""The step that ends a batch: shards joined, decided on, and put in their place at once."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, tee
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data import (
    CHANGED,
    FLAGGED_SCHEMA,
    MEASURES,
    QUALITY,
    SCORES_SCHEMA,
    SHARD_SCHEMA,
    Manifest,
    read_metadata,
    read_table,
    table_writer,
)
from detectors import q_values
from flows.calibrations import Calibration, promise, read_calibration
from flows.drift import find_drift, write_drift
from flows.heatmap import heatmap_png
from flows.models import load_model
from flows.pipeline import look_again, warn_of_colour
from flows.run import Run
from flows.settings import DecodingSettings
from flows.shards import Shard, plan_shards
from flows.statistic import Statistic
from flows.workspace import Workspace

_NUMBERS = ("image_id", *MEASURES, *QUALITY, "width_px", "height_px", "drops_colour")


class AllChangedError(RuntimeError):
    """Not one file of a batch is as it was when it was listed."""


@dataclass(frozen=True)
class Published:
    """What there is to say of a published batch; n_discoveries, promise, fpr and drift are None where there are none.

    n_waiting: files that changed, or went, after they were listed; they have no row.
    n_colour_dropped: images with colour that the model does not see.
    n_discoveries: images with q <= ``fdr``.
    promise: of the calibration, in words.
    drift: see `flows.drift.find_drift`.
    """

    n_images: int
    n_scored: int
    n_anomalous: int
    n_review: int
    n_waiting: int
    n_colour_dropped: int
    n_discoveries: int | None
    fpr: float | None
    promise: str | None
    drift: dict[str, Any] | None


def publish(shards: list[Shard], run: Run) -> Published:
    """Decide on the whole batch, and put it in its place: flagged rows first, all rows last, which is the commit.

    A first pass over the shards takes the few numbers that need the whole batch; a second one writes the rows.
    """
    options, target = shards[0].options, shards[0].target
    workspace = Workspace.at(options.workspace)
    if plan_shards(options, target, sum(shard.size for shard in shards)) != shards:
        raise RuntimeError(f"batch {target.batch_id} was ingested anew with other files while it was scored")
    model = load_model(workspace, target.model_id, options.engine)
    calibration = read_calibration(workspace, target.calibration_id) if target.calibration_id else None
    statistic = calibration.statistic if calibration else Statistic(model.config.statistic)
    batch = pa.concat_tables(_numbers(read_table(shard.path, _NUMBERS), statistic) for shard in shards)
    q = q_values(calibration.p_values(batch["anomaly_score"].to_numpy())) if calibration else None
    drift = find_drift(batch, calibration, workspace, target.batch_id, options) if calibration else None
    manifest = workspace.manifest(target.batch_id)
    root = read_metadata(manifest)["nelbo.root"]
    metadata = {**run.metadata, "nelbo.root": root, **write_drift(drift)}
    ids, staging = (target.model_id, target.batch_id), target.staging(options)
    constants = {
        "statistic": statistic.name,
        "likelihood": model.config.likelihood,
        "engine": options.engine,
        "run_id": target.run_id,
        "calibration_id": target.calibration_id,
    }
    counts: Counter[str] = Counter()
    # Left in the order opposite to that of entering: the scores last.
    with (
        table_writer(workspace.scores(*ids), SCORES_SCHEMA, metadata, staging) as scores,
        table_writer(workspace.flagged(*ids), FLAGGED_SCHEMA, metadata, staging) as flagged,
    ):

        def raised() -> Iterator[pa.Table]:
            """Write all rows, shard by shard, and hand on the flagged ones."""
            done = 0
            for shard in shards:
                rows = _without_waiting(read_table(shard.path))
                n_scored = rows.num_rows - rows["nelbo_nats"].null_count
                decided = _decide(rows, statistic, calibration, None if q is None else q[done : done + n_scored])
                done += n_scored
                decided |= {name: pa.array([value] * rows.num_rows, pa.string()) for name, value in constants.items()}
                columns = {name: rows[name] for name in SHARD_SCHEMA.names} | decided
                table = pa.table(columns).select(SCORES_SCHEMA.names).cast(SCORES_SCHEMA)
                scores.write(table)
                words = table["verdict"].cast(pa.string())
                counts.update(words.to_pylist())
                yield table.filter(pc.is_in(words, pa.array(["anomalous", "review"])))

        for rows in _with_heatmaps(raised(), model, calibration, root, options):
            flagged.write(rows)
        if not scores.n_rows:
            raise AllChangedError(f"every file of batch {target.batch_id} has changed or gone since it was listed")
    return Published(
        n_images=scores.n_rows,
        n_scored=batch.num_rows,
        n_anomalous=counts["anomalous"],
        n_review=counts["review"],
        n_waiting=sum(shard.size for shard in shards) - scores.n_rows,
        n_colour_dropped=warn_of_colour(batch, target.model_id),
        n_discoveries=int((q <= options.fdr).sum()) if q is not None and options.fdr is not None else None,
        fpr=calibration.threshold.fpr if calibration else None,
        promise=promise(calibration) if calibration else None,
        drift=drift,
    )


def _without_waiting(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.not_equal(pc.fill_null(rows["reason"], ""), CHANGED))


def _numbers(rows: pa.Table, statistic: Statistic) -> pa.Table:
    """What decisions on the whole batch need of a shard's scored rows: a few numbers each."""
    rows = rows.filter(pc.is_valid(rows["nelbo_nats"]))
    # The first 16 digits sort as the whole does, in 8 bytes.
    order = np.array([int(image_id[:16], 16) for image_id in rows["image_id"].to_pylist()], np.uint64)
    columns = {name: rows[name] for name in (*QUALITY, "width_px", "height_px", "drops_colour")}
    return pa.table({"image_id": order, "anomaly_score": statistic.scores(rows), **columns})


def _decide(
    rows: pa.Table, statistic: Statistic, calibration: Calibration | None, q: np.ndarray | None
) -> dict[str, pa.Array]:
    """Columns with scores, thresholds, p- and q-values and verdicts; null where there is nothing to decide."""
    scored = np.asarray(pc.is_valid(rows["nelbo_nats"]))
    found = statistic.scores(rows.filter(pa.array(scored)))
    decided = {name: np.full(len(scored), np.nan) for name in ("anomaly_score", "threshold", "p_value", "q_value")}
    verdict = np.full(len(scored), None, object)
    verdict[~scored] = "not_scored"
    decided["anomaly_score"][scored] = found
    if calibration is not None:
        decided["threshold"][scored] = calibration.threshold.value
        decided["p_value"][scored] = calibration.p_values(found)
        decided["q_value"][scored] = q
        verdict[scored] = calibration.verdicts(found)
    columns = {name: pa.array(values, from_pandas=True) for name, values in decided.items()}
    return {**columns, "verdict": pa.array(verdict, pa.string())}


def _with_heatmaps(
    flagged: Iterable[pa.Table], model: Any, calibration: Calibration | None, root: str, decoding: DecodingSettings
) -> Iterator[pa.Table]:
    """The same rows with a picture each; null where the file has gone since it was scored.

    Files are looked at in whole batches, whichever shards they are of; only the rows of these are held meanwhile.
    """
    # Without a calibration nothing is flagged.
    top = calibration.heatmap_top if calibration else 1.0
    flagged, same = tee(flagged)
    looks = look_again(model, (file for rows in same for file in Manifest(rows, root).files), decoding)
    for rows in flagged:
        pictures = [None if look is None else heatmap_png(look.local_z, top) for look in islice(looks, rows.num_rows)]
        yield rows.append_column("heatmap_png", pa.array(pictures, pa.binary()))
