"""Steps and composition of ``calibrate``: held-out images in, a threshold out; the weights do not change."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo import vae_core
from nelbo.data import (
    CALIBRATION_SCHEMA,
    JOINT,
    JOINT_PARTS,
    MAP_PEAK,
    STATISTICS,
    Manifest,
    labels_in,
    normal_in,
    read_table,
    with_united_groups,
)
from nelbo.detectors import check_objective, one_of_each
from nelbo.flows.evaluation.succession import Proposal, keep
from nelbo.flows.evaluation.thresholds import (
    check_calibration_size,
    level_of_normals,
    threshold_of_labels,
    threshold_of_normals,
)
from nelbo.flows.inference.measured import measure, with_quality
from nelbo.flows.inference.models import load_model
from nelbo.flows.inference.pipeline import warn_of_colour
from nelbo.flows.inference.speeds import UNUSABLE
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
    Calibration,
    calibration_of,
    calibrations_of,
    caution,
    describe,
    last_precision,
    needed_calibration,
    normal_rows,
    part_rows,
    read_calibration,
    reference_rows,
    rows_of,
    standing,
)
from nelbo.flows.workspace.calibrations.level import RegionLevel
from nelbo.flows.workspace.calibrations.statistic import Statistic
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.models import check_unseen, unseen_in_training
from nelbo.flows.workspace.reviews import reviewed_rows
from nelbo.flows.workspace.runs import Run
from nelbo.flows.workspace.tables import only, with_column, without

log = logging.getLogger(__name__)

#: As many hex digits as a double holds exactly.
_HASHED_DIGITS = 12
_NONE_CROSSED = CALIBRATION_SCHEMA.append(pa.field("group", pa.string())).empty_table().drop_columns("anomaly_score")


@dataclass(frozen=True)
class Calibrated:
    """A calibration in the workspace, and how many images it left out.

    It leaves out images that the model had seen, and reviewed images without a score by this model in the workspace.
    """

    calibration_id: str
    n_left_out: int


def recalibrate(options: CalibrateOptions, runner: Runner) -> dict[str, Any]:
    """Calibrate a model on further normal images or on labelled ones; returns what the command prints."""
    run = Run("calibrate", options)
    workspace = Workspace.at(options.workspace)
    model_id = catalog.find_model(workspace, options.model)
    _check(options)
    n_unlisted, second = 0, None
    if options.use is not None:
        asked = needed_calibration(workspace, model_id, options.use)
        calibrated = Calibrated(asked.calibration_id, 0)
        pointers.use_calibration(workspace, model_id, asked.calibration_id, asked.precision)
    elif options.labels == REVIEWS:
        calibrated = runner.call(calibrate_from_reviews, options, model_id, run)
    else:
        # A damaged model is found before anything is written.
        load_model(workspace, model_id)
        batch_id = runner.call(freeze_calibration_images, options, model_id, run)
        with workspace.using(batch_id):
            calibrated = runner.call(calibrate_model, options, model_id, batch_id, run)
            if _has_second(workspace, model_id):
                second = runner.call(calibrate_model, options, model_id, batch_id, run, None, vae_core.INT8)
        n_unlisted = folders_unlisted(workspace, batch_id)
    runner.rename(f"{calibrated.calibration_id} of {model_id}")
    calibration = read_calibration(workspace, calibrated.calibration_id)
    stands = _standing(workspace, calibration)
    if workspace.card(model_id).exists():
        # The threshold determines which simulated defects are found.
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
        **({vae_core.INT8: _described(workspace, second.calibration_id)} if second else {}),
        "run_id": run.run_id,
        "seconds": round(run.seconds, 3),
    }


def _standing(workspace: Workspace, calibration: Calibration) -> dict[str, Any]:
    current = pointers.current_calibration(workspace, calibration.model_id, calibration.precision)
    return standing(calibration, current)


def _described(workspace: Workspace, calibration_id: str) -> dict[str, Any]:
    calibration = read_calibration(workspace, calibration_id)
    return {**describe(calibration), **_standing(workspace, calibration)}


def _has_second(workspace: Workspace, model_id: str) -> bool:
    """Whether a model has a fit in 8 bits that scores here; a fit that cannot loses its calibration."""
    if vae_core.INT8 not in catalog.engines(workspace, model_id):
        return False
    try:
        load_model(workspace, model_id, vae_core.INT8)
    except UNUSABLE as error:
        pointers.forget(workspace, model_id, [vae_core.INT8])
        log.warning(
            "the fit of model %s in int8 is not calibrated, so that float32 scores from now on: %s. For int8, "
            "calibrate on the machine that it was made on",
            model_id,
            error,
        )
        return False
    return True


def _check(options: CalibrateOptions) -> None:
    given = [name for name in ("normal", "labels", "use") if getattr(options, name) is not None]
    if len(given) != 1 or (options.labels is None) != (options.objective is None):
        raise UsageError(
            "calibrate takes one of: --normal DIR with --fpr; --labels CSV (or: reviews) with --objective; --use ID "
            "for an existing calibration."
        )
    if options.statistic is not None and options.statistic not in (JOINT, *STATISTICS):
        raise UsageError(f"statistic={options.statistic!r}: expected one of {', '.join((JOINT, *STATISTICS))}.")
    if options.objective is not None:
        try:
            check_objective(options.objective, options.target)
        except ValueError as error:
            raise UsageError(f"{error}.") from error


def freeze_calibration_images(options: CalibrateOptions, model_id: str, run: Run) -> str:
    """Ingest the images, check that they are enough, and publish their manifest; returns its id."""
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
    options: TrainOptions | CalibrateOptions,
    model_id: str,
    batch_id: str,
    run: Run,
    unseen: str | None = None,
    engine: str = "keras",
    take: bool = True,
) -> Calibrated:
    """Score held-out images, find the threshold, write the calibration; it becomes current, or a candidate.

    Images that the model was trained or stopped on are not used, because the promise holds only for others.

    Args:
        batch_id: a manifest; from that of a training, the images for calibration are taken.
        unseen: a file of rows that cross-fitting has measured, which replace the scoring of images.
        engine: the fit to calibrate: "keras" for the bundle's, "int8" for the second.
        take: False leaves it to the caller to make the calibration current.
    """
    workspace = Workspace.at(options.workspace)
    manifest = read_manifest(workspace, batch_id)
    model = load_model(workspace, model_id, engine)
    labels = _labels(options)
    crossed = _NONE_CROSSED
    if unseen is not None:
        rows, n_left_out = read_table(Path(unseen)), 0
    else:
        table, n_seen = _held_out(with_united_groups(manifest.table), options, workspace, model_id)
        if labels is None:
            crossed = _crossed_rows(workspace, model_id, manifest.table, model.fit_id)
        n_left_out = n_seen - crossed.num_rows
        if n_left_out:
            log.info("%d images that the model was trained on are left out", n_left_out)
        rows = measure(model, Manifest(table, manifest.root), options, "scoring calibration images", peaks=True)
        warn_of_colour(rows, model_id)
        if isinstance(options, CalibrateOptions):
            kept = replace(manifest, table=with_quality(manifest.table, rows))
            publish_manifest(kept, workspace, batch_id, run)
    if crossed.num_rows:
        rows = _with_crossed(rows, crossed)
    asked = options.statistic if isinstance(options, CalibrateOptions) else None
    statistic = Statistic(asked or model.config.statistic)
    if statistic.name == JOINT and rows[JOINT_PARTS[0]].null_count:
        raise UsageError(f"statistic=joint needs features, and model {model_id} has none. Try peak.")
    if labels is None:
        cross = unseen is not None or crossed.num_rows > 0
        level = _region_level(rows, options, cross)
        rows = _drawn(rows, statistic, options)
        chosen, in_groups = part_rows(rows, "calibration"), rows["group"].null_count < rows.num_rows
        statistic, threshold = threshold_of_normals(chosen, statistic, options, cross, in_groups)
    else:
        rows = with_halves(rows)
        # Labels choose one threshold for all variants, at the levels of the current calibration.
        current = calibration_of(workspace, model_id, precision=vae_core.precision_of(engine))
        if current is not None and current.statistic.name == statistic.name:
            statistic = current.statistic
        threshold = threshold_of_labels(rows, statistic, labels)
        # Labels ask for no rate: regions keep the level that normal images have set, or get one from labelled normal
        # images.
        before = None if current is None else current.region_level
        level = before or _region_level(rows.filter(pc.equal(rows["label"], 0)), options, cross=False)
    rows = rows.append_column("anomaly_score", pa.array(statistic.scores(rows), pa.float64()))
    normal = rows.filter(pc.not_equal(rows["label"], 1))
    proposal = Proposal(
        model_id,
        batch_id,
        rows,
        statistic,
        threshold,
        # Twice a value that few normal images exceed leaves room for defects.
        heatmap_top=2 * float(np.quantile(normal["peak"].to_numpy(), 0.95)),
        region_level=level,
        labels=labels,
        labels_from=None if labels is None else "manifest",
        fit_id=model.fit_id,
    )
    return Calibrated(keep(proposal, workspace, run, take), n_left_out)


def _region_level(rows: pa.Table, options: TrainOptions | CalibrateOptions, cross: bool) -> RegionLevel | str:
    """The level that regions exceed, from normal images; each group's representative is drawn for its map."""
    known, in_groups = rows.filter(pc.is_valid(rows[MAP_PEAK])), rows["group"].null_count < rows.num_rows
    chosen = part_rows(_drawn(known, Statistic(MAP_PEAK), options), "calibration")
    return level_of_normals(chosen, options, cross, in_groups)


