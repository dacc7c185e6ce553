"""The page "Review": one queue of images to decide on, by keyboard; each decision is one row of ``reviews``."""

from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from nelbo.flows.dashboard.calibrations import known
from nelbo.flows.dashboard.choice import choose, newest
from nelbo.flows.dashboard.door import REVIEWS
from nelbo.flows.dashboard.pages.image import DECISIONS, asked
from nelbo.flows.dashboard.pictures import looked, looked_at, window_of
from nelbo.flows.dashboard.rendering import image_at, page
from nelbo.flows.dashboard.routing import Asked, drawn
from nelbo.flows.dashboard.tables import Batch, Selection, Tables
from nelbo.flows.report.variants import named
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.reviews import MAX_KIND, MAX_NOTE, MAX_REVIEWER, Review, record_review

router = APIRouter()

#: Most images of a queue, most batches in the queue over all, and most decisions that are listed.
_QUEUED, _BATCHES, _LISTED = 2_000, 50, 50
#: Kinds of defects that have a number key.
_KINDS = 9

#: The last decision of each person on images on which they disagree; the images decided on last come first.
DISAGREEMENTS = Selection(
    """
    FROM (
        SELECT *, max(reviewed_at_utc) OVER (PARTITION BY image_id) AS newest FROM (
            SELECT * FROM reviews
            QUALIFY row_number() OVER (
                PARTITION BY image_id, reviewer ORDER BY reviewed_at_utc DESC, review_id DESC
            ) = 1
        )
        QUALIFY min(decision) OVER (PARTITION BY image_id) <> max(decision) OVER (PARTITION BY image_id)
    )
    """,
    (),
    "newest DESC, image_id, reviewed_at_utc",
    "* EXCLUDE newest",
)


class Item(NamedTuple):
    """An image of a queue.

    why: "worst", near the "threshold", of the audit "sample", or "chosen"; place: the address of its pictures.
    """

    image: str
    path: str
    model: str
    batch: str
    why: str
    place: str


@router.get("/review")
@drawn
def review(
    tables: Asked,
    model: str = "",
    batch: str = "",
    chosen: str = "",
    image: str = "",
    of: Literal["one", "all"] = "one",
    by: Annotated[str, Query(max_length=MAX_REVIEWER)] = "",
) -> Response:
    """Draw the page.

    Args:
        image: the image to decide on first, even if it has been decided on.
        of: whether the queue holds the images of one batch, or of the newest batches.
        by: the reviewer, for a queue that includes images which only others have decided on; empty for a queue of
            images that nobody has decided on.
    """
    choice = choose(tables, model, batch, chosen)
    if choice.batch is None:
        return page("nothing.html.j2", "Review", tables=tables)
    batches = [choice.batch] if of == "one" else newest(tables, _BATCHES)
    items, n_decided = _queue(tables, batches, by)
    n_left = len(items)
    first = asked(tables, *choice.batch, image, "") if image else None
    if first is not None:
        items = [_item(first, "chosen"), *(item for item in items if item.image != image)]
    return page(
        "review.html.j2",
        "Review",
        choice=choice,
        of=of,
        by=by,
        items=[item._asdict() for item in items[:_QUEUED]],
        n_left=n_left,
        n_decided=n_decided,
        kinds=_kinds(tables),
        limits={"name": MAX_REVIEWER, "kind": MAX_KIND, "note": MAX_NOTE},
        decided=_decided(tables, batches),
        disagreements=tables.some(DISAGREEMENTS, _LISTED, 1),
        tables=tables,
    )


