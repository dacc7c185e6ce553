"""The step that ends a batch: it joins the shards, decides on them, and publishes the batch at once."""

import json
import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import (
    CHANGED,
    FLAGGED_SCHEMA,
    MEASURED,
    QUALITY,
    REGIONS_SCHEMA,
    SCORES_SCHEMA,
    SHARD_SCHEMA,
    read_metadata,
    read_table,
    table_writer,
    write_table,
)
from nelbo.detectors import q_values
from nelbo.flows.evaluation.drift import drift_facts, find_drift, write_drift
from nelbo.flows.inference.kept.audit import candidates_of, drawn
from nelbo.flows.inference.kept.near import nearest
from nelbo.flows.inference.maps import read_window, write_window
from nelbo.flows.inference.models import load_model
from nelbo.flows.inference.pipeline import warn_of_colour
from nelbo.flows.inference.regions.regions import each_region
from nelbo.flows.inference.shards import Shard, plan_shards
from nelbo.flows.workspace import journal
from nelbo.flows.workspace.calibrations.calibration import Calibration, promise, read_calibration
from nelbo.flows.workspace.calibrations.statistic import Statistic
from nelbo.flows.workspace.flagged import BESIDE, NO_REGIONS, add_beside
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run
from nelbo.flows.workspace.tables import spread
from nelbo.vae_core import Scorable

log = logging.getLogger(__name__)

_NUMBERS = ("image_id", *MEASURED, *QUALITY, "width_px", "height_px", "drops_colour")


class AllChangedError(RuntimeError):
    """Every file of a batch has changed or gone since it was listed."""


def publish(shards: list[Shard], run: Run) -> dict[str, Any]:
    """Decide on the whole batch and publish it: rows with pictures, regions, all rows, which are the commit, and the
    run's row.

    A first pass over the shards takes the few numbers that need the whole batch; a second one writes the rows.

    Args:
        run: its facts hold what listing the batch found, ``n_waiting`` and ``n_folders_unlisted``, and
            ``images_per_s``.

    Returns:
        A summary of the batch: counts of images, verdicts and regions, as in the run's row, where ``n_waiting``
        includes files that changed, or went, after they were listed, which have no row; ``n_colour_dropped``, images
        with colour that the model does not see; if ``fdr`` is given, ``n_discoveries``, images with a q-value up to
        it; the calibration's ``promise`` in words; and ``drift``, see `nelbo.flows.evaluation.drift.find_drift`.
    """
    options, target = shards[0].options, shards[0].target
    workspace = Workspace.at(options.workspace)
    if plan_shards(options, target, sum(shard.size for shard in shards)) != shards:
        raise RuntimeError(f"batch {target.batch_id} was ingested again with other files while it was scored")
    model = load_model(workspace, target.model_id, options.engine)
    calibration = read_calibration(workspace, target.calibration_id) if target.calibration_id else None
    if calibration is not None:
        calibration.check_fit(model)
    statistic = calibration.statistic if calibration else Statistic(model.config.statistic)
    batch = pa.concat_tables(_numbers(read_table(shard.path, _NUMBERS), statistic) for shard in shards)
    batch = _with_chances(batch, calibration)
    drift = find_drift(batch, calibration, workspace, target.batch_id, options) if calibration else None
    root = read_metadata(workspace.manifest(target.batch_id))["nelbo.root"]
    window = read_window(workspace, target.model_id)
    metadata = {**run.metadata, "nelbo.root": root, **write_drift(drift), **write_window(window)}
    level, no_regions = level_of(calibration, model)
    ids, staging = (target.model_id, target.batch_id), target.staging(options)
    constants = {
        "statistic": statistic.name,
        "likelihood": model.config.likelihood,
        "engine": options.engine,
        "run_id": target.run_id,
        "calibration_id": target.calibration_id,
    }
    counts: Counter[str] = Counter()
    # Files that belong beside the scores wait on this machine until the scores are ready.
    aside = {kind: workspace.local_staging / f".{kind}.{run.run_id}.parquet" for kind in BESIDE}
    with ExitStack() as ending:
        for place in aside.values():
            ending.callback(place.unlink, missing_ok=True)
        with table_writer(workspace.scores(*ids), SCORES_SCHEMA, metadata, staging) as scores:
            with (
                table_writer(aside["flagged"], FLAGGED_SCHEMA, metadata) as flagged,
                table_writer(aside["regions"], REGIONS_SCHEMA, metadata | level) as regions,
            ):
                done, sample, near = 0, list[pa.Table](), list[pa.Table]()
                for shard in shards:
                    rows = read_table(shard.path)
                    rows = rows.filter(pc.not_equal(pc.fill_null(rows["reason"], ""), CHANGED))
                    n_scored = rows.num_rows - rows["nelbo_nats"].null_count
                    table = _decide(rows, batch.slice(done, n_scored), calibration, constants)
                    done += n_scored
                    scores.write(table.select(SCORES_SCHEMA.names))
                    counts.update(table["verdict"].to_pylist())
                    raised = pc.is_in(table["verdict"], pa.array(["anomalous", "review"]))
                    flagged.write(table.select(FLAGGED_SCHEMA.names).filter(raised))
                    regions.write(each_region(table.filter(raised)))
                    candidates = candidates_of(table).select(FLAGGED_SCHEMA.names)
                    sampled = pa.concat_tables([*sample, candidates])
                    sample = [drawn(sampled, target.batch_id, options.audit_seed, options.audit)]
                    near = [nearest(pa.concat_tables([*near, candidates]))]
            write_table(sample[0], aside["audit"], FLAGGED_SCHEMA, metadata)
            write_table(near[0], aside["near"], FLAGGED_SCHEMA, metadata)
            if not scores.n_rows:
                raise AllChangedError(f"every file of batch {target.batch_id} has changed or gone since it was listed")
            found = {
                "n_images": scores.n_rows,
                "n_scored": batch.num_rows,
                "n_not_scored": scores.n_rows - batch.num_rows,
                "n_anomalous": counts["anomalous"],
                "n_review": counts["review"],
                "n_regions": None if no_regions else regions.n_rows,
                "no_regions": no_regions,
                # Files that changed while they were listed, or between listing and scoring.
                "n_waiting": run.facts["n_waiting"] + sum(shard.size for shard in shards) - scores.n_rows,
                "n_folders_unlisted": run.facts["n_folders_unlisted"],
            }
            row = run.row(
                batch_id=target.batch_id,
                model_id=target.model_id,
                calibration_id=target.calibration_id,
                **found,
                fpr=calibration.threshold.fpr if calibration else None,
                **drift_facts(drift),
            )
            # Held until the run has its row, so that two jobs on one batch publish one after the other.
            ending.enter_context(workspace.lock())
            journal.note(workspace, row)
            add_beside(workspace, *ids, aside)
        # Here the scores have been moved into place, which is the commit.
        journal.finish(workspace, row)
    discoveries = {}
    if options.fdr is not None:
        n_discoveries = int((batch["q_value"].to_numpy() <= options.fdr).sum()) if calibration else None
        discoveries = {"n_discoveries": n_discoveries}
    return {
        **found,
        "n_colour_dropped": warn_of_colour(batch, target.model_id),
        **discoveries,
        "promise": promise(calibration) if calibration else None,
        "drift": drift,
    }


