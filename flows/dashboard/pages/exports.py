"""Tables as files: all rows that a page lists, as CSV or Parquet."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import APIRouter, Query, Response
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from nelbo.flows.dashboard.choice import choose
from nelbo.flows.dashboard.frames import without_formulas
from nelbo.flows.dashboard.pages.batch import Files
from nelbo.flows.dashboard.pages.compare import choices_of, sides
from nelbo.flows.dashboard.pages.home import LAST_RUNS, batches
from nelbo.flows.dashboard.pages.image import found, history
from nelbo.flows.dashboard.pages.review import DISAGREEMENTS
from nelbo.flows.dashboard.routing import Asked
from nelbo.flows.dashboard.tables import Selection, Tables
from nelbo.flows.evaluation.agreement import agreement, differing

router = APIRouter()

Kind = Literal["csv", "parquet"]

#: Types that keep whole numbers whole in columns with empty cells.
_WHOLE = {pa.int8(): pd.Int8Dtype(), pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype()}


@router.get("/batches.{kind}")
def all_batches(tables: Asked, kind: Kind, text: str = "", model: str = "", drift: bool = False) -> Response:
    """The batches that the page Home lists."""
    return _selected(tables, batches(text, model, drift), "batches", kind)


@router.get("/runs.{kind}")
def last_runs(tables: Asked, kind: Kind) -> Response:
    """The last run of each command."""
    return _selected(tables, Selection(f"FROM ({LAST_RUNS})", (), "command"), "runs", kind)


@router.get("/files.{kind}")
def files(tables: Asked, kind: Kind, asked: Annotated[Files, Query()]) -> Response:
    """The files of a batch that its page lists."""
    return _selected(tables, asked.selection((asked.model, asked.batch)), f"files-{asked.batch}", kind)


@router.get("/found.{kind}")
def images(tables: Asked, kind: Kind, text: str) -> Response:
    """The images that a search finds."""
    return _selected(tables, found(text.strip()), "found", kind)


@router.get("/reviews.{kind}")
def reviews(tables: Asked, kind: Kind) -> Response:
    """Every decision, including withdrawn ones."""
    return _selected(tables, Selection("FROM decisions", (), "reviewed_at_utc DESC, review_id"), "reviews", kind)


@router.get("/disagreements.{kind}")
def all_disagreements(tables: Asked, kind: Kind) -> Response:
    """The decisions of different people on images on which they disagree."""
    return _selected(tables, DISAGREEMENTS, "disagreements", kind)


@router.get("/history.{kind}")
def all_times(tables: Asked, kind: Kind, path: str, image: str = "") -> Response:
    """A row for each time that a file was scored."""
    return _selected(tables, history(path, image), "history", kind)


@router.get("/differing.{kind}")
def different_verdicts(tables: Asked, kind: Kind, model: str, batch: str, a: str, b: str) -> Response:
    """The images of a batch on which two calibrations differ."""
    choice = choose(tables, model, batch)
    found = choice.batch if not choice.is_missing else None
    first, second = sides(choices_of(tables, found), a, b) if found else (None, None)
    if first is None or second is None:
        return Response(status_code=404)
    rows = differing(agreement(tables.workspace, batch, first, second))
    return _download(lambda write: write(rows.to_reader()), f"differing-{batch}", kind)


def _selected(tables: Tables, selection: Selection, name: str, kind: Kind) -> Response:
    return _download(partial(tables.write, selection), name, kind)


def _download(give: Callable[[Callable[[pa.RecordBatchReader], None]], None], name: str, kind: Kind) -> Response:
    """Rows as a file, which is written completely before it is sent."""
    with tempfile.NamedTemporaryFile(prefix="nelbo-export-", delete=False) as file:
        path = Path(file.name)
    try:
        give(partial(_write_csv if kind == "csv" else _write_parquet, path))
    except BaseException:
        path.unlink()
        raise
    return FileResponse(path, filename=f"{name}.{kind}", background=BackgroundTask(path.unlink))


def _write_csv(path: Path, rows: pa.RecordBatchReader) -> None:
    """Write CSV with a byte order mark, so that spreadsheets read UTF-8, and without formulas."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        without_formulas(rows.schema.empty_table().to_pandas()).to_csv(file, index=False)
        for some in rows:
            without_formulas(some.to_pandas(types_mapper=_WHOLE.get)).to_csv(file, index=False, header=False)


def _write_parquet(path: Path, rows: pa.RecordBatchReader) -> None:
    with pq.ParquetWriter(path, rows.schema) as writer:
        for some in rows:
            writer.write_batch(some)
