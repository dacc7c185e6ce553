"""Steps and composition of ``calibrate``: held-out images in, a threshold out; the weights stay as they are."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import (
    CALIBRATION_SCHEMA,
    JOINT,
    JOINT_PARTS,
    STATISTICS,
    Manifest,
    labels_in,
    normal_in,
    read_table,
    with_united_groups,
)
from nelbo.detectors import check_objective, one_of_each
from nelbo.flows.evaluation.succession import Proposal, keep
from nelbo.flows.evaluation.thresholds import check_calibration_size, threshold_of_labels, threshold_of_normals
from nelbo.flows.inference.measured import measure, with_quality
from nelbo.flows.inference.models import load_model
from nelbo.flows.inference.pipeline import warn_of_colour
from nelbo.flows.options.options import CalibrateOptions, TrainOptions
from nelbo.flows.options.settings import LabelSettings
from nelbo.flows.report.card import write_card
from nelbo.flows.runner import Runner
from nelbo.flows.steps.ingest import content_id, folders_unlisted, publish_manifest, read_manifest, scan_source
from nelbo.flows.steps.parts import (
    check_labels,
    check_normal,
    check_parts,
    each_once,
    n_draws,
    with_groups,
    with_halves,
)
from nelbo.flows.workspace import catalog, pointers
from nelbo.flows.workspace.calibrations.calibration import (
    REVIEWS,
    calibration_of,
    calibrations_of,
    caution,
    describe,
    needed_calibration,
    normal_rows,
    part_rows,
    read_calibration,
    reference_rows,
    rows_of,
    standing,
)
from nelbo.flows.workspace.calibrations.statistic import Statistic
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.models import check_unseen, unseen_in_training
from nelbo.flows.workspace.reviews import reviewed_rows
from nelbo.flows.workspace.runs import Run
from nelbo.flows.workspace.tables import only, with_column, without

log = logging.getLogger(__name__)

#: As many as a double holds exactly.
_HASHED_DIGITS = 12
_NONE_CROSSED = CALIBRATION_SCHEMA.append(pa.field("group", pa.string())).empty_table().drop_columns("anomaly_score")


@dataclass(frozen=True)
class Calibrated:
    """A calibration in the workspace, and how many images it left out.

    The model had seen them; or they were reviewed, and the workspace has no score of them by this model.
    """

    calibration_id: str
    n_left_out: int


def recalibrate(options: CalibrateOptions, runner: Runner) -> dict[str, Any]:
    """Calibrate a model on further normal images or on labelled ones; what the command prints."""
    run = Run("calibrate", options)
    workspace = Workspace.at(options.workspace)
    model_id = catalog.find_model(workspace, options.model)
    _check(options)
    n_unlisted = 0
    if options.use is not None:
        calibrated = Calibrated(needed_calibration(workspace, model_id, options.use).calibration_id, 0)
        pointers.use_calibration(workspace, model_id, calibrated.calibration_id)
    elif options.labels == REVIEWS:
        calibrated = runner.call(calibrate_from_reviews, options, model_id, run)
    else:
        # A damaged model is found before anything is written.
        load_model(workspace, model_id)
        batch_id = runner.call(freeze_calibration_images, options, model_id, run)
        with workspace.using(batch_id):
            calibrated = runner.call(calibrate_model, options, model_id, batch_id, run)
        n_unlisted = folders_unlisted(workspace, batch_id)
    runner.rename(f"{calibrated.calibration_id} of {model_id}")
    calibration = read_calibration(workspace, calibrated.calibration_id)
    stands = standing(calibration, pointers.current_calibration(workspace, model_id))
    if workspace.card(model_id).exists():
        # What is found of simulated defects, the threshold says.
        write_card(workspace, model_id)
    if stands["candidate"]:
        runner.show("calibration", f"# Candidate {calibration.calibration_id}\n\n{calibration.why_not}")
    run.record(
        workspace,
        model_id=model_id,
        calibration_id=calibrated.calibration_id,
        batch_id=calibration.batch_id,
        n_images=calibration.threshold.n_calibration,
        n_folders_unlisted=n_unlisted,
        fpr=calibration.threshold.fpr,
    )
    return {
        "model_id": model_id,
        **describe(calibration),
        **stands,
        "n_left_out": calibrated.n_left_out,
        "n_folders_unlisted": n_unlisted,
        **({"judged": calibration.judged} if calibration.judged else {}),
        **({"caution": caution(calibration)} if options.labels == REVIEWS else {}),
        "run_id": run.run_id,
        "seconds": round(run.seconds, 3),
    }


def _check(options: CalibrateOptions) -> None:
    given = [name for name in ("normal", "labels", "use") if getattr(options, name) is not None]
    if len(given) != 1 or (options.labels is None) != (options.objective is None):
        raise UsageError(
            "calibrate takes one of: --normal DIR with --fpr; --labels CSV (or: reviews) with --objective; --use ID "
            "for a calibration that is there already."
        )
    if options.statistic is not None and options.statistic not in (JOINT, *STATISTICS):
        raise UsageError(f"statistic={options.statistic!r}: expected one of {', '.join((JOINT, *STATISTICS))}.")
    if options.objective is not None:
        try:
            check_objective(options.objective, options.target)
        except ValueError as error:
            raise UsageError(f"{error}.") from error


def freeze_calibration_images(options: CalibrateOptions, model_id: str, run: Run) -> str:
    """Ingest the images, check that they are enough, publish their manifest; its id."""
    source = str(options.normal or options.labels)
    manifest = scan_source(source, options, find=normal_in if options.normal else labels_in).manifest()
    manifest = replace(manifest, table=with_groups(source, manifest.table, options.group_by))
    workspace = Workspace.at(options.workspace)
    check_parts(source, manifest.table)
    if options.labels is None:
        check_normal(source, manifest.table, "Leave them out.")
    else:
        check_labels(source, manifest.table.filter(pc.greater_equal(manifest.table["label"], 0)))
    held_out, _ = _held_out(with_united_groups(manifest.table), options, workspace, model_id)
    if options.labels is None:
        crossed = _crossed_rows(workspace, model_id, manifest.table)
        counted = (rows[name].to_pylist() for rows in (held_out, crossed) for name in ("image_id", "group"))
        images, groups, crossed_images, crossed_groups = counted
        check_calibration_size(n_draws(images + crossed_images, groups + crossed_groups), options)
        if crossed.num_rows and options.confidence is not None:
            raise UsageError(
                f"confidence={options.confidence} does not go with images that {model_id} was trained on, "
                "whose cross-fitted scores make the rate approximate. Leave it out, or name other images."
            )
    batch_id = content_id("k", manifest.content_hash())
    publish_manifest(manifest, workspace.prepare(), batch_id, run)
    return batch_id


def calibrate_model(
    options: TrainOptions | CalibrateOptions, model_id: str, batch_id: str, run: Run, unseen: str | None = None
) -> Calibrated:
    """Score held-out images, find the threshold, write the calibration; it becomes current, or a candidate.

    Images that the model was trained or stopped on have no part in it: the promise holds for others only.

    Args:
        batch_id: a manifest; of a training's the images for calibration are taken.
        unseen: a file of rows that cross-fitting has measured, in the place of images that are scored.
    """
    workspace = Workspace.at(options.workspace)
    manifest = read_manifest(workspace, batch_id)
    model = load_model(workspace, model_id)
    labels = _labels(options)
    crossed = _NONE_CROSSED
    if unseen is not None:
        rows, n_left_out = read_table(Path(unseen)), 0
    else:
        table, n_seen = _held_out(with_united_groups(manifest.table), options, workspace, model_id)
        if labels is None:
            crossed = _crossed_rows(workspace, model_id, manifest.table)
        n_left_out = n_seen - crossed.num_rows
        if n_left_out:
            log.info("%d images that the model was trained on are left out", n_left_out)
        rows = measure(model, Manifest(table, manifest.root), options, "scoring calibration images")
        warn_of_colour(rows, model_id)
        if isinstance(options, CalibrateOptions):
            kept = replace(manifest, table=with_quality(manifest.table, rows))
            publish_manifest(kept, workspace, batch_id, run)
    if crossed.num_rows:
        rows = _with_crossed(rows, crossed)
    asked = options.statistic if isinstance(options, CalibrateOptions) else None
    statistic = Statistic(asked or model.config.statistic)
    if statistic.name == JOINT and rows[JOINT_PARTS[0]].null_count:
        raise UsageError(f"statistic=joint is of features, and model {model_id} has none. Try peak.")
    if labels is None:
        rows = _drawn(rows, statistic, options)
        chosen, in_groups = part_rows(rows, "calibration"), rows["group"].null_count < rows.num_rows
        cross = unseen is not None or crossed.num_rows > 0
        statistic, threshold = threshold_of_normals(chosen, statistic, options, cross, in_groups)
    else:
        rows = with_halves(rows)
        # Labels choose one threshold for all variants, at the levels of the current calibration.
        current = calibration_of(workspace, model_id)
        if current is not None and current.statistic.name == statistic.name:
            statistic = current.statistic
        threshold = threshold_of_labels(rows, statistic, labels)
    rows = rows.append_column("anomaly_score", pa.array(statistic.scores(rows), pa.float64()))
    normal = rows.filter(pc.not_equal(rows["label"], 1))
    proposal = Proposal(
        model_id,
        batch_id,
        rows,
        statistic,
        threshold,
        # Twice what few normal images exceed: a defect has room above it.
        heatmap_top=2 * float(np.quantile(normal["peak"].to_numpy(), 0.95)),
        labels=labels,
        labels_from=None if labels is None else "manifest",
    )
    return Calibrated(keep(proposal, workspace, run), n_left_out)


def _drawn(rows: pa.Table, statistic: Statistic, options: TrainOptions | CalibrateOptions) -> pa.Table:
    """The rows with what each is for: ``calibration``, one of each group; or ``view``, the others of these."""
    groups = rows["group"].to_pylist()
    if options.promise_per == "group":
        keys = statistic.scores(rows)
    else:
        # Hashes of contents are as good as random, and neither names nor order matter.
        keys = np.array([int(image_id[:_HASHED_DIGITS], 16) for image_id in rows["image_id"].to_pylist()])
    chosen = np.full(rows.num_rows, "view", object)
    chosen[one_of_each(groups, keys)] = "calibration"
    return with_column(rows, "split", chosen.tolist())


def calibrate_from_reviews(options: CalibrateOptions, model_id: str, run: Run) -> Calibrated:
    """Move the threshold of the model's current calibration to where the decisions of reviewers want it."""
    workspace = Workspace.at(options.workspace)
    proposal, n_left_out = proposed_by_reviews(workspace, options, model_id)
    return Calibrated(keep(proposal, workspace, run), n_left_out)


