"""Exported tables hold every row that a page lists, unchanged, and no formula."""

import csv
import io
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import Pages, text
from reviewing import review
from scored import ATTACKS, MODEL, OTHER, add_batch

from nelbo.data import read_table
from nelbo.flows.dashboard.frames import without_formulas
from nelbo.flows.dashboard.pages import exports
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import record_review

FORMULAS = ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"]


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where files are written before they are sent, and where none may stay."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("start", FORMULAS)
def test_saved_tables_hold_no_formulas(start: str) -> None:
    """By OWASP's rule; numbers stay numbers."""
    text = f"{start}cmd|' /C calc'!A0"
    rows = pd.DataFrame(
        {
            "path": [text, f"a{start}b", None],
            "kind": pd.Categorical([text, "x", None]),
            "any": [text, -1, 2.5],
            "score": [-1.5, 2, math.nan],
            "n": [-1, 2, 3],
            "right": [True, False, True],
            "scored": pd.to_datetime(["2026-01-01"] * 3, utc=True),
        }
    )
    found = without_formulas(rows)
    for name in ("path", "kind", "any"):
        assert found[name].iloc[0] == f"'{text}"
        assert found[name].iloc[1:].astype(object).equals(rows[name].iloc[1:].astype(object))
    pd.testing.assert_frame_equal(found[["score", "n", "right", "scored"]], rows[["score", "n", "right", "scored"]])
    read = list(csv.reader(io.StringIO(found.to_csv(index=False), newline="")))
    assert not [cell for row in read[1:] for cell in row[:3] if cell[:1] == start and cell != "-1"]


def both(pages: Pages, place: str, scratch: Path, **query: Any) -> tuple[pa.Table, list[dict[str, str]]]:
    """A table as Parquet, and its rows as CSV; fails if a cell begins like a formula."""
    parquet, plain = (pages.get(f"{place}.{kind}", **query) for kind in ("parquet", "csv"))
    assert plain.headers["content-type"] == "text/csv; charset=utf-8"
    for kind, answer in (("parquet", parquet), ("csv", plain)):
        assert answer.headers["content-disposition"].startswith("attachment; ")
        assert answer.headers["content-disposition"].rstrip('"').endswith(f".{kind}")
        assert answer.headers["content-disposition"].isprintable()
    assert plain.content.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(io.StringIO(plain.content.decode("utf-8-sig"), newline="")))
    cells = [cell for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell[:1] in FORMULAS and not cell.removeprefix("-")[:1].isdigit()]
    table = pq.read_table(io.BytesIO(parquet.content))
    assert list(rows[0]) == table.column_names if rows else True
    assert len(rows) == table.num_rows
    assert list(scratch.glob("nelbo-export-*")) == []
    return table, rows


@pytest.mark.parametrize(
    ("query", "where"),
    [
        ({}, lambda rows: rows["relative_path"].notna()),
        ({"verdict": ["review", "not_scored"]}, lambda rows: rows["verdict"].isin(["review", "not_scored"])),
        ({"p": "0.05", "text": "LINE-1", "order": "p"}, lambda rows: (rows["p_value"] <= 0.05) & _on_line_1(rows)),
        ({"order": "path", "page": 3, "shown": 7}, lambda rows: rows["relative_path"].notna()),
        ({"text": "no such name"}, lambda rows: rows["relative_path"].isna()),
    ],
)
def test_exported_files_of_a_batch_are_those_of_the_page(
    pages: Pages, scratch: Path, query: dict[str, Any], where: Any
) -> None:
    rows = read_table(pages.workspace.scores(MODEL, "b2")).to_pandas()
    table, plain = both(pages, "/files", scratch, model=MODEL, batch="b2", **query)
    expected = rows[where(rows)].set_index("relative_path")
    found = table.to_pandas()
    assert set(found["relative_path"]) == set(expected.index)
    order, rising = {"p": ("p_value", True), "path": ("relative_path", True)}.get(
        query.get("order", ""), ("anomaly_score", False)
    )
    known = found[order].dropna()
    assert known.is_monotonic_increasing if rising else known.is_monotonic_decreasing
    for column in ("verdict", "reason", "anomaly_score", "p_value", "nelbo_nats", "image_id", "why", "scored_at_utc"):
        np.testing.assert_array_equal(
            found[column].astype(object).fillna("none").to_numpy(),
            expected[column].reindex(found["relative_path"]).astype(object).fillna("none").to_numpy(),
        )
    # Quotes, separators and line breaks within names stay; only a name that begins like a formula gets an apostrophe.
    paths = [f"'{path}" if path[0] in FORMULAS else path for path in found["relative_path"]]
    assert [row["relative_path"] for row in plain] == paths
    scores = [float(row["anomaly_score"]) if row["anomaly_score"] else math.nan for row in plain]
    np.testing.assert_array_equal(scores, found["anomaly_score"].to_numpy(float))


def _on_line_1(rows: pd.DataFrame) -> pd.Series:
    return rows["relative_path"].str.startswith("line-1")