def _drawn(rows: pa.Table, statistic: Statistic, options: TrainOptions | CalibrateOptions) -> pa.Table:
    """The rows with their use as ``split``: ``calibration`` for one image of each group, ``view`` for the others."""
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
    """Move the threshold of the model's current calibration to where reviewers' decisions put it."""
    workspace = Workspace.at(options.workspace)
    proposal, n_left_out = proposed_by_reviews(workspace, options, model_id)
    if vae_core.INT8 in catalog.engines(workspace, model_id):
        log.info("reviews move the threshold of the fit that scored last, %s, and no other", proposal.precision)
    return Calibrated(keep(proposal, workspace, run), n_left_out)


def proposed_by_reviews(workspace: Workspace, options: CalibrateOptions, model_id: str) -> tuple[Proposal, int]:
    """The calibration that reviewers' decisions would give, and how many reviewed images it leaves out; writes nothing.

    If a model has several fits, the threshold of the one that scored last moves: it does not use the others' scores.

    What is normal stays as it was. Reviewed images were picked by their scores; p-values, drift and the colours of
    heatmaps therefore still refer to the held-out normal images behind the current calibration.
    """
    precision = last_precision(workspace, model_id)
    current = calibration_of(workspace, model_id, precision=precision) or needed_calibration(workspace, model_id)
    if options.statistic not in (None, current.statistic.name):
        # Another statistic would need other reviews.
        raise UsageError(
            f"statistic {options.statistic} does not go with reviews of what {current.statistic.name} flagged. "
            "Leave it out, or calibrate with it on normal images first."
        )
    rows, n_left_out = reviewed_rows(workspace, model_id, current.precision)
    rows = with_halves(rows)
    threshold = threshold_of_labels(rows, current.statistic, options)
    rows = rows.append_column("anomaly_score", pa.array(current.statistic.scores(rows), pa.float64()))
    # Batches keep no maps of images that were not flagged.
    rows = rows.append_column(MAP_PEAK, pa.nulls(rows.num_rows, pa.float64()))
    normal = without(normal_rows(workspace, current), rows.filter(pc.equal(rows["label"], 1)))
    if not normal.num_rows:
        raise UsageError(
            "reviewers found all held-out normal images of the current calibration anomalous, and reviewed images "
            "cannot replace them. Calibrate on others first: nelbo calibrate --normal DIR"
        )
    parts = (rows, normal, reference_rows(workspace, current))
    proposal = Proposal(
        model_id,
        current.batch_id,
        pa.concat_tables(part.select(CALIBRATION_SCHEMA.names).cast(CALIBRATION_SCHEMA) for part in parts),
        current.statistic,
        threshold,
        current.heatmap_top,
        current.region_level or current.no_regions or "",
        labels=options,
        labels_from=REVIEWS,
        fit_id=current.fit_id,
    )
    return proposal, n_left_out


