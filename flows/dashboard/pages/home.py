"""The page "Home": is everything as usual? A card for each model in use, and the batches."""

import hashlib
import math
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa
from fastapi import APIRouter, Query, Response

from nelbo.detectors import Interval, Threshold
from nelbo.flows.dashboard.calibrations import Known, known
from nelbo.flows.dashboard.pictures import Thumbnail, thumbnail
from nelbo.flows.dashboard.rendering import ago, page
from nelbo.flows.dashboard.routing import Asked, Page, drawn
from nelbo.flows.dashboard.strip import Point, strip
from nelbo.flows.dashboard.tables import Selection, Tables
from nelbo.flows.evaluation.audit import audit
from nelbo.flows.workspace import catalog, pointers

router = APIRouter()

#: How a batch compares with the band of chance.
ABOVE, WITHIN, BELOW = "above the band", "within the band", "below the band"

#: A row of `_BATCHES`, by its columns.
Batch = dict[str, Any]

#: Most cards, most batches that a card draws, and rows of the table on a page.
_CARDS, _DRAWN, _ROWS = 12, 60, 20
#: Number of the newest batches that cards are made of.
_RECENT = 1000

#: Published batches with the row of the run that scored them last; a killed run may have written none.
_BATCHES = """
    SELECT model_id, batch_id, started_at_utc AS scored, n_images, n_scored, n_not_scored, n_anomalous, n_review,
           n_anomalous / nullif(n_scored, 0) AS rate, images_per_s, drift,
           drift_tests, drift_p_value, calibration_id
    FROM batches LEFT JOIN (
        SELECT DISTINCT ON (model_id, batch_id) * FROM runs WHERE command = 'score'
        ORDER BY model_id, batch_id, started_at_utc DESC
    ) USING (model_id, batch_id)
"""
_NEWEST = "scored DESC NULLS LAST, batch_id"

LAST_RUNS = """
    SELECT DISTINCT ON (command) command, started_at_utc, seconds, batch_id, model_id, code_version FROM runs
    ORDER BY command, started_at_utc DESC
"""


class Card(NamedTuple):
    """A model in use.

    batch: its newest batch, a row of `_BATCHES`; ago: how long ago that was scored, None where no run says it.
    compared: that batch with the range that chance alone gives, None where no rate is promised, and how they compare.
    points: its recent batches, the newest last.
    flagged: the row of the most anomalous image that was flagged last, and its picture.
    """

    is_latest: bool
    batch: Batch
    ago: str | None
    compared: tuple[Batch, Interval | None, str]
    judged: Known
    points: list[Point]
    flagged: Batch | None
    shown: Thumbnail | None


@router.get("/")
@drawn
def home(tables: Asked, at: Page = 1, text: str = "", model: str = "", drift: bool = False) -> Response:
    """Draw the page."""
    selection = batches(text, model, drift)
    n = tables.count(selection)
    return page(
        "home.html.j2",
        "Home",
        cards=_cards(tables),
        stamp=stamp(tables),
        n_batches=n,
        batches=tables.some(selection, _ROWS, at),
        at=at,
        n_pages=max(1, math.ceil(n / _ROWS)),
        asked={"text": text, "model": model, "drift": "true" if drift else ""},
        runs=tables.records(LAST_RUNS),
        tables=tables,
    )


@router.get("/live")
def live(tables: Asked, stamp_of_page: str = Query("", alias="stamp")) -> Response:
    """Tell htmx to draw the page again if anything was published since it was drawn."""
    if stamp(tables) == stamp_of_page:
        return Response(status_code=204)
    return Response(headers={"HX-Trigger": "published"})


@router.get("/missed")
@drawn
def missed(tables: Asked, model: str) -> Response:
    """What decisions say of the defects that a model misses; a card requests it after the page has loaded."""
    return page("missed.html.j2", "", said=_missed(tables, model, stamp(tables)))


@lru_cache(maxsize=100)
def _missed(tables: Tables, model_id: str, stamp_of_all: str) -> str | None:  # noqa: ARG001 - a key
    decisions = tables.write(
        Selection("FROM decisions", (), "reviewed_at_utc, review_id"), pa.RecordBatchReader.read_all
    )
    found = audit(tables.workspace, model_id, reviews=decisions)
    return None if found is None else found.sentence


def stamp(tables: Tables) -> str:
    """A mark that changes when a batch is published, a run ends or somebody decides."""
    found = [catalog.find(tables.workspace, kind) for kind in ("scores", "runs", "reviews")]
    listed = "\n".join(f"{row['path']} {row['size_bytes']}" for table in found for row in table.to_pylist())
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def batches(text: str, model: str, drift: bool) -> Selection:
    """The batches that pass the filters, the newest first."""
    asked: dict[str, list[Any]] = {
        "contains(lower(batch_id), lower(?))": [text] if text else [],
        "starts_with(model_id, ?)": [model] if model else [],
        "drift = ?": [True] if drift else [],
    }
    return Selection.where(f"FROM ({_BATCHES})", asked, _NEWEST)


def _cards(tables: Tables) -> list[Card]:
    recent = tables.records(f"{_BATCHES} ORDER BY {_NEWEST} LIMIT ?", [_RECENT])
    latest, of_model = pointers.promoted(tables.workspace), dict[str, list[Batch]]()
    for row in recent:
        of_model.setdefault(row["model_id"], []).append(row)
    return [_card(tables, rows, is_latest=name == latest) for name, rows in list(of_model.items())[:_CARDS]]


def _card(tables: Tables, rows: list[Batch], *, is_latest: bool) -> Card:
    """The card of a model with its batches, the newest first."""
    batch, counted = rows[0], [row for row in rows if None not in (row["n_scored"], row["n_anomalous"])][:_DRAWN]
    compared = [(row, *_chance(tables, row)) for row in counted]
    flagged = _last_flagged(tables, counted)
    return Card(
        is_latest,
        batch,
        None if batch["scored"] is None else ago(batch["scored"]),
        compared[0] if counted[:1] == [batch] else (batch, None, ""),
        known(tables.workspace, batch["model_id"], batch["calibration_id"]),
        strip(compared[::-1]),
        flagged,
        None if flagged is None else thumbnail(flagged),
    )


def _chance(tables: Tables, row: Batch) -> tuple[Interval | None, str]:
    """The range that chance alone gives, None where no rate is promised; and how the batch compares, in words."""
    calibration = known(tables.workspace, row["model_id"], row["calibration_id"]).calibration
    m, n_anomalous = row["n_scored"], row["n_anomalous"]
    alarms = _alarms(calibration.threshold, m) if calibration and m else None
    if alarms is None:
        return None, ""
    if n_anomalous > alarms.high:
        return alarms, ABOVE
    return alarms, BELOW if n_anomalous < alarms.low else WITHIN


@lru_cache(maxsize=10_000)
def _alarms(threshold: Threshold, m: int) -> Interval | None:
    return threshold.false_alarms(m)


def _last_flagged(tables: Tables, rows: list[Batch]) -> Batch | None:
    """The most anomalous image of the newest batch with a flagged image."""
    some = [(row["model_id"], row["batch_id"]) for row in rows if row["n_anomalous"] + (row["n_review"] or 0) > 0]
    sql = "SELECT * FROM flagged ORDER BY anomaly_score DESC, relative_path LIMIT 1"
    return next(iter(tables.records(sql, [], some[:1])), None) if some else None