def test_a_table_of_many_rows_is_whole(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it is written in chunks, the first of which has an empty column."""
    from nelbo.flows.dashboard import tables

    monkeypatch.setattr(tables, "_ROWS", 16)
    workspace = Workspace.at(str(tmp_path / "many"))
    lost = [False] * 60 + [True] * 5
    add_batch(workspace, "b1", [f"{i:02d}.png" for i in range(65)], None, not_scored=lost)
    table, plain = both(Pages(workspace), "/files", scratch, model=MODEL, batch="b1", order="path")
    assert table["relative_path"].to_pylist() == [f"{i:02d}.png" for i in range(65)]
    assert [row["verdict"] for row in plain] == [""] * 60 + ["not_scored"] * 5
    assert table["width_px"].to_pylist() == [64] * 65
    assert [row["width_px"] for row in plain] == ["64"] * 65


def test_whole_numbers_stay_whole_beside_empty_cells(tmp_path: Path) -> None:
    table = pa.table({"n": pa.array([64, None], pa.int32()), "drift": [None, True], "score": [1.5, None]})
    exports._write_csv(tmp_path / "table.csv", table.to_reader())
    assert (tmp_path / "table.csv").read_text("utf-8-sig") == "n,drift,score\n64,,1.5\n,True,\n"


def test_exported_batches_and_runs_are_those_of_the_page(pages: Pages, scratch: Path) -> None:
    table, plain = both(pages, "/batches", scratch)
    assert table["batch_id"].to_pylist() == ["b2", "b1", "b0", "without-verdicts", "without-scores"]
    assert [row["batch_id"] for row in plain] == table["batch_id"].to_pylist()
    rows = [read_table(pages.workspace.scores(MODEL, batch)).to_pandas() for batch in table["batch_id"].to_pylist()]
    assert table["n_anomalous"].to_pylist() == [int((one["verdict"] == "anomalous").sum()) for one in rows]
    assert table["n_images"].to_pylist() == [len(one) for one in rows]
    assert both(pages, "/batches", scratch, drift="true")[0]["batch_id"].to_pylist() == ["b2"]
    assert both(pages, "/batches", scratch, text="WITHOUT")[0].num_rows == 2
    assert both(pages, "/batches", scratch, model=OTHER)[0].num_rows == 0
    runs, _ = both(pages, "/runs", scratch)
    assert runs["command"].to_pylist() == ["calibrate", "score"]


def test_an_exported_search_holds_what_the_page_finds(pages: Pages, scratch: Path) -> None:
    table, _ = both(pages, "/found", scratch, text="/007.png")
    assert sorted(zip(table["batch_id"].to_pylist(), table["relative_path"].to_pylist(), strict=True)) == [
        (f"b{i}", "line-1/007.png") for i in range(3)
    ]
    assert text(pages.open("/search", text="/007.png")).count("line-1/007.png") == 3


def test_exported_decisions_include_those_that_were_taken_back(own: Workspace, scratch: Path) -> None:
    record_review(own, review(1, note="=1+1\n,2", reviewer='@"Ann", the first', decision="anomalous", kind="+crack"))
    record_review(own, review(2, note="", reviewer="Bob"))
    record_review(own, review(2, reviewer="Bob", decision="withdrawn", review_id="v3"))
    table, plain = both(Pages(own), "/reviews", scratch)
    assert table["review_id"].to_pylist() == ["v3", "v2", "v1"]
    assert table["decision"].to_pylist() == ["withdrawn", "normal", "anomalous"]
    assert (table["note"][2].as_py(), plain[2]["note"]) == ("=1+1\n,2", "'=1+1\n,2")
    assert (table["kind"][2].as_py(), plain[2]["kind"]) == ("+crack", "'+crack")


def test_an_exported_comparison_holds_the_different_verdicts(looks: Pages, scratch: Path) -> None:
    page = looks.open("/compare", model=MODEL, batch="shift")
    (link,) = [one.attrib["href"] for one in page.iter("a") if one.get("href", "").startswith("/differing.csv")]
    query = dict(pair.split("=") for pair in link.partition("?")[2].split("&"))
    table, _ = both(looks, "/differing", scratch, **query)
    rows = read_table(looks.workspace.scores(MODEL, "shift")).to_pandas()
    assert 0 < table.num_rows < len(rows)
    assert set(table["relative_path"].to_pylist()) < set(rows["relative_path"])
    assert not [row for row in table.to_pylist() if row["verdict_a"] == row["verdict_b"]]
    assert f"Different verdicts: {table.num_rows} image" in text(page)
    looks.get("/differing.csv", 404, model="nobody", batch="single", a="x", b="y")
    looks.get("/differing.csv", 404, model=OTHER, batch="single", a="x", b="y")


def test_a_hostile_batch_name_injects_no_header(pages: Pages, scratch: Path) -> None:
    for attack in (*ATTACKS, "a\r\nSet-Cookie: b=c", '"; filename=evil.exe'):
        both(pages, "/files", scratch, model=MODEL, batch=attack)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_failure_leaves_no_file(pages: Pages, scratch: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    real, seen = getattr(exports, f"_write_{kind}"), []

    def fail(path: Path, rows: pa.RecordBatchReader) -> None:
        real(path, rows)
        seen.append(path.stat().st_size)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exports, f"_write_{kind}", fail)
    page = pages.open(f"/files.{kind}", 500, model=MODEL, batch="b2")
    assert "No space left on device" in text(page)
    assert seen
    assert min(seen) > 0
    assert list(scratch.glob("nelbo-export-*")) == []


def test_other_formats_are_unknown(pages: Pages) -> None:
    for place, status in (("/batches.xlsx", 422), ("/files.json", 422), ("/reviews.", 404), ("/runs.csv.gz", 422)):
        pages.open(place, status)