def proposed_by_reviews(workspace: Workspace, options: CalibrateOptions, model_id: str) -> tuple[Proposal, int]:
    """What would be kept of the decisions of reviewers, and how many reviewed images are left out; nothing is written.

    What is normal stays as it was. Reviewed images were picked by their scores, so p-values, drift and the colours of
    heatmaps go on being measured against the held-out normal images behind the current calibration.
    """
    current = needed_calibration(workspace, model_id)
    if options.statistic not in (None, current.statistic.name):
        # It would need other reviews.
        raise UsageError(
            f"statistic {options.statistic} does not go with reviews of what {current.statistic.name} flagged. "
            "Leave it out, or calibrate with it on normal images first."
        )
    rows, n_left_out = reviewed_rows(workspace, model_id)
    rows = with_halves(rows)
    threshold = threshold_of_labels(rows, current.statistic, options)
    rows = rows.append_column("anomaly_score", pa.array(current.statistic.scores(rows), pa.float64()))
    normal = without(normal_rows(workspace, current), rows.filter(pc.equal(rows["label"], 1)))
    if not normal.num_rows:
        raise UsageError(
            "reviewers found all held-out normal images of the current calibration anomalous, and reviewed images "
            "stand in for none of them. Calibrate on others first: nelbo calibrate --normal DIR"
        )
    parts = (rows, normal, reference_rows(workspace, current))
    proposal = Proposal(
        model_id,
        current.batch_id,
        pa.concat_tables(part.select(CALIBRATION_SCHEMA.names).cast(CALIBRATION_SCHEMA) for part in parts),
        current.statistic,
        threshold,
        current.heatmap_top,
        labels=options,
        labels_from=REVIEWS,
    )
    return proposal, n_left_out


