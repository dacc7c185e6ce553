"""Readers see a whole file or no file."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nelbo.data import (
    SCHEMA_VERSION,
    SCORES_SCHEMA,
    InputError,
    atomic_path,
    read_scores,
    read_table,
    write_json,
    write_scores,
)


def rows(n: int) -> list[dict[str, object]]:
    row: dict[str, object] = dict.fromkeys(SCORES_SCHEMA.names)
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    return [
        row | {"relative_path": f"ü{i}.png", "verdict": "normal", "scored_at_utc": when, "label": -1} for i in range(n)
    ]


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "relative_path": st.text(),
                "anomaly_score": st.none() | st.floats(allow_nan=False),
                "verdict": st.sampled_from(["normal", "anomalous", "not_scored"]) | st.none(),
                "label": st.integers(-1, 1),
                "width_px": st.none() | st.integers(0, 2**31 - 1),
            }
        )
    )
)
def test_written_rows_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, given_rows: list[dict[str, object]]
) -> None:
    target = tmp_path_factory.mktemp("store") / "scores.parquet"
    empty = dict.fromkeys(SCORES_SCHEMA.names)
    table = pa.Table.from_pylist([empty | row for row in given_rows], schema=SCORES_SCHEMA)
    write_scores(table, target)
    assert read_scores(target).to_pylist() == table.to_pylist()


def test_a_file_states_its_version_and_is_compressed(tmp_path: Path) -> None:
    target = tmp_path / "scores.parquet"
    write_scores(pa.Table.from_pylist(rows(3), schema=SCORES_SCHEMA), target, {"nelbo.run_id": "r1"})
    file = pq.ParquetFile(target)
    assert file.schema_arrow.metadata[b"nelbo.schema_version"] == str(SCHEMA_VERSION).encode()
    assert file.schema_arrow.metadata[b"nelbo.run_id"] == b"r1"
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert file.schema_arrow.equals(SCORES_SCHEMA, check_metadata=False)


def test_a_folder_of_batches_has_its_partitions_as_columns(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows(2), schema=SCORES_SCHEMA)
    for batch in ("b1", "b2"):
        write_scores(table, tmp_path / "model_id=m1" / f"batch_id={batch}" / "scores.parquet")
    found = read_scores(tmp_path)
    assert found.num_rows == 4
    assert set(found["batch_id"].to_pylist()) == {"b1", "b2"}
    assert found.schema.field("model_id").type == pa.string()


def test_missing_and_unknown_columns_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows(1), schema=SCORES_SCHEMA).drop_columns(["label"])
    with pytest.raises(ValueError, match=r"missing \['label'\]"):
        write_scores(table, tmp_path / "scores.parquet")
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    write_json({"a": 1}, target)

    def fail_midway() -> None:
        with atomic_path(target) as unfinished:
            unfinished.write_text("half")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail_midway()
    assert target.read_text() == '{\n  "a": 1\n}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_unfinished_files_can_be_staged_elsewhere(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "out" / "x", tmp_path / "_staging") as unfinished:
        assert unfinished.parent == tmp_path / "_staging"
        unfinished.write_text("whole")
        assert not list((tmp_path / "out").iterdir())
    assert (tmp_path / "out" / "x").read_text() == "whole"


def test_missing_damaged_and_unversioned_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_table(tmp_path / "none.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="not a readable Parquet"):
        read_table(tmp_path / "broken.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "foreign.parquet")
    with pytest.raises(InputError, match="schema version none"):
        read_table(tmp_path / "foreign.parquet")


WRITER = """
import sys
from pathlib import Path
import pyarrow as pa
from nelbo.data import SCORES_SCHEMA, write_scores

empty = dict.fromkeys(SCORES_SCHEMA.names)
tables = [pa.Table.from_pylist([empty | {"relative_path": str(n)}] * n, SCORES_SCHEMA) for n in (10, 30_000)]
while True:
    for table in tables:
        write_scores(table, Path(sys.argv[1]), staging=Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path, random: np.random.Generator) -> None:
    """A process that writes over and over is killed at random moments, while this one reads."""
    target, staging = tmp_path / "out" / "scores.parquet", tmp_path / "_staging"
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target), str(staging)])
        while not target.exists():
            time.sleep(0.01)
        end = time.monotonic() + random.uniform(0.2, 0.7)
        while time.monotonic() < end:
            assert read_scores(target).num_rows in (10, 30_000)
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
        paths = read_scores(target)["relative_path"].to_pylist()
        assert set(paths) == {str(len(paths))}
        assert [path.name for path in target.parent.iterdir()] == ["scores.parquet"]


def refusing(number: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.ENOSYS])
def test_a_file_system_that_cannot_sync_folders_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    sync, synced = os.fsync, []

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        synced.append(descriptor)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    write_json({"a": 1}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert len(synced) == 1


def test_a_disk_that_fails_to_sync_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refusing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        write_json({"a": 1}, tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EMLINK])
def test_a_file_system_without_hard_links_still_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "link", refusing(number))
    target = tmp_path / "once.txt"
    with atomic_path(target, exclusive=True) as unfinished:
        unfinished.write_text("first")
    with pytest.raises(FileExistsError), atomic_path(target, exclusive=True) as unfinished:
        unfinished.write_text("second")
    assert target.read_text() == "first"
    # A failed move leaves nothing that looks like a file.
    monkeypatch.setattr(Path, "replace", refusing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"), atomic_path(tmp_path / "b", exclusive=True) as unfinished:
        unfinished.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["once.txt"]


def test_metadata_that_is_no_text_is_refused(tmp_path: Path) -> None:
    table = pa.table({"n": [1]}).replace_schema_metadata({b"nelbo.schema_version": b"\xff4"})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(InputError, match="is not a readable Parquet file"):
        read_table(tmp_path / "x.parquet")
