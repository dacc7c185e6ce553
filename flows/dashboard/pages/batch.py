"""The page "Batch": what is in a batch, and what another threshold would flag."""

import math
from collections import Counter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field, field_validator

from nelbo.data import InputError, read_table
from nelbo.flows.dashboard.calibrations import Known, known
from nelbo.flows.dashboard.choice import choose
from nelbo.flows.dashboard.pages.whatif import what_if
from nelbo.flows.dashboard.pictures import Row, Thumbnail, thumbnail, window_of
from nelbo.flows.dashboard.rendering import page
from nelbo.flows.dashboard.routing import MOST_PAGES, Asked, drawn
from nelbo.flows.dashboard.tables import Batch, Selection, Tables
from nelbo.flows.evaluation.differences import warning
from nelbo.flows.evaluation.drift import read_drift
from nelbo.flows.numbers import images
from nelbo.flows.report.headline import chance, headline
from nelbo.flows.report.pictures import LOOKED_AT

router = APIRouter()

#: Rows of the table of files on a page, and number of pictures.
_ROWS, _PICTURES = 25, 24
#: Most pictures on one page.
_MOST_PICTURES = 200

#: Stands for the verdict of rows that were scored without a calibration.
_NO_VERDICT = "without verdict"
FLAGGED = ("anomalous", "review")
#: Verdicts in the order of the page, with their words.
VERDICTS = {
    "anomalous": "anomalous",
    "review": "for review",
    "normal": "normal",
    "not_scored": "not scored",
    _NO_VERDICT: _NO_VERDICT,
}
_ORDERS = {
    "score": ("score, highest first", "anomaly_score DESC NULLS LAST"),
    "lowest": ("score, lowest first", "anomaly_score NULLS LAST"),
    "p": ("p, lowest first", "p_value NULLS LAST, anomaly_score DESC"),
    "q": ("q, lowest first", "q_value NULLS LAST, anomaly_score DESC"),
    "nelbo": ("nelbo, highest first", "nelbo_nats DESC NULLS LAST"),
    "rate": ("rate, highest first", "rate_nats DESC NULLS LAST"),
    "reason": ("reason, then path", "scores.reason NULLS LAST"),
    "path": ("path", "relative_path"),
}
_COLUMNS = """
    relative_path, verdict, reason, why, anomaly_score, p_value, q_value, nelbo_nats, distortion_nats, rate_nats,
    variant, label, width_px, height_px, scored_at_utc, model_id, batch_id, image_id
"""


class Files(BaseModel):
    """The filters and order that a visitor has chosen for a batch's files; the address holds them."""

    model: str = ""
    batch: str = ""
    chosen: str = ""
    verdict: list[str] = Field(default_factory=list)
    reason: str = ""
    variant: str = ""
    p: float | None = Field(None, ge=0, le=1)
    text: str = ""
    order: Literal["score", "lowest", "p", "q", "nelbo", "rate", "reason", "path"] = "score"
    page: int = Field(1, ge=1, le=MOST_PAGES)
    shown: int = Field(_PICTURES, ge=1, le=_MOST_PICTURES)

    @field_validator("p", mode="before")
    @classmethod
    def _none(cls, given: object) -> object:
        """None for an empty field, which browsers send, too."""
        return None if given == "" else given

    def selection(self, batch: Batch) -> Selection:
        """The rows of a batch that pass the filters."""
        asked: dict[str, list[Any]] = {
            "list_contains(?, coalesce(verdict, ?))": [self.verdict, _NO_VERDICT] if self.verdict else [],
            "reason = ?": [self.reason] if self.reason else [],
            "variant = ?": [self.variant] if self.variant else [],
            "p_value <= ?": [self.p] if self.p is not None else [],
            "contains(lower(relative_path), lower(?))": [self.text] if self.text else [],
        }
        order = f"{_ORDERS[self.order][1]}, relative_path"
        return Selection.where("FROM scores", asked, order, _COLUMNS, [batch])

    def query(self) -> dict[str, Any]:
        """The filters for an address, without the fields that do not carry over to other pages."""
        return self.model_dump(exclude={"chosen", "page", "shown"}) | {
            "order": "" if self.order == "score" else self.order
        }


