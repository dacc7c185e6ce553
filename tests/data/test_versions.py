"""Files of older versions are read as if they were written now."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nelbo.data import (
    FLAGGED_SCHEMA,
    MANIFEST_SCHEMA,
    RUNS_SCHEMA,
    SCHEMA_VERSION,
    SCORES_SCHEMA,
    InputError,
    iter_rows,
    read_metadata,
    read_rows,
    read_scores,
    read_table,
)

#: Written by the code of schema version 1.
OLD = Path(__file__).parent / "version_1"
#: Written by the code of schema version 6: a batch of three files, of which two are flagged and one is not scored.
VERSION_6 = Path(__file__).parent / "version_6"


@pytest.mark.parametrize(
    ("name", "schema"), [("scores", SCORES_SCHEMA), ("manifest", MANIFEST_SCHEMA), ("runs", RUNS_SCHEMA)]
)
def test_a_file_of_version_1_has_the_current_columns(name: str, schema: pa.Schema) -> None:
    path = OLD / f"{name}.parquet"
    assert pq.read_schema(path).metadata[b"nelbo.schema_version"] == b"1"
    assert len(pq.read_schema(path)) < len(schema)
    table = read_table(path)
    assert table.schema.equals(schema, check_metadata=False)
    assert read_rows(path, 0, 1).equals(table.slice(0, 1))
    assert pa.concat_tables(iter_rows(path, 1)).equals(table)


def test_a_file_of_version_1_keeps_its_values() -> None:
    scored, other = read_scores(OLD / "scores.parquet").to_pylist()
    assert (scored["relative_path"], scored["anomaly_score"], scored["verdict"]) == ("a.png", 1.5, "normal")
    # The score that was compared with the threshold in that version.
    assert scored["peak"] == 1.5
    assert scored["scored_at_utc"] == datetime(2026, 10, 1, 12, tzinfo=UTC)
    assert (other["relative_path"], other["reason"], other["peak"]) == ("ü.txt", "not_an_image", None)
    assert read_table(OLD / "scores.parquet", ["peak", "reason"]).column_names == ["peak", "reason"]
    assert read_metadata(OLD / "scores.parquet")["nelbo.run_id"] == "r1"
    (row,) = read_table(OLD / "runs.parquet").to_pylist()
    assert (row["n_images"], row["n_waiting"], row["n_folders_unlisted"], row["drift"]) == (2, None, None, None)
    (row,) = read_table(OLD / "manifest.parquet").to_pylist()
    assert (row["size_bytes"], row["duplicate_of"], row["brightness"]) == (100, None, None)
    assert [row[name] for name in ("changed_ns", "inode", "etag", "n_timeouts")] == [None] * 4


def test_old_and_new_batches_are_read_together(tmp_path: Path) -> None:
    for batch, table in (("b1", pq.read_table(OLD / "scores.parquet")), ("b2", read_table(OLD / "scores.parquet"))):
        folder = tmp_path / "model_id=m1" / f"batch_id={batch}"
        folder.mkdir(parents=True)
        pq.write_table(table, folder / "scores.parquet")
    found = read_scores(tmp_path)
    assert found.num_rows == 4
    assert found.column_names == [*SCORES_SCHEMA.names, "model_id", "batch_id"]


@pytest.mark.parametrize(("name", "schema"), [("scores", SCORES_SCHEMA), ("flagged", FLAGGED_SCHEMA)])
def test_files_of_version_6_have_no_explanations(name: str, schema: pa.Schema) -> None:
    path = VERSION_6 / f"{name}.parquet"
    old = pq.read_table(path)
    assert old.schema.metadata[b"nelbo.schema_version"] == b"6"
    table = read_table(path)
    assert table.schema.equals(schema, check_metadata=False)
    assert table["why"].null_count == table.num_rows
    # Compare texts, in which NaN equals NaN.
    assert repr(table.select(old.column_names).to_pylist()) == repr(old.to_pylist())


@pytest.mark.parametrize("version", [str(SCHEMA_VERSION + 1), "0", "-1", "one"])
def test_an_unknown_schema_version_is_refused(tmp_path: Path, version: str) -> None:
    table = pa.table({"a": [1]}).replace_schema_metadata({"nelbo.schema_version": version})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(InputError, match=f"schema version {version}, this nelbo reads 1 to {SCHEMA_VERSION}"):
        read_table(tmp_path / "x.parquet")
