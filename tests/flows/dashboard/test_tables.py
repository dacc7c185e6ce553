"""The files of a workspace as tables: what these hold while files come, change and break."""
# ruff: noqa: S608 - queries of tests

import threading
from datetime import timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reviewing import review
from scored import MODEL, START, add_batch, add_calibration, spoilt

from nelbo.data import SCORES_SCHEMA, read_table, write_table
from nelbo.flows.dashboard.tables import Selection, Tables
from nelbo.flows.options.options import CompactOptions
from nelbo.flows.steps.compact import compact_group, list_groups
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import record_review

BATCH = (MODEL, "b2")


def count(workspace: Workspace, where: str) -> int:
    """Rows of the last batch, as DuckDB counts them itself."""
    sql = f"SELECT count(*) FROM read_parquet(?) WHERE {where}"
    return int(duckdb.execute(sql, [str(workspace.scores(*BATCH))]).fetchall()[0][0])


def test_tables_hold_what_the_files_hold(three: Workspace) -> None:
    tables = Tables(three)
    assert tables.query("SELECT count(*) AS n FROM scores")["n"].item() == 913
    assert tables.query("SELECT * FROM batches ORDER BY batch_id")["batch_id"].tolist() == [
        *("b0", "b1", "b2", "without-scores", "without-verdicts")
    ]
    found = tables.query("SELECT verdict, count(*) AS n FROM scores WHERE batch_id = ? GROUP BY 1", ["b2"], [BATCH])
    assert set(found["verdict"]) == {"normal", "review", "anomalous", "not_scored"}
    for verdict, n in found.itertuples(index=False, name=None):
        assert n == count(three, f"verdict = '{verdict}'")
    flagged = tables.query("SELECT count(*) AS n, count(map) AS pictures FROM flagged", batches=[BATCH])
    assert flagged.iloc[0].tolist() == [count(three, "verdict IN ('anomalous', 'review')")] * 2
    audit = tables.query("SELECT verdict, thumbnail FROM audit", batches=[BATCH])
    assert audit["verdict"].tolist() == ["normal"] * 5
    assert audit["thumbnail"].notna().all()
    assert tables.query("SELECT count(*) AS n FROM runs WHERE command = 'score'")["n"].item() == 5


def test_tables_of_nothing_are_empty(tmp_path: Path, three: Workspace) -> None:
    tables = Tables(Workspace.at(str(tmp_path / "none")))
    for name in ("scores", "flagged", "audit", "runs", "reviews", "decisions", "batches"):
        assert tables.query(f"SELECT * FROM {name}").empty
    assert {"model_id", "peak", "map", "thumbnail", "heatmap_png"} <= set(tables.query("SELECT * FROM flagged").columns)
    for batches in ([], [("m0", "b0")], [("..", "b0")], [("*", "*")]):
        assert Tables(three).query("SELECT * FROM scores", batches=batches).empty
    # Reading creates nothing.
    assert not (tmp_path / "none").exists()


def test_tables_read_files_of_old_versions(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path))
    version_1 = Path(__file__).parents[2] / "data" / "version_1"
    for place, name in ((workspace.scores("m1", "b1"), "scores"), (workspace.runs / "r1.parquet", "runs")):
        place.parent.mkdir(parents=True)
        place.write_bytes((version_1 / f"{name}.parquet").read_bytes())
    tables = Tables(workspace)
    rows = tables.query("SELECT batch_id, anomaly_score, peak FROM scores")
    assert set(rows["batch_id"]) == {"b1"}
    assert rows["anomaly_score"].notna().any()
    assert rows["peak"].isna().all()
    assert tables.query("SELECT n_waiting FROM runs")["n_waiting"].isna().all()
    add_batch(workspace, "b2", ["a.png"], None, not_scored=0)
    assert tables.query("SELECT count(peak) AS n FROM scores")["n"].item() == 1


def test_tables_see_nothing_but_the_workspace(three: Workspace, tmp_path: Path) -> None:
    outside = write_table(SCORES_SCHEMA.empty_table(), tmp_path / "outside.parquet", SCORES_SCHEMA)
    tables = Tables(three)
    for sql in (
        f"SELECT * FROM '{outside}'",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM glob('/etc/*')",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
    ):
        with pytest.raises(duckdb.Error, match=r"disabled|cannot be|locked|Cannot"):
            tables.query(sql)