@router.get("/batch")
@drawn
def batch(tables: Asked, files: Annotated[Files, Query()]) -> Response:
    """Draw the page."""
    choice = choose(tables, files.model, files.batch, files.chosen)
    if choice.batch is None:
        return page("nothing.html.j2", "Batch", tables=tables)
    model_id, batch_id = choice.batch
    files = files.model_copy(update={"model": model_id, "batch": batch_id})
    rows = _counts(tables, choice.batch)
    judged = known(tables.workspace, model_id, _calibration_of(tables, choice.batch))
    selection = files.selection(choice.batch)
    n = tables.count(selection)
    return page(
        "batch.html.j2",
        f"Batch {batch_id}",
        choice=choice,
        judged=judged,
        counts=_by(rows, "verdict"),
        verdicts=VERDICTS,
        variants=_variants(rows),
        reasons=_by(rows, "reason"),
        said=_said(rows, judged, _has_defects(tables, choice.batch)),
        drift=_drift(tables, choice.batch),
        what_if=what_if(tables, choice.batch, judged.calibration),
        window=window_of(tables, choice.batch),
        pictures=_pictures(tables, choice.batch, files.shown),
        most_shown=_MOST_PICTURES,
        files=files,
        orders={name: said for name, (said, _) in _ORDERS.items()},
        rows=tables.some(selection, _ROWS, files.page),
        n_rows=n,
        n_pages=max(1, math.ceil(n / _ROWS)),
        tables=tables,
    )


def _calibration_of(tables: Tables, batch: Batch) -> str | None:
    found = tables.records("SELECT calibration_id FROM scores LIMIT 1", [], [batch])
    return found[0]["calibration_id"] if found else None


def _counts(tables: Tables, batch: Batch) -> list[dict[str, Any]]:
    """The number ``n`` of files by ``verdict``, ``reason`` and ``variant``."""
    sql = "SELECT coalesce(verdict, ?) AS verdict, reason, variant, count(*) AS n FROM scores GROUP BY ALL ORDER BY ALL"
    return tables.records(sql, [_NO_VERDICT], [batch])


def _by(rows: list[dict[str, Any]], column: str) -> dict[str, int]:
    """The number of files for each value of a column."""
    found: Counter[str] = Counter()
    for row in rows:
        if row[column] is not None:
            found[row[column]] += row["n"]
    return dict(found)


def _variants(rows: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """Each variant with the number of its files, and of flagged ones."""
    n, flagged = _by(rows, "variant"), _by([row for row in rows if row["verdict"] in FLAGGED], "variant")
    return [(name, n[name], flagged.get(name, 0)) for name in sorted(n)]


def _has_defects(tables: Tables, batch: Batch) -> bool:
    """Whether people know of a defect among the scored images, by labels or reviews."""
    sql = """
        SELECT 1 FROM scores WHERE anomaly_score IS NOT NULL AND (label = 1 OR image_id IN (
            SELECT image_id FROM reviews GROUP BY image_id
            HAVING arg_max(decision, (reviewed_at_utc, review_id)) = 'anomalous'
        )) LIMIT 1
    """
    return bool(tables.records(sql, [], [batch]))


def _said(rows: list[dict[str, Any]], judged: Known, defects: bool) -> list[str]:
    """Sentences on how much was flagged, and whether that is more than chance."""
    found = _by(rows, "verdict")
    n = sum(found.values())
    counts = {name: found.get(name, 0) for name in ("anomalous", "review")}
    counts |= {"images": n, "scored": n - found.get("not_scored", 0)}
    if judged.calibration is None and counts["scored"] and not found.get(_NO_VERDICT):
        return [f"{counts['anomalous']:,} of {images(counts['scored'])} anomalous, by a calibration that is gone."]
    threshold = judged.calibration.threshold if judged.calibration else None
    blind = judged.cannot_see is not None
    sentences = [headline(counts, threshold), chance(counts, threshold, blind=blind, defects=defects)]
    return [sentence for sentence in sentences if sentence]


def _drift(tables: Tables, batch: Batch) -> list[str]:
    """Sentences on how the batch as a whole is unlike its calibration; empty without drift."""
    try:
        drift = read_drift(read_table(tables.workspace.scores(*batch), ["label"]))
    except InputError:
        # The batch was pruned just now; the rest of the page says so.
        return []
    if not drift or not drift["alarm"]:
        return []
    said = warning(drift.get("differs", []))
    return [*([said] if said else []), *drift["findings"]]


def _pictures(tables: Tables, batch: Batch, n: int) -> list[tuple[Row, Thumbnail]]:
    """The most anomalous of the flagged images with their pictures."""
    # Pandas gives nested lists as arrays, and turns no null of these columns into a number.
    columns = ", ".join(("relative_path", "image_id", "model_id", "batch_id", "verdict", *LOOKED_AT))
    sql = f"SELECT {columns}, anomaly_score, p_value FROM flagged ORDER BY anomaly_score DESC, relative_path LIMIT ?"  # noqa: S608
    return [(row, thumbnail(row)) for row in tables.query(sql, [n], [batch]).to_dict("records")]
