"""Steps and composition of ``calibrate``: held-out images in, a threshold out; the weights stay as they are."""

import logging
from collections import Counter
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
    MEASURED,
    QUALITY,
    STATISTICS,
    InputError,
    Manifest,
    read_table,
    with_united_groups,
)
from nelbo.detectors import Threshold, check_objective, variant_levels
from nelbo.flows.evaluation.succession import Proposal, keep
from nelbo.flows.inference.models import load_model
from nelbo.flows.inference.pipeline import SCORED_SCHEMA, score_files, warn_of_colour
from nelbo.flows.inference.progress import progress
from nelbo.flows.options.options import CalibrateOptions, TrainOptions
from nelbo.flows.options.settings import CalibrationSettings, DecodingSettings, LabelSettings
from nelbo.flows.runner import Runner
from nelbo.flows.steps.ingest import content_id, folders_unlisted, publish_manifest, read_manifest, scan_source
from nelbo.flows.steps.parts import calibration_needs, check_calibration_size, check_parts, first_of_each, halved
from nelbo.flows.workspace import catalog, pointers
from nelbo.flows.workspace.calibrations.calibration import (
    REVIEWS,
    Calibration,
    calibration_of,
    calibrations_of,
    caution,
    describe,
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
from nelbo.flows.workspace.models import SEEN_DIGITS, seen_in_training
from nelbo.flows.workspace.reviews import reviewed_rows
from nelbo.flows.workspace.runs import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to calibrate on.

    batch_id: a manifest, and split the part of it; None takes all its rows.
    labels: how labels choose the threshold; None calibrates on normal images by ``fpr``.
    statistic: None takes the model's own.
    unseen: a file of rows that cross-fitting has measured, in the place of images that are scored.
    """

    model_id: str
    batch_id: str = ""
    split: str | None = None
    labels: LabelSettings | None = None
    statistic: str | None = None
    unseen: str | None = None


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
    source, request = _request(options, model_id)
    if source is None:
        calibrated = Calibrated(_current(workspace, model_id, options.use), 0)
    elif options.labels == REVIEWS:
        calibrated = runner.call(calibrate_from_reviews, request, options, run)
    else:
        # A damaged model is found before anything is written.
        load_model(workspace, model_id)
        request = runner.call(freeze_calibration_images, source, request, options, run)
        with workspace.using(request.batch_id):
            calibrated = runner.call(calibrate_model, request, options, run)
    runner.rename(f"{calibrated.calibration_id} of {model_id}")
    calibration = read_calibration(workspace, calibrated.calibration_id)
    n_unlisted = folders_unlisted(workspace, request.batch_id) if request.batch_id else 0
    stands = standing(calibration, pointers.current_calibration(workspace, model_id))
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


def _request(options: CalibrateOptions, model_id: str) -> tuple[str | None, Request]:
    """The images to take, None to use a calibration that is there; and what to do with them."""
    given = [name for name in ("normal", "labels", "use") if getattr(options, name) is not None]
    if len(given) != 1 or (options.labels is None) != (options.objective is None):
        raise UsageError(
            "calibrate takes one of: --normal DIR with --fpr; --labels CSV (or: reviews) with --objective; --use ID "
            "for a calibration that is there already."
        )
    if options.statistic is not None and options.statistic not in (JOINT, *STATISTICS):
        raise UsageError(f"statistic={options.statistic!r}: expected one of {', '.join((JOINT, *STATISTICS))}.")
    labels = None
    if options.objective is not None:
        labels = LabelSettings(**options.model_dump(include=set(LabelSettings.model_fields)))
        try:
            check_objective(options.objective, options.target)
        except ValueError as error:
            raise UsageError(f"{error}.") from error
    return options.normal or options.labels, Request(model_id, labels=labels, statistic=options.statistic)


def _current(workspace: Workspace, model_id: str, name: str | None) -> str:
    calibration = calibration_of(workspace, model_id, name)
    if calibration is None:
        raise UsageError(f"model {model_id} has no calibration. Make one with: nelbo calibrate --normal DIR")
    pointers.use_calibration(workspace, model_id, calibration.calibration_id)
    return calibration.calibration_id


def freeze_calibration_images(source: str, request: Request, options: CalibrateOptions, run: Run) -> Request:
    """Ingest the images, check that they are enough, publish their manifest; the request with its batch's id."""
    manifest = scan_source(source, options).manifest()
    workspace = Workspace.at(options.workspace)
    check_parts(source, manifest.table)
    held_out, _ = _held_out(manifest.table, request, workspace)
    if request.labels is None:
        crossed = _crossed(manifest.table, request, workspace)
        check_calibration_size(held_out.num_rows + crossed.num_rows, options)
        if crossed.num_rows and options.confidence is not None:
            raise UsageError(
                f"confidence={options.confidence} does not go with images that {request.model_id} was trained on, "
                "whose cross-fitted scores make the rate approximate. Leave it out, or name other images."
            )
    batch_id = content_id("k", manifest)
    publish_manifest(manifest, workspace.prepare(), batch_id, run)
    return replace(request, batch_id=batch_id)


def calibrate_model(request: Request, options: TrainOptions | CalibrateOptions, run: Run) -> Calibrated:
    """Score held-out images, find the threshold, write the calibration; it becomes current, or a candidate.

    Images that the model was trained or stopped on have no part in it: the promise holds for others only.
    """
    workspace = Workspace.at(options.workspace)
    manifest = read_manifest(workspace, request.batch_id)
    model = load_model(workspace, request.model_id)
    crossed = CALIBRATION_SCHEMA.empty_table()
    if request.unseen is not None:
        rows, n_left_out = read_table(Path(request.unseen)), 0
    else:
        table, n_seen = _held_out(with_united_groups(manifest.table), request, workspace)
        crossed = _crossed(manifest.table, request, workspace)
        n_left_out = n_seen - crossed.num_rows
        if n_left_out:
            log.info("%d images that the model was trained on are left out", n_left_out)
        rows = measure(model, Manifest(table, manifest.root), options, "scoring calibration images")
        warn_of_colour(rows, request.model_id)
        if request.split is None:
            publish_manifest(_with_quality(manifest, rows), workspace, request.batch_id, run)
    if crossed.num_rows:
        rows = _joined(rows, crossed)
    rows = _split(rows, request)
    statistic = Statistic(request.statistic or model.config.statistic)
    if statistic.name == JOINT and rows[JOINT_PARTS[0]].null_count:
        raise UsageError(f"statistic=joint is of features, and model {request.model_id} has none. Try peak.")
    cross = request.unseen is not None or crossed.num_rows > 0
    statistic = _levelled(statistic, rows, request, options, cross)
    rows = rows.append_column("anomaly_score", pa.array(statistic.scores(rows), pa.float64()))
    normal = rows.filter(pc.not_equal(rows["label"], 1))
    proposal = Proposal(
        request.model_id,
        request.batch_id,
        rows,
        statistic,
        _threshold(rows, statistic, request, options, cross),
        # Twice what few normal images exceed: a defect has room above it.
        heatmap_top=2 * float(np.quantile(normal["peak"].to_numpy(), 0.95)),
        labels=request.labels,
        labels_from=None if request.labels is None else "manifest",
    )
    return Calibrated(keep(proposal, workspace, run), n_left_out)


def calibrate_from_reviews(request: Request, options: CalibrateOptions, run: Run) -> Calibrated:
    """Move the threshold of the model's current calibration to where the decisions of reviewers want it.

    What is normal stays as it was. Reviewed images were picked by their scores, so p-values, drift and the colours of
    heatmaps go on being measured against the held-out normal images behind the current calibration.
    """
    workspace = Workspace.at(options.workspace)
    current = calibration_of(workspace, request.model_id)
    if current is None:
        raise UsageError(
            f"model {request.model_id} has no calibration, which reviews could move the threshold of. "
            "Make one with: nelbo calibrate --normal DIR"
        )
    _check_statistic(current, options)
    rows, n_left_out = reviewed_rows(workspace, request.model_id)
    rows = _split(rows, request)
    rows = rows.append_column("anomaly_score", pa.array(current.statistic.scores(rows), pa.float64()))
    threshold = _threshold(rows, current.statistic, request, options)
    found_anomalous = rows.filter(pc.equal(rows["label"], 1))["image_id"].combine_chunks()
    normal = normal_rows(workspace, current)
    normal = normal.filter(pc.invert(pc.is_in(normal["image_id"], found_anomalous)))
    if not normal.num_rows:
        raise UsageError(
            "reviewers found all held-out normal images of the current calibration anomalous, and reviewed images "
            "stand in for none of them. Calibrate on others first: nelbo calibrate --normal DIR"
        )
    parts = (rows, normal, reference_rows(workspace, current))
    proposal = Proposal(
        request.model_id,
        current.batch_id,
        pa.concat_tables(part.select(CALIBRATION_SCHEMA.names).cast(CALIBRATION_SCHEMA) for part in parts),
        current.statistic,
        threshold,
        current.heatmap_top,
        labels=request.labels,
        labels_from=REVIEWS,
    )
    return Calibrated(keep(proposal, workspace, run), n_left_out)


def _check_statistic(current: Calibration, options: CalibrateOptions) -> None:
    """Another statistic than the one whose flags were reviewed would need other reviews."""
    if options.statistic not in (None, current.statistic.name):
        raise UsageError(
            f"statistic {options.statistic} does not go with reviews of what {current.statistic.name} flagged. "
            "Leave it out, or calibrate with it on normal images first."
        )


def _held_out(table: pa.Table, request: Request, workspace: Workspace) -> tuple[pa.Table, int]:
    """The usable rows of the asked part, each content once, without those that the model has seen; and how many."""
    if request.split is not None:
        table = table.filter(pc.equal(table["split"], request.split))
    elif request.labels is not None:
        table = _labelled(table)
    elif n_anomalous := table.filter(pc.equal(table["label"], 1)).num_rows:
        raise InputError(f"{n_anomalous} images are labelled anomalous; --normal takes normal ones. Leave them out.")
    seen = seen_in_training(workspace, request.model_id)
    first = first_of_each(table)
    keep = [row for image_id, row in first.items() if image_id[:SEEN_DIGITS] not in seen]
    n_seen = len(first) - len(keep)
    if n_seen and request.labels is not None:
        (path, *_) = (table["relative_path"][row] for image_id, row in first.items() if image_id[:SEEN_DIGITS] in seen)
        raise InputError(
            f"{n_seen} of {len(first)} labelled images were trained on (first: {path}), so their scores are lower than "
            "those of others. Choose a threshold on images that the model has not seen: leave them out."
        )
    return table.take(pa.array(keep, pa.int64())), n_seen


def _labelled(table: pa.Table) -> pa.Table:
    """The rows with a label that are for calibration or test; one content with two labels is an error."""
    table = table.filter(pc.greater_equal(table["label"], 0))
    label_of: dict[str, int] = {}
    for path, image_id, label in zip(
        *(table[name].to_pylist() for name in ("relative_path", "image_id", "label")), strict=True
    ):
        if image_id and label_of.setdefault(image_id, label) != label:
            raise InputError(f"{path} is labelled {label}, and the same image {label_of[image_id]}. Leave one out.")
    return table.filter(pc.is_in(pc.fill_null(table["split"], "test"), pa.array(["calibration", "test"])))


def measure(model: Any, manifest: Manifest, decoding: DecodingSettings, title: str) -> pa.Table:
    """Rows of the readable files, with their measures and what they look like; the title is for the progress bar."""
    scored = [SCORED_SCHEMA.empty_table()]
    with progress(title, len(manifest)) as advance:
        for rows in score_files(model, manifest.files, decoding):
            scored.append(rows)
            advance(rows.num_rows)
    table = manifest.table.select(["relative_path", "image_id", "label", "split", "group"])
    found = pa.concat_tables(scored)
    for name in (*MEASURED, *QUALITY, "drops_colour", "part"):
        table = table.append_column(name, found[name])
    return table.filter(pc.is_valid(table["nelbo_nats"]))


def _with_quality(manifest: Manifest, rows: pa.Table) -> Manifest:
    """The manifest with what the scored images look like; drift is later measured from there."""
    place = {image_id: row for row, image_id in enumerate(rows["image_id"].to_pylist())}
    found = pa.array([place.get(image_id) for image_id in manifest.table["image_id"].to_pylist()], pa.int64())
    table = manifest.table
    for name in QUALITY:
        table = table.set_column(table.schema.get_field_index(name), name, rows[name].combine_chunks().take(found))
    return replace(manifest, table=table)


def _split(rows: pa.Table, request: Request) -> pa.Table:
    """What each image is for: "calibration", or "test" of a labelled threshold."""
    ids, groups, labels, named = (rows[name].to_pylist() for name in ("image_id", "group", "label", "split"))
    if request.labels is None:
        parts = ["calibration"] * len(ids)
    elif "test" in named or "calibration" in named:
        # Named by whoever made the table; what is in neither part, nor of a group that is, is for testing.
        choosing = {group for group, part in zip(groups, named, strict=True) if group and part == "calibration"}
        parts = [
            "calibration" if part == "calibration" or group in choosing else "test"
            for group, part in zip(groups, named, strict=True)
        ]
    else:
        parts = halved(ids, groups, labels)
    return rows.set_column(rows.schema.get_field_index("split"), "split", pa.array(parts, pa.string()))


def _crossed(table: pa.Table, request: Request, workspace: Workspace) -> pa.Table:
    """What models of other images said of images that a cross-fitted model was trained on; none of other models.

    So another rate can be asked of the images that it has, all of which it has seen.
    """
    if request.labels is None:
        for calibration in calibrations_of(workspace, request.model_id):
            if calibration.threshold.cross and calibration.labels_from is None:
                rows = part_rows(rows_of(workspace, calibration), "calibration")
                return rows.filter(pc.is_in(rows["image_id"], table["image_id"].combine_chunks()))
    return CALIBRATION_SCHEMA.empty_table()


def _joined(scored: pa.Table, crossed: pa.Table) -> pa.Table:
    """Rows of both with what a calibration keeps, and the groups of those that have just been scored."""
    names = [name for name in CALIBRATION_SCHEMA.names if name != "anomaly_score"]
    crossed = crossed.select(names).append_column("group", pa.nulls(crossed.num_rows, pa.string()))
    kept = scored.select([*names, "group"]).cast(crossed.schema)
    return pa.concat_tables([kept, crossed])


def _levelled(
    statistic: Statistic, rows: pa.Table, request: Request, options: TrainOptions | CalibrateOptions, cross: bool
) -> Statistic:
    """The statistic with a level for each variant: one threshold then flags of each as many normal images as promised.

    Labels choose one threshold for all variants, at the levels of the current calibration.
    """
    if request.labels is not None:
        current = calibration_of(Workspace.at(options.workspace), request.model_id)
        return statistic if current is None or current.statistic.name != statistic.name else current.statistic
    if rows["variant"].null_count:
        return statistic
    variants, least = np.array(rows["variant"].to_pylist()), calibration_needs(options)
    levels = variant_levels(
        statistic.scores(rows), variants, lambda scores: _from_normals(scores, options, cross).value, least
    )
    for name, n in zip(*np.unique(variants, return_counts=True), strict=True):
        if n < least:
            log.warning(
                "variant %s has %d calibration images, and its own promise needs %d: it is judged by the threshold of "
                "all variants together. Add normal images of it",
                name,
                n,
                least,
            )
    return replace(statistic, levels={str(name): level for name, level in levels.items()})


def _from_normals(scores: np.ndarray, options: CalibrationSettings, cross: bool) -> Threshold:
    return Threshold.from_normals(
        scores,
        options.fpr,
        confidence=options.confidence,
        contamination=options.contamination,
        review_fpr=options.review_fpr,
        cross=cross,
    )


def _threshold(
    rows: pa.Table, statistic: Statistic, request: Request, options: CalibrationSettings, cross: bool = False
) -> Threshold:
    chosen = part_rows(rows, "calibration")
    scores = chosen["anomaly_score"].to_numpy()
    labels = request.labels
    if labels is None:
        found = _from_normals(scores, options, cross)
        if not statistic.levels:
            return found
        # Ranks of all together may come out one lower than those of each variant.
        value = _from_normals(replace(statistic, levels={}).scores(chosen), options, cross).value
        review = found.review if found.review is not None and found.review < value else None
        return replace(found, value=value, review=review)
    try:
        return Threshold.from_labels(
            chosen["label"].to_numpy(),
            scores,
            str(labels.objective),
            target=labels.target,
            costs=labels.costs,
            review_recall=labels.review_recall,
        )
    except ValueError as error:
        counts = Counter(chosen["label"].to_pylist())
        raise UsageError(
            f"{error} (Of the labelled images {counts[0]} normal and {counts[1]} anomalous ones choose the threshold; "
            f"{part_rows(rows, 'test').num_rows} judge it.)"
        ) from error
