"""Calibrations of a model side by side: what they promise, and what each makes of one scored batch."""

from typing import Any

import numpy as np
import pyarrow as pa

from nelbo.detectors import evaluate
from nelbo.flows.evaluation.metrics import as_json
from nelbo.flows.workspace import catalog, pointers
from nelbo.flows.workspace.calibrations.calibration import Calibration, calibrations_of, describe, scored_rows, standing
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.models import unseen_in_training


def list_calibrations(workspace: Workspace, model_id: str) -> list[dict[str, Any]]:
    """Each calibration of a model, the oldest first; ``current`` is the one that `score` takes.

    A ``candidate`` was made and did not become current; ``why_not`` says why.
    """
    current = pointers.current_calibration(workspace, model_id)
    return [
        {
            "calibration_id": calibration.calibration_id,
            "model_id": model_id,
            **standing(calibration, current),
            "made_at_utc": calibration.made_at_utc,
            **describe(calibration),
        }
        for calibration in calibrations_of(workspace, model_id)
    ]


def compare_calibrations(workspace: Workspace, model_id: str, batch_id: str | None) -> dict[str, Any]:
    """Verdicts of every calibration of a model on one batch, derived from its stored scores; nothing is written.

    Args:
        batch_id: None takes the one that was scored last.

    Returns:
        ``batch_id``, and ``calibrations``: of each what it is and promises, how many images it flags, on how many
        it differs from the current one, and where there are labels what it finds: recall and realised
        false-positive rate with 95 % intervals, over the ``n_judged`` images that none of the calibrations was
        made from.
    """
    calibrations = calibrations_of(workspace, model_id)
    if not calibrations:
        raise UsageError(f"model {model_id} has no calibration. Make one with: nelbo calibrate --normal DIR")
    batch_id = catalog.find_scored(workspace, "batch", batch_id) if batch_id else _last_batch(workspace, model_id)
    path = workspace.scores(model_id, batch_id)
    if not path.exists():
        raise UsageError(f"batch {batch_id!r} is not scored with model {model_id}. List batches with: nelbo batches")
    table = scored_rows(path)
    current = pointers.current_calibration(workspace, model_id)
    verdicts = {calibration.calibration_id: calibration.judge(table).verdict for calibration in calibrations}
    by_current = verdicts.get(str(current))
    judged = _judged(unseen_in_training(table, workspace, model_id), calibrations)
    rows = []
    for calibration in calibrations:
        found = verdicts[calibration.calibration_id]
        row = {
            "calibration_id": calibration.calibration_id,
            **standing(calibration, current),
            **describe(calibration),
            "n_anomalous": int((found == "anomalous").sum()),
            "n_review": int((found == "review").sum()),
            "n_differ": None if by_current is None else int((found != by_current).sum()),
        }
        rows.append(row | (_metrics(judged, calibration) if judged.num_rows else {}))
    return {"batch_id": batch_id, "model_id": model_id, "n_scored": table.num_rows, "calibrations": rows}


def _last_batch(workspace: Workspace, model_id: str) -> str:
    scored = catalog.published(workspace, model_id=model_id)["batch_id"].to_pylist()
    if not scored:
        raise UsageError(f"model {model_id} has scored no batch to compare on. Score one with: nelbo score DIR")
    return str(scored[-1])


def _judged(table: pa.Table, calibrations: list[Calibration]) -> pa.Table:
    """Of rows new to the model, the labelled ones that no calibration was made from: all are judged alike."""
    table = table.filter(np.asarray(table["label"]) >= 0)
    for calibration in calibrations:
        table = calibration.unseen(table)
    return table


def _metrics(judged: pa.Table, calibration: Calibration) -> dict[str, Any]:
    found = calibration.judge(judged)
    evaluation = evaluate(judged["label"].to_numpy(), found.anomaly_score, found.verdict, calibration.threshold.fpr)
    said = as_json(evaluation)
    return {"n_judged": judged.num_rows, **{name: said[name] for name in ("recall", "realised_fpr", "auroc")}}