def _labels(options: TrainOptions | CalibrateOptions) -> LabelSettings | None:
    """How labels choose the threshold; None where normal images do."""
    return options if isinstance(options, CalibrateOptions) and options.labels is not None else None


def _held_out(
    table: pa.Table, options: TrainOptions | CalibrateOptions, workspace: Workspace, model_id: str
) -> tuple[pa.Table, int]:
    """The usable rows of the asked part, each content once, without those that the model has seen; and how many."""
    if isinstance(options, TrainOptions):
        table = table.filter(pc.equal(table["split"], "calibration"))
    elif options.labels is not None:
        for_thresholds = pc.is_in(pc.fill_null(table["split"], "test"), pa.array(["calibration", "test"]))
        table = table.filter(pc.and_(for_thresholds, pc.greater_equal(table["label"], 0)))
    table = each_once(table)
    if _labels(options) is not None:
        remedy = "Choose a threshold on images that the model has not seen: leave them out."
        check_unseen("labelled images", table, workspace, model_id, remedy)
    unseen = unseen_in_training(table, workspace, model_id)
    return unseen, len(table) - len(unseen)


def _crossed_rows(workspace: Workspace, model_id: str, table: pa.Table) -> pa.Table:
    """What models of other images said of these images, and their groups; none of a model that is not cross-fitted.

    So another rate can be asked of the images that it has, all of which it has seen.
    """
    for calibration in calibrations_of(workspace, model_id):
        if calibration.threshold.cross and calibration.labels_from is None:
            rows = only(rows_of(workspace, calibration), table)
            manifest = with_united_groups(read_manifest(workspace, calibration.batch_id).table)
            place = pc.index_in(rows["image_id"], manifest["image_id"].combine_chunks())
            return rows.append_column("group", manifest["group"].take(place)).select(_NONE_CROSSED.column_names)
    return _NONE_CROSSED


def _with_crossed(scored: pa.Table, crossed: pa.Table) -> pa.Table:
    """Rows of both with what a calibration keeps, and their groups."""
    return pa.concat_tables([scored.select(crossed.column_names).cast(crossed.schema), crossed])
