"""The page "Image": one scored image, where it is unusual, and images to compare it with; and the page "Search"."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, Response

from nelbo.data.part.frame import STATUSES
from nelbo.flows.dashboard.calibrations import known
from nelbo.flows.dashboard.originals import Shown, original_of
from nelbo.flows.dashboard.pictures import Original, as_url, looked, looked_at, regions_outline, window_of
from nelbo.flows.dashboard.rendering import page
from nelbo.flows.dashboard.routing import Asked, Page, drawn
from nelbo.flows.dashboard.tables import Selection, Tables
from nelbo.flows.inference.area.known import area_of_model
from nelbo.flows.report.variants import named
from nelbo.flows.workspace.calibrations.calibration import Calibration, normal_rows
from nelbo.flows.workspace.layout import Workspace

router = APIRouter()

_N_NEAREST = 5
_NEAREST_PX = 150
_N_HISTORY = 200
_ROWS = 25

#: People's decisions on an image that were not withdrawn.
DECISIONS = "SELECT * FROM reviews WHERE image_id = ? ORDER BY reviewed_at_utc, review_id"


@router.get("/image")
@drawn
def image(tables: Asked, model: str = "", batch: str = "", image: str = "", path: str = "") -> Response:
    """Draw the page."""
    row = asked(tables, model, batch, image, path)
    if row is None:
        text = "No such image is in the workspace: its batch may have been scored again, or pruned."
        return page("message.html.j2", "Image", 404, said=text, tables=tables)
    kept = looked_at(tables, row)
    return page(
        "image.html.j2",
        row["relative_path"],
        row=row,
        judged=known(tables.workspace, model, row["calibration_id"]),
        shown=None if kept is None else looked(tables, kept),
        window=window_of(tables, (model, batch)),
        part=None if row["part"] is None else STATUSES[row["part"]],
        variant=named(row),
        history=tables.some(history(path, image), _N_HISTORY, 1),
        reviews=tables.records(DECISIONS, [image]),
        tables=tables,
    )


def asked(tables: Tables, model: str, batch: str, image: str, path: str) -> dict[str, Any] | None:
    """The row that an address names; if several files have the same contents, the one with this path."""
    if not image:
        return None
    sql = "SELECT * FROM scores WHERE image_id = ? ORDER BY relative_path = ? DESC, relative_path LIMIT 1"
    return next(iter(tables.records(sql, [image, path], [(model, batch)])), None)


@router.get("/image/original")
@drawn
def original(tables: Asked, model: str, batch: str, image: str, path: str) -> Response:
    """The image from where it was scored, or why it is not shown; the page requests it after it has loaded."""
    row = asked(tables, model, batch, image, path)
    shown: Shown = "No such image is in the workspace."
    if row is not None:
        area = area_of_model(tables.workspace, model)
        shown = original_of(tables.workspace.scores(model, batch), row, area=area)
    outline = "" if row is None or isinstance(shown, str) else regions_outline(tables, row)
    return page("original.html.j2", "", shown=as_url(shown, outline), path=path)


@router.get("/image/normals")
@drawn
def normals(tables: Asked, model: str, batch: str, image: str, path: str) -> Response:
    """Draw normal images of the calibration with about this score."""
    row = asked(tables, model, batch, image, path)
    calibration = None if row is None else known(tables.workspace, model, row["calibration_id"]).calibration
    if row is None or calibration is None or row["anomaly_score"] is None:
        return page("normals.html.j2", "", normals=None)
    variant = row["variant"] if row["variant"] in calibration.normal_scores_of else None
    against = calibration.against(variant)
    return page(
        "normals.html.j2",
        "",
        normals=_nearest(tables.workspace, row["anomaly_score"], calibration, variant),
        n_above=int((against >= row["anomaly_score"]).sum()),
        n=len(against),
    )


def _nearest(
    workspace: Workspace, score: float, calibration: Calibration, variant: str | None
) -> list[tuple[dict[str, Any], Original]]:
    rows = normal_rows(workspace, calibration)
    if variant is not None:
        rows = rows.filter(pc.equal(rows["variant"], variant))
    distance = np.abs(rows["anomaly_score"].to_numpy() - score)
    nearest = rows.take(pa.array(np.argsort(distance, kind="stable")[:_N_NEAREST]))
    manifest = workspace.manifest(calibration.batch_id)
    area = area_of_model(workspace, calibration.model_id)
    return [(one, as_url(original_of(manifest, one, _NEAREST_PX, area))) for one in nearest.to_pylist()]


def history(path: str, image: str) -> Selection:
    """A row for each time that a file of this path was scored, and whether it had these contents then."""
    return Selection(
        """
        FROM (
            SELECT scored_at_utc, batch_id, model_id, verdict, anomaly_score, threshold, statistic, image_id,
                   relative_path, coalesce(image_id = ?, false) AS same_contents
            FROM scores WHERE relative_path = ?
        )
        """,
        (image, path),
        "scored_at_utc DESC, model_id, batch_id",
    )


@router.get("/search")
@drawn
def search(tables: Asked, text: str = "", at: Page = 1) -> Response:
    """Find images by a part of their path, or by their content hash."""
    selection = found(text.strip())
    n = tables.count(selection) if text.strip() else 0
    return page(
        "search.html.j2",
        "Search",
        text=text.strip(),
        rows=tables.some(selection, _ROWS, at) if n else [],
        n_rows=n,
        at=at,
        n_pages=max(1, math.ceil(n / _ROWS)),
        tables=tables,
    )


def found(text: str) -> Selection:
    """Scored images with this text in their path, or as their content hash, the last scored first."""
    return Selection(
        "FROM scores WHERE image_id IS NOT NULL AND (contains(lower(relative_path), lower(?)) OR image_id = lower(?))",
        (text, text),
        "scored_at_utc DESC, anomaly_score DESC NULLS LAST, relative_path",
        "relative_path, batch_id, verdict, anomaly_score, p_value, scored_at_utc, model_id, image_id",
    )
