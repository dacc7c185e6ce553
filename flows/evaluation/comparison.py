"""Calibrations of a model side by side: what they promise, and the verdicts of each on one scored batch."""

from typing import Any

import numpy as np
import pyarrow as pa

from nelbo.detectors import Interval, auroc, binomial_interval
from nelbo.flows.evaluation.metrics import as_json
from nelbo.flows.workspace import catalog, pointers
from nelbo.flows.workspace.calibrations.calibration import (
    Calibration,
    calibrations_of,
    describe,
    scored_in,
    scored_rows,
    standing,
)
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.models import unseen_in_training


def list_calibrations(workspace: Workspace, model_id: str) -> list[dict[str, Any]]:
    """Each calibration of a model, the oldest first; ``current`` marks the one that `score` uses.

    A ``candidate`` did not become current when it was made; ``why_not`` says why.
    """
    current = {one: pointers.current_calibration(workspace, model_id, one) for one in pointers.PRECISIONS}
    return [
        {
            "calibration_id": calibration.calibration_id,
            "model_id": model_id,
            "precision": calibration.precision,
            **standing(calibration, current[calibration.precision]),
            "made_at_utc": calibration.made_at_utc,
            **describe(calibration),
        }
        for calibration in calibrations_of(workspace, model_id)
    ]


def compare_calibrations(workspace: Workspace, model_id: str, batch_id: str | None) -> dict[str, Any]:
    """Verdicts of every calibration of a model on one batch, derived from its stored scores; nothing is written.

    Args:
        batch_id: None takes the batch that was scored last.

    Returns:
        ``batch_id``, and ``calibrations``, those of the fit that scored the batch. Each has its description and
        promise, the number of images that it flags, and of those on which it differs from the current one; with labels
        also recall and realised false-alarm rate with 95 % intervals, over the ``n_judged`` images that none of the
        calibrations was made from.
    """
    known = calibrations_of(workspace, model_id)
    if not known:
        raise UsageError(f"model {model_id} has no calibration. Make one with: nelbo calibrate --normal DIR")
    batch_id = catalog.find_scored(workspace, "batch", batch_id) if batch_id else _last_batch(workspace, model_id)
    path = workspace.scores(model_id, batch_id)
    if not path.exists():
        raise UsageError(f"batch {batch_id!r} is not scored with model {model_id}. List batches with: nelbo batches")
    table = scored_rows(path)
    precision = scored_in(path)
    calibrations = [calibration for calibration in known if calibration.precision == precision]
    current = pointers.current_calibration(workspace, model_id, precision)
    verdicts = {calibration.calibration_id: _judge(calibration, table)[1] for calibration in calibrations}
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
    """The labelled rows that no calibration was made from, so that all are judged on the same images.

    Args:
        table: rows that the model was not trained on.
    """
    table = table.filter(np.asarray(table["label"]) >= 0)
    for calibration in calibrations:
        table = calibration.unseen(table)
    return table


def _judge(calibration: Calibration, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Scores and verdicts, without p- and q-values, which would need sorting a million rows."""
    scores = calibration.statistic.scores(table)
    return scores, calibration.verdicts(scores)


def _metrics(judged: pa.Table, calibration: Calibration) -> dict[str, Any]:
    """The metrics of `evaluate` that need no bootstrap."""
    scores, verdicts = _judge(calibration, judged)
    labels, flagged = judged["label"].to_numpy(), verdicts == "anomalous"
    found = {
        "recall": _rate(flagged[labels == 1]),
        "realised_fpr": _rate(flagged[labels == 0]),
        "auroc": auroc(labels, scores) if 0 < labels.sum() < len(labels) else None,
    }
    return {"n_judged": judged.num_rows, **{name: as_json(value) for name, value in found.items()}}


def _rate(flagged: np.ndarray) -> Interval | None:
    return binomial_interval(int(flagged.sum()), len(flagged)) if len(flagged) else None