def _labels(options: TrainOptions | CalibrateOptions) -> LabelSettings | None:
    """How labels choose the threshold; None if normal images set it."""
    return options if isinstance(options, CalibrateOptions) and options.labels is not None else None


def _held_out(
    table: pa.Table, options: TrainOptions | CalibrateOptions, workspace: Workspace, model_id: str
) -> tuple[pa.Table, int]:
    """The usable rows for calibration, each content once, that the model has not seen; and how many it has seen."""
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


def _crossed_rows(workspace: Workspace, model_id: str, table: pa.Table, fit_id: str | None = None) -> pa.Table:
    """Cross-fitted measures of these images, and their groups; no rows if the model is not cross-fitted.

    They allow another rate on the images of such a model, all of which it has seen.
    """
    for calibration in calibrations_of(workspace, model_id):
        if calibration.threshold.cross and calibration.labels_from is None and calibration.fit_id == fit_id:
            rows = only(rows_of(workspace, calibration), table)
            manifest = with_united_groups(read_manifest(workspace, calibration.batch_id).table)
            place = pc.index_in(rows["image_id"], manifest["image_id"].combine_chunks())
            return rows.append_column("group", manifest["group"].take(place)).select(_NONE_CROSSED.column_names)
    return _NONE_CROSSED


def _with_crossed(scored: pa.Table, crossed: pa.Table) -> pa.Table:
    """The rows of both, with the columns that a calibration keeps, and their groups."""
    return pa.concat_tables([scored.select(crossed.column_names).cast(crossed.schema), crossed])
