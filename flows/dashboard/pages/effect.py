"""What decisions would change: the threshold that they want, before anybody makes it. Nothing is written."""

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
from nelbo.flows.workspace.calibrations.calibration import REVIEWS, scored_rows
from nelbo.flows.workspace.errors import bad_input
from nelbo.flows.workspace.layout import check_id

router = APIRouter()

#: Finds most defects for the fewest false alarms, if either counts as much.
OBJECTIVE = "youden"


class Effect(NamedTuple):
    """A threshold that decisions want, beside the current one.

    n_before, n_after: images of the batch that each calls anomalous.
    why_not: what keeps it from becoming current; None if nothing does.
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
    """What `calibrate --labels reviews` would make of the decisions so far, on a batch."""
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
    current = known(tables.workspace, batch[0], pointers.current_calibration(tables.workspace, batch[0])).calibration
    rows = scored_rows(tables.workspace.scores(*batch))
    is_before = False if current is None else flags(rows, current.statistic, current.threshold)
    return Effect(
        None if current is None else current.threshold.value,
        proposal.threshold.value,
        int(np.sum(is_before)),
        int(np.sum(flags(rows, proposal.statistic, proposal.threshold))),
        rows.num_rows,
        objection(proposal, tables.workspace),
    )