def _queue(tables: Tables, batches: list[Batch], by: str) -> tuple[list[Item], int]:
    """The images to decide on, and how many have been decided on.

    The worst come first, then those near the threshold, then the audit sample.
    """
    sql = """
        SELECT * EXCLUDE (p_value, anomaly_score),
               image_id IN (SELECT image_id FROM reviews WHERE ? IN ('', reviewer)) AS is_decided
        FROM (
            SELECT image_id, relative_path, model_id, batch_id, p_value, anomaly_score, scored_at_utc,
                   if(verdict = 'review', 'threshold', 'worst') AS why
            FROM scores WHERE verdict IN ('anomalous', 'review')
            UNION ALL BY NAME
            SELECT image_id, relative_path, model_id, batch_id, p_value, anomaly_score, scored_at_utc,
                   'threshold' AS why
            FROM near
            UNION ALL BY NAME
            SELECT image_id, relative_path, model_id, batch_id, scored_at_utc, 'sample' AS why FROM audit
        )
        -- A nearly flagged image that is in the audit sample is shown as one of the sample: else its draw were wasted.
        QUALIFY row_number() OVER (
            PARTITION BY image_id ORDER BY scored_at_utc DESC, why = 'threshold', relative_path
        ) = 1
        -- The order within the sample is as random as its draw.
        ORDER BY list_position(['worst', 'threshold', 'sample'], why), p_value NULLS LAST, anomaly_score DESC,
                 hash(image_id)
    """
    rows = tables.records(sql, [by], batches)
    left = [_item(row, row["why"]) for row in rows if not row["is_decided"]]
    return left, sum(row["is_decided"] for row in rows)


def _item(row: dict[str, Any], why: str) -> Item:
    image, path, model, batch = (row[name] for name in ("image_id", "relative_path", "model_id", "batch_id"))
    return Item(image, path, model, batch, why, f"{image_at('/review/image', row)}&why={why}")


def _kinds(tables: Tables) -> list[str]:
    """Kinds of defects that people named, the most frequent first."""
    sql = "SELECT kind FROM reviews WHERE kind IS NOT NULL GROUP BY kind ORDER BY count(*) DESC, kind LIMIT ?"
    return [row["kind"] for row in tables.records(sql, [_KINDS])]


def _decided(tables: Tables, batches: list[Batch]) -> list[dict[str, Any]]:
    """The last decisions on images of these batches."""
    asked_for = list(batches)
    places = " OR ".join(["(model_id = ? AND batch_id = ?)"] * len(asked_for))
    sql = f"SELECT * FROM reviews WHERE {places} ORDER BY reviewed_at_utc DESC, review_id LIMIT ?"  # noqa: S608
    return tables.records(sql, [*(name for one in asked_for for name in one), _LISTED])


@router.get("/review/image")
@drawn
def image(tables: Asked, model: str, batch: str, image: str, path: str, why: str = "") -> Response:
    """Draw an image to decide on: its pictures, why it was flagged, and earlier decisions."""
    row = asked(tables, model, batch, image, path)
    if row is None:
        return page("gone.html.j2", "", path=path)
    kept = looked_at(tables, row)
    return page(
        "item.html.j2",
        "",
        row=row,
        why=why,
        judged=known(tables.workspace, model, row["calibration_id"]),
        shown=None if kept is None else looked(tables, kept),
        window=window_of(tables, (model, batch)),
        variant=named(row),
        before=tables.records(DECISIONS, [image]),
    )


class Decided(BaseModel):
    """A decision on an image, as the page sends it."""

    review_id: str = Field(pattern=r"^v[0-9a-f]{32}$")
    model: str
    batch: str
    image: str
    path: str
    decision: Literal["anomalous", "normal", "withdrawn"]
    reviewer: str
    kind: str | None = None
    note: str = ""
    withdraws: str | None = Field(None, pattern=r"^v[0-9a-f]{32}$")


@router.post(REVIEWS)
def decide(tables: Asked, decided: Decided) -> Response:
    """Keep a decision; one that is sent again is kept only once."""
    row = asked(tables, decided.model, decided.batch, decided.image, decided.path)
    if row is None or row["anomaly_score"] is None:
        return JSONResponse({"said": "This image has no score any more: its batch was pruned, or scored again."}, 409)
    try:
        is_new = record_review(
            tables.workspace,
            Review(
                **{name: row[name] for name in ("image_id", "relative_path", "model_id", "batch_id")},
                **{name: row[name] for name in ("calibration_id", "verdict", "anomaly_score")},
                decision=decided.decision,
                reviewer=decided.reviewer.strip(),
                note=decided.note.strip(),
                kind=(decided.kind or "").strip() or None,
                review_id=decided.review_id,
                withdraws=decided.withdraws,
            ),
        )
    except UsageError as error:
        return JSONResponse({"said": f"Not kept: {error}"}, 422)
    return JSONResponse({"kept": True, "new": is_new})
