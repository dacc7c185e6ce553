"""``evaluate``: measures how well a model found the defects of a batch that labels and masks show."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import File, Masks, find_masks, read_table
from nelbo.flows.evaluation.by_kind import Counted, measures_of_images, measures_of_pixels
from nelbo.flows.evaluation.evaluations import keep_evaluation
from nelbo.flows.evaluation.metrics import judged_rows
from nelbo.flows.evaluation.truth import kinds_of, truth_of
from nelbo.flows.numbers import images
from nelbo.flows.options.options import EvaluateOptions, ReportOptions
from nelbo.flows.steps.report import asked, write_report
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.calibrations.calibration import read_calibration
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.journal import opened
from nelbo.flows.workspace.layout import Workspace, some
from nelbo.flows.workspace.runs import Run
from nelbo.flows.workspace.tables import with_column
from nelbo.vae_core import precision_of

log = logging.getLogger(__name__)

_COLUMNS = (
    *(
        "relative_path",
        "image_id",
        "anomaly_score",
        "verdict",
        "label",
        "width_px",
        "height_px",
        "calibration_id",
        "engine",
    ),
)


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """Judge a batch, keep the measures, and write its page again; returns what the command prints."""
    run = Run("evaluate", options)
    workspace = opened(options.workspace).prepare()
    batch_id, model_id = asked(workspace, options)
    table = read_table(workspace.scores(model_id, batch_id), _COLUMNS)
    root, scores_run_id = (table.schema.metadata[name].decode() for name in (b"nelbo.root", b"nelbo.run_id"))
    paths = table["relative_path"].to_pylist()
    masks = Masks([None] * len(paths), []) if options.masks is None else find_masks(options.masks, paths)
    has_mask = [file is not None for file in masks.files]
    truth = truth_of(paths, root, table["label"].to_numpy(), has_mask, options.labels, options.root)
    table = with_column(table, "label", truth.labels)
    calibration_id = table["calibration_id"][0].as_py()
    calibration = read_calibration(workspace, calibration_id) if calibration_id else None
    rows, n_left_out = judged_rows(table, calibration, workspace, model_id)
    if not rows.num_rows:
        raise UsageError(_nothing(batch_id, n_left_out))
    not_judged = _not_judged(table, n_left_out)
    kinds = _kinds(rows)
    measures = measures_of_images(rows, kinds, None if calibration is None else calibration.threshold.fpr)
    result: dict[str, Any] = {"labels_from": truth.said_by, "n_left_out": n_left_out, **not_judged}
    if options.masks is not None:
        of_image = dict(zip(paths, masks.files, strict=True))
        counted, result["masks"] = _counted(options, workspace, model_id, root, rows, kinds, of_image)
        result["masks"]["n_unused"] = len(masks.unused)
        if masks.unused:
            log.warning("Masks that belong to no image of the batch: %d (%s).", len(masks.unused), some(masks.unused))
        measures += measures_of_pixels(counted)
    place = keep_evaluation(workspace, model_id, batch_id, measures, run, scores_run_id)
    page = ReportOptions(workspace=options.workspace, batch=batch_id, model=model_id)
    report = write_report(page, batch_id, model_id).path
    run.record(workspace, batch_id=batch_id, model_id=model_id, n_images=rows.num_rows)
    return {
        "batch_id": batch_id,
        "model_id": model_id,
        "run_id": run.run_id,
        "n_normal": kinds.count(None),
        "n_anomalous": len(kinds) - kinds.count(None),
        **result,
        "measures": measures,
        "evaluation": place,
        "report": report,
        "seconds": round(run.seconds, 3),
    }


def _not_judged(table: pa.Table, n_left_out: int) -> dict[str, int]:
    """How many images have no label, and how many labelled ones no score; people are told, for recall is without them.

    Args:
        n_left_out: images that made the model or its calibration.
    """
    is_labelled = table["label"].to_numpy() >= 0
    n_unlabelled = int((~is_labelled).sum())
    n_unscored = int((is_labelled & np.asarray(pc.is_null(table["anomaly_score"]))).sum())
    counts = {"without a label": n_unlabelled, "without a score": n_unscored, "used to make the model": n_left_out}
    said = [f"{count:,} {why}" for why, count in counts.items() if count]
    if said:
        log.warning("Images of the batch that are not judged: %s.", ", ".join(said))
    return {"n_unlabelled": n_unlabelled, "n_unscored": n_unscored}


def _kinds(rows: pa.Table) -> list[str | None]:
    """The kind of each image: None for a normal one, an empty text for a defect in no folder."""
    paths, is_anomalous = rows["relative_path"].to_pylist(), rows["label"].to_numpy() == 1
    found = iter(kinds_of([path for path, one in zip(paths, is_anomalous, strict=True) if one]))
    return [(next(found) or "") if one else None for one in is_anomalous]


def _counted(
    options: EvaluateOptions,
    workspace: Workspace,
    model_id: str,
    root: str,
    rows: pa.Table,
    kinds: Sequence[str | None],
    masks: dict[str, File | None],
) -> tuple[Counted, dict[str, Any]]:
    """The counts of comparing maps with masks; and the images that could not be compared, which are also logged."""
    from nelbo.flows.inference.engines import choose_engine
    from nelbo.flows.inference.localisation import Pictured, localise
    from nelbo.flows.inference.models import load_model

    model_id = catalog.find_model(workspace, model_id)
    # The maps come from the fit that scored the batch.
    fit: dict[str, str | None] = {precision_of(rows["engine"][0].as_py()): None}
    model = load_model(workspace, model_id, choose_engine(workspace, model_id, options.engine, fit))
    pictured, of_images, without = [], [], []
    for row, kind in zip(rows.to_pylist(), kinds, strict=True):
        path, mask = row["relative_path"], masks[row["relative_path"]]
        if kind is not None and mask is None:
            without.append(path)
            continue
        size = row["width_px"], row["height_px"]
        pictured.append(Pictured(File(root, path, row["image_id"]), mask, kind is None, *size))
        of_images.append(kind)
    found = localise(model, pictured, options)
    why = {pictured[row].file.path: reason for row, reason in found.left_out.items()}
    if without:
        log.warning("Images without a mask, not counted in the localisation: %s.", _listed(without))
    for reason in dict.fromkeys(why.values()):
        of_reason = [path for path, one in why.items() if one == reason]
        log.warning("Not counted in the localisation, because %s: %s.", reason, _listed(of_reason))
    if not found.rows:
        raise UsageError(
            f"no image could be compared with a mask ({len(without)} have none, {len(why)} cannot be compared). "
            f"Name the folder with masks of images such as {rows['relative_path'][0]}, and leave the images in place."
        )
    said = {"n_compared": len(found.rows), "missing": without, "not_compared": why}
    return Counted(found.counts, [of_images[row] for row in found.rows]), said


def _listed(paths: list[str]) -> str:
    return f"{images(len(paths))} ({some(paths)})"


def _nothing(batch_id: str, n_left_out: int) -> str:
    if n_left_out:
        return (
            f"all {n_left_out} labelled images of batch {batch_id!r} were used in training or calibration, and cannot "
            "judge the model. Score other images."
        )
    return (
        f"nothing says which images of batch {batch_id!r} are defective. Name a table with the columns path and label "
        "(--labels CSV), or masks (--masks DIR); or score a folder that has good/ beside kinds of defects."
    )
