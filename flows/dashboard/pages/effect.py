"""The threshold that the decisions so far would give, before anybody calibrates. Nothing is written."""

from typing import NamedTuple

import numpy as np
from fastapi import APIRouter, Response

from nelbo.flows.dashboard.calibrations import known
from nelbo.flows.dashboard.rendering import page
from nelbo.flows.dashboard.routing import Asked, drawn
from nelbo.flows.dashboard.tables import Batch, Tables
from nelbo.flows.evaluation.succession import Proposal, flags, objection
from nelbo.flows.options.options import CalibrateOptions
from nelbo.flows.steps.calibrate import proposed_by_reviews
from nelbo.flows.workspace import pointers
from nelbo.flows.workspace.calibrations.calibration import REVIEWS, scored_in, scored_rows
from nelbo.flows.workspace.errors import UsageError, bad_input
from nelbo.flows.workspace.layout import check_id

router = APIRouter()

#: The objective that weighs the share of defects found and the false-alarm rate equally.
OBJECTIVE = "youden"


class Effect(NamedTuple):
    """The threshold that decisions would give, beside the current one.

    before, after: the current threshold, None without one, and the new one.
    n_before, n_after: how many images of the batch each calls anomalous.
    why_not: why the new one would not become current; None if it would.
    """

    before: float | None
    after: float
    n_before: int
    n_after: int
    n_scored: int
    why_not: str | None


@router.get("/review/effect")
@drawn
def effect(tables: Asked, model: str, batch: str) -> Response:
    """The effect on a batch of `calibrate --labels reviews` with the decisions so far."""
    found, why = None, ""
    try:
        root = str(tables.workspace.root)
        options = CalibrateOptions(workspace=root, model=check_id(model), labels=REVIEWS, objective=OBJECTIVE)
        proposal, _ = proposed_by_reviews(tables.workspace, options, model)
        found = _on(tables, proposal, (model, batch))
    except bad_input() as error:
        why = str(error)
    return page("effect.html.j2", "", tables=tables, effect=found, why=why, model=model, objective=OBJECTIVE)


def _on(tables: Tables, proposal: Proposal, batch: Batch) -> Effect:
    current_id = pointers.current_calibration(tables.workspace, batch[0], proposal.precision)
    current = known(tables.workspace, batch[0], current_id).calibration
    if scored_in(path := tables.workspace.scores(*batch)) != proposal.precision:
        raise UsageError(
            f"batch {batch[1]} was scored by another fit of model {batch[0]} than the one whose threshold would move. "
            "Choose a later batch."
        )
    rows = scored_rows(path)
    is_before = False if current is None else flags(rows, current.statistic, current.threshold)
    return Effect(
        None if current is None else current.threshold.value,
        proposal.threshold.value,
        int(np.sum(is_before)),
        int(np.sum(flags(rows, proposal.statistic, proposal.threshold))),
        rows.num_rows,
        objection(proposal, tables.workspace),
    )