def test_foreign_folders_are_no_batches(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path))
    add_batch(workspace, "b1", ["a.png"], None)
    copy = workspace.scores(MODEL, "b1").parents[1] / "batch_id=b1 (copy)" / "scores.parquet"
    copy.parent.mkdir()
    copy.write_bytes(workspace.scores(MODEL, "b1").read_bytes())
    (tmp_path / "_staging" / "scores.parquet").write_bytes(b"half")
    assert Tables(workspace).query("SELECT count(*) AS n FROM scores")["n"].item() == 1


def test_runs_are_counted_once_while_they_are_joined(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path))
    calibration = add_calibration(workspace)
    tables = Tables(workspace)
    counts = "SELECT count(*) AS n, count(DISTINCT run_id) AS ids FROM runs"
    for i in range(3):
        add_batch(workspace, f"b{i}", ["a.png"], calibration, at=START + timedelta(hours=i))
    assert tables.query(counts).iloc[0].tolist() == [4, 4]
    kept = {path.name: path.read_bytes() for path in workspace.runs.glob("*.parquet")}
    for group in list_groups(workspace):
        compact_group(CompactOptions(workspace=str(tmp_path)), group)
    assert len(list(workspace.runs.glob("*.parquet"))) < 4
    assert tables.query(counts).iloc[0].tolist() == [4, 4]
    for name, content in kept.items():
        (workspace.runs / name).write_bytes(content)
    assert tables.query(counts).iloc[0].tolist() == [4, 4]
    for path in workspace.runs.glob("*.parquet"):
        path.unlink()
    assert tables.query(counts).iloc[0].tolist() == [0, 0]


def test_tables_read_an_object_store() -> None:
    workspace = Workspace.at("memory://dashboard/workspace")
    add_batch(workspace, "b1", ["a.png", "b.png"], add_calibration(workspace), not_scored=0)
    tables = Tables(workspace)
    assert tables.query("SELECT count(*) AS n FROM scores WHERE batch_id = 'b1'")["n"].item() == 2
    assert tables.query("SELECT count(*) AS n FROM runs")["n"].item() == 2
    with pytest.raises(duckdb.Error):
        tables.query("SELECT * FROM glob('/etc/*')")


def test_readers_see_whole_batches_while_they_are_replaced(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path))
    calibration = add_calibration(workspace)
    stop = threading.Event()

    def publish() -> None:
        for i in range(1000):
            if stop.is_set():
                return
            add_batch(workspace, f"b{i % 3}", [f"{k}.png" for k in range(200 + i % 2)], calibration, seed=i)

    writer = threading.Thread(target=publish)
    writer.start()
    try:
        tables, sizes = Tables(workspace), set()
        for _ in range(20):
            rows = tables.query("SELECT batch_id, count(*) AS n, count(DISTINCT run_id) AS runs FROM scores GROUP BY 1")
            sizes |= set(rows["n"])
            assert set(rows["n"]) <= {200, 201}
            assert set(rows["runs"]) <= {1}
    finally:
        stop.set()
        writer.join()
    assert sizes == {200, 201}


@pytest.mark.parametrize("kind", ["scores", "flagged", "audit", "near", "runs", "reviews"])
def test_a_damaged_file_is_named_and_the_others_are_shown(tmp_path: Path, kind: str) -> None:
    workspace = Workspace.at(str(tmp_path))
    calibration = add_calibration(workspace)
    for i in range(3):
        paths, odd = [f"{letter}.png" for letter in "abcd"], [True, True, False, False]
        add_batch(workspace, f"b{i}", paths, calibration, anomalous=odd, not_scored=0, seed=i, audit=1, near=1)
        record_review(workspace, review(i))
    # Rows of the table of flagged images come from their scores, and only maps and thumbnails from its own files.
    counted = "thumbnail" if kind == "flagged" else "*"
    sql = f"SELECT count({counted}) AS n, max(hash({kind})) FROM {kind}"
    n = int(Tables(workspace).query(sql)["n"].item())
    assert n
    file = sorted(tmp_path.glob(f"{kind}/**/*.parquet"))[-1]
    content = file.read_bytes()
    lost = read_table(file).num_rows
    for how in ("empty", "cut", "garbage", "a page"):
        tables = Tables(workspace)
        file.write_bytes(spoilt(content, how))
        for _ in range(2):
            assert tables.query(sql)["n"].item() == n - lost, how
            assert tables.damaged() == [str(file.relative_to(tmp_path))]
        # After the file is restored, its rows are there again.
        file.write_bytes(content)
        assert tables.query(sql)["n"].item() == n
        assert tables.damaged() == []
    # With one damaged file of each table, every one is named.
    other = next(path for path in tmp_path.glob("scores/**/*.parquet") if path != file)
    for path in (file, other):
        path.write_bytes(b"PAR1")
    tables = Tables(workspace)
    tables.query(sql)
    tables.query("SELECT max(hash(scores)) FROM scores")
    assert tables.damaged() == sorted(str(path.relative_to(tmp_path)) for path in (file, other))


