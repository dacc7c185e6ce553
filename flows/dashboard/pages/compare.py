"""The page "Compare": two models, or two calibrations, on the same batch."""

import math
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, Response

from nelbo.detectors import PairedTest
from nelbo.flows.dashboard.calibrations import known
from nelbo.flows.dashboard.choice import choose
from nelbo.flows.dashboard.rendering import page
from nelbo.flows.dashboard.routing import Asked, Page, drawn
from nelbo.flows.dashboard.tables import Batch, Tables
from nelbo.flows.evaluation.agreement import (
    against_truth,
    agreement,
    differing,
    flagged_shares,
    verdict_counts,
    with_truth,
)
from nelbo.flows.numbers import images, percent
from nelbo.flows.workspace.calibrations.calibration import Calibration, calibrations_of, scored_in
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import labels_of, latest_reviews

router = APIRouter()

_ROWS = 25


class Side(NamedTuple):
    """A calibration to compare; promises: see `calibrations.Known`."""

    calibration_id: str
    name: str
    promises: tuple[str, ...]


@router.get("/compare")
@drawn
def compare(
    tables: Asked, model: str = "", batch: str = "", chosen: str = "", a: str = "", b: str = "", at: Page = 1
) -> Response:
    """Draw the page."""
    choice = choose(tables, model, batch, chosen)
    if choice.batch is None:
        return page("nothing.html.j2", "Compare", tables=tables)
    choices = choices_of(tables, choice.batch)
    first, second = sides(choices, a, b)
    rows = agreement(tables.workspace, choice.batch[1], first, second) if first and second and first != second else None
    found = None if rows is None else differing(rows)
    return page(
        "compare.html.j2",
        "Compare",
        choice=choice,
        choices=[_side(tables, one) for one in choices],
        first=first and _side(tables, first),
        second=second and _side(tables, second),
        counts=None if rows is None else verdict_counts(rows),
        n_images=0 if rows is None else rows.num_rows,
        measures=None
        if rows is None or first is None or second is None
        else _measures(tables.workspace, rows, first, second),
        differing=[] if found is None else found.slice((at - 1) * _ROWS, _ROWS).to_pylist(),
        n_differing=0 if found is None else found.num_rows,
        at=at,
        n_pages=max(1, math.ceil((0 if found is None else found.num_rows) / _ROWS)),
        tables=tables,
    )


def choices_of(tables: Tables, batch: Batch) -> list[Calibration]:
    """The calibrations of the models that scored a batch, those of the chosen model first."""
    model_id, batch_id = batch
    found = tables.records("SELECT DISTINCT model_id FROM batches WHERE batch_id = ? ORDER BY model_id", [batch_id])
    models = sorted((row["model_id"] for row in found), key=lambda other: other != model_id)
    known = [choice for one in models for choice in calibrations_of(tables.workspace, one)]
    precisions = {one: scored_in(tables.workspace.scores(one, batch_id)) for one in models}
    return [choice for choice in known if choice.precision == precisions[choice.model_id]]


def sides(choices: list[Calibration], a: str, b: str) -> tuple[Calibration | None, Calibration | None]:
    """The two requested calibrations, or else the first two; None if there are fewer than two."""
    if len(choices) < 2:
        return None, None
    by_id = {choice.calibration_id: choice for choice in choices}
    return by_id.get(a, choices[0]), by_id.get(b, choices[1])


def _side(tables: Tables, choice: Calibration) -> Side:
    name = f"{choice.calibration_id} · {choice.statistic.name} · model {choice.model_id}"
    return Side(choice.calibration_id, name, known(tables.workspace, choice.model_id, choice.calibration_id).promises)


class Measures(NamedTuple):
    """What each calibration flags and, where the truth is known, which one is right more often.

    rows: name, A, B, difference with its interval, p; said: where the truth comes from.
    """

    rows: list[tuple[str, ...]]
    said: str


def _measures(workspace: Workspace, rows: pa.Table, a: Calibration, b: Calibration) -> Measures | None:
    if not rows.num_rows:
        return None
    labels = "labels"
    if not pc.any(pc.greater_equal(rows["label"], 0)).as_py():
        # The last decision on each image is its label.
        rows, labels = with_truth(rows, labels_of(latest_reviews(workspace))), "reviews"
    tests = {"flagged (anomalous or for review)": flagged_shares(rows)}
    said = (
        f"No image of this batch has a label or a review, so nobody knows who is right on the {images(rows.num_rows)}."
    )
    try:
        truth = against_truth(rows, workspace, a, b)
    except UsageError as error:
        truth, said = None, f"Not compared with the {labels}: {error}"
    if truth is not None:
        tests |= {
            "false alarms, of normal images": truth.false_alarms,
            "misses, of anomalous images": truth.misses,
            "AUROC": truth.auroc,
        }
        said = f"By the {labels}: {truth.n_normal:,} normal and {truth.n_anomalous:,} anomalous images."
        if truth.n_left_out:
            said += f" {truth.n_left_out:,} others are left out, as a model or calibration was made from them."
        if labels == "reviews":
            said += " People review what was flagged, so these rates are not those of all images."
    return Measures([(name, *_words(test, name == "AUROC")) for name, test in tests.items() if test is not None], said)


def _words(test: PairedTest, is_area: bool) -> list[str]:
    unit, times, decimals = ("", 1, 3) if is_area else (" points", 100, 1)
    shares = [f"{one.value:.3f}" if is_area else percent(one.value) for one in (test.a, test.b)]
    difference, low, high = (f"{times * value:.{decimals}f}" for value in test.difference)
    p = "< 0.001" if test.p_value < 0.001 else f"{test.p_value:.3f}"
    return [*shares, f"{difference}{unit} [{low}, {high}]", p]