def level_of(calibration: Calibration | None, model: Scorable) -> tuple[dict[str, str], str | None]:
    """The regions file's metadata; and the reason why there are no regions, or None."""
    if calibration is None:
        why = "there is no calibration"
    elif calibration.region_level is None:
        why = str(calibration.no_regions)
    elif np.isnan(model.map_scales).any():
        why = "an engine of 0.1 makes no maps: make it again with nelbo export"
    else:
        return {"nelbo.region_level": json.dumps(calibration.region_level.to_dict())}, None
    return {NO_REGIONS: why}, why


def warn_of(no_regions: str | None, cannot_see: str | None, calibrated: bool) -> None:
    """Say what holds for each batch of a model and its calibration.

    Args:
        no_regions: why flagged images have no regions; None if they have.
        cannot_see: that the model is blind; None if it is not.
        calibrated: whether there is a calibration, without which nothing is flagged.
    """
    if no_regions and calibrated:
        log.warning("the flagged images have no regions: %s", no_regions)
    if cannot_see:
        log.warning("%s.", cannot_see)


def _numbers(rows: pa.Table, statistic: Statistic) -> pa.Table:
    """The few numbers of each scored row that decisions on the whole batch need."""
    rows = rows.filter(pc.is_valid(rows["nelbo_nats"]))
    # The first 16 digits sort like the whole id, and take 8 bytes.
    order = np.array([int(image_id[:16], 16) for image_id in rows["image_id"].to_pylist()], np.uint64)
    columns = {name: rows[name] for name in (*QUALITY, "variant", "width_px", "height_px", "drops_colour")}
    return pa.table({"image_id": order, "anomaly_score": statistic.scores(rows), **columns})


def _with_chances(batch: pa.Table, calibration: Calibration | None) -> pa.Table:
    """The batch with p- and q-values; null without a calibration."""
    p = q = pa.nulls(batch.num_rows, pa.float64())
    if calibration is not None:
        p = calibration.p_values(batch["anomaly_score"].to_numpy(), batch["variant"])
        q = q_values(p)
    return batch.append_column("p_value", pa.array(p)).append_column("q_value", pa.array(q))


def _decide(
    rows: pa.Table, scored: pa.Table, calibration: Calibration | None, constants: Mapping[str, str | None]
) -> pa.Table:
    """A shard's rows with all their stored columns; what the batch decides is null for a row without a score.

    Args:
        scored: the batch's numbers of those rows that have a score.
        constants: texts that are the same in all rows.
    """
    columns = {name: scored[name] for name in ("anomaly_score", "p_value", "q_value")}
    limit, words = pa.scalar(None, pa.float64()), pa.nulls(scored.num_rows, pa.string())
    if calibration is not None:
        limit = pa.scalar(calibration.threshold.value)
        words = pa.array(calibration.verdicts(scored["anomaly_score"].to_numpy()), pa.string())
    columns |= {"threshold": pa.repeat(limit, scored.num_rows), "verdict": words}
    is_scored = pc.is_valid(rows["nelbo_nats"])
    columns = spread(columns, np.asarray(is_scored))
    columns["verdict"] = pc.if_else(is_scored, columns["verdict"], "not_scored")
    columns |= {name: pa.repeat(pa.scalar(text, pa.string()), len(rows)) for name, text in constants.items()}
    # A column of schema version 5.
    columns["heatmap_png"] = pa.nulls(len(rows), pa.binary())
    return pa.table({name: rows[name] for name in SHARD_SCHEMA.names} | columns)