@pytest.mark.parametrize("kind", ["runs", "reviews"])
def test_foreign_columns_and_types_break_no_table(tmp_path: Path, kind: str) -> None:
    workspace = Workspace.at(str(tmp_path))
    add_batch(workspace, "b1", ["a.png", "b.png"], add_calibration(workspace))
    record_review(workspace, review(0))
    key, time = {"runs": ("run_id", "started_at_utc"), "reviews": ("review_id", "reviewed_at_utc")}[kind]
    before = Tables(workspace).records(f"SELECT * FROM {kind} ORDER BY {key}")
    own = sorted(tmp_path.glob(f"{kind}/*.parquet"))[0]
    rows = pq.read_table(own)
    texts = rows.set_column(rows.schema.get_field_index(time), time, pa.array(["soon"] * rows.num_rows))
    for name, odd in (
        ("v1", rows.append_column("more", pa.array([1] * rows.num_rows))),
        ("v2", texts),
        ("v3", rows.set_column(rows.schema.get_field_index(key), key, pa.nulls(rows.num_rows, pa.string()))),
        ("v4", pa.table({"unlike": [1]})),
    ):
        pq.write_table(odd, own.with_name(f"{name}.parquet"))
    tables = Tables(workspace)
    assert len(tables.records(f"SELECT * FROM {kind}")) == len(before)
    assert tables.damaged() == []


def test_a_wrong_query_blames_no_file(three: Workspace) -> None:
    tables = Tables(three)
    with pytest.raises(duckdb.Error, match="nothing"):
        tables.query("SELECT nothing FROM scores")
    assert tables.damaged() == []


def test_records_are_rows_with_none_for_null(three: Workspace) -> None:
    tables = Tables(three)
    sql = "SELECT relative_path, verdict, p_value FROM scores WHERE batch_id = ? ORDER BY relative_path"
    assert tables.records(sql, ["without-verdicts"]) == [
        {"relative_path": "a.png", "verdict": None, "p_value": None},
        {"relative_path": "b.png", "verdict": None, "p_value": None},
    ]
    assert tables.records("SELECT * FROM reviews") == []


def test_a_selection_is_counted_shown_and_exported(three: Workspace) -> None:
    tables = Tables(three)
    asked = {"verdict = ?": ["normal"], "reason = ?": [], "p_value BETWEEN ? AND ?": [0.2, 0.9]}
    selection = Selection.where("FROM scores", asked, "relative_path", "relative_path, p_value", [BATCH])
    n = count(three, "verdict = 'normal' AND p_value BETWEEN 0.2 AND 0.9")
    assert tables.count(selection) == n > 30
    pages = [tables.some(selection, 25, page) for page in range(1, n // 25 + 3)]
    assert [len(page) for page in pages] == [*[25] * (n // 25), n % 25, 0]
    listed = [row for page in pages for row in page]
    assert tables.write(selection, lambda reader: reader.read_all().to_pylist()) == listed
    assert [row["relative_path"] for row in listed] == sorted(row["relative_path"] for row in listed)
    # Values never become part of the query.
    odd = Selection.where("FROM scores", {"verdict = ?": ["' OR ''='"]}, "relative_path")
    assert tables.count(odd) == 0


def test_all_rows_are_read_again_when_a_file_changes(tmp_path: Path) -> None:
    """Rows written before a file was replaced are discarded: the function starts again."""
    workspace = Workspace.at(str(tmp_path))
    calibration = add_calibration(workspace)
    paths = [f"{i}.png" for i in range(300)]
    for i in range(3):
        add_batch(workspace, f"b{i}", paths, calibration, not_scored=0, seed=i)
    tables, seen = Tables(workspace), []

    def write(reader: pa.RecordBatchReader) -> set[str]:
        seen.append(0)
        runs = set(reader.read_next_batch()["run_id"].to_pylist())
        if len(seen) < 3:
            # The file that is read from here on is gone.
            raise duckdb.IOException("replaced")
        return runs

    selection = Selection("FROM scores", (), "relative_path")
    assert len(tables.write(selection, write)) == 3
    assert len(seen) == 3
    assert tables.damaged() == []

    def fail(_reader: pa.RecordBatchReader) -> None:
        raise duckdb.IOException("for ever")

    with pytest.raises(duckdb.IOException, match="for ever"):
        tables.write(selection, fail)
    assert tables.damaged() == []
