"""pandas, DuckDB, Polars and pyarrow see whole batches, each one time, while a writer publishes."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from polars.exceptions import PanicException

from nelbo.data import SCORES_SCHEMA

PUBLISH = """
import sys
import time
from pathlib import Path
import pyarrow as pa
from nelbo.data import SCORES_SCHEMA, table_writer

root, staging = Path(sys.argv[1]), Path(sys.argv[2])
empty = dict.fromkeys(SCORES_SCHEMA.names)

def publish(batch, n):
    target = root / "model_id=m1" / f"batch_id={batch}" / "scores.parquet"
    rows = [empty | {"relative_path": f"{i:06}.png", "anomaly_score": float(n), "verdict": "normal"} for i in range(n)]
    with table_writer(target, SCORES_SCHEMA, staging=staging) as writer:
        for start in range(0, n, 500):
            writer.write(pa.Table.from_pylist(rows[start : start + 500], SCORES_SCHEMA))
"""

#: Batch b1 is always there; b2 is published over and over, with alternating numbers of rows.
WRITER = (
    PUBLISH
    + """
publish("b1", 100)
while True:
    for n in (700, 1300):
        publish("b2", n)
        time.sleep(0.05)
"""
)


def with_pandas(root: Path) -> pd.DataFrame:
    return pd.read_parquet(root, columns=["batch_id", "anomaly_score", "relative_path"])


def with_duckdb(root: Path) -> pd.DataFrame:
    query = "SELECT batch_id, anomaly_score, relative_path FROM read_parquet($files, hive_partitioning = true)"
    with duckdb.connect() as connection:
        return connection.execute(query, {"files": f"{root}/*/*/*.parquet"}).df()


def with_polars(root: Path) -> pd.DataFrame:
    frame = pl.read_parquet(f"{root}/*/*/*.parquet", hive_partitioning=True)
    rows = frame.select("batch_id", "anomaly_score", "relative_path").to_dicts()
    return pd.DataFrame(rows)


def with_pyarrow(root: Path) -> pd.DataFrame:
    table = ds.dataset(root, format="parquet", partitioning="hive").to_table()
    return table.select(["batch_id", "anomaly_score", "relative_path"]).to_pandas()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of scores into which a process keeps writing."""
    folder = tmp_path_factory.mktemp("published")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder / "scores"), str(folder / "_staging")])
    try:
        while not (folder / "scores" / "model_id=m1" / "batch_id=b2").exists():
            assert writer.poll() is None
            time.sleep(0.01)
        while not list(folder.glob("scores/*/batch_id=b2/scores.parquet")):
            time.sleep(0.01)
        yield folder / "scores"
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.wait()


@pytest.mark.slow
@pytest.mark.parametrize("read", [with_pandas, with_duckdb, with_polars, with_pyarrow])
def test_readers_see_whole_batches(published: Path, read: Callable[[Path], pd.DataFrame]) -> None:
    sizes = set()
    n_refused = n_read = 0
    while sizes != {800, 1400} or n_read < 20:
        try:
            frame = read(published)
        except (OSError, duckdb.Error, pl.exceptions.PolarsError, PanicException):
            # If the file is replaced between two reads, the reader raises an error, and never gives wrong rows.
            n_refused += 1
            continue
        n_read += 1
        assert set(frame["batch_id"]) == {"b1", "b2"}
        for _, rows in frame.groupby("batch_id"):
            (n,) = rows["anomaly_score"].unique()
            assert len(rows) == n
            assert not rows["relative_path"].duplicated().any()
        sizes.add(len(frame))
    assert n_refused <= n_read / 10


def test_statistics_let_readers_skip_row_groups(tmp_path: Path) -> None:
    """Each row group holds the range of its numbers and texts."""
    code = PUBLISH + 'publish("b3", 2000)'
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "scores"), str(tmp_path / "_staging")], check=True)
    (path,) = tmp_path.glob("scores/*/*/scores.parquet")
    group = pq.ParquetFile(path).metadata.row_group(0)
    names = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert set(names) == set(SCORES_SCHEMA.names)
    assert (names["anomaly_score"].statistics.min, names["anomaly_score"].statistics.max) == (2000, 2000)
    paths = names["relative_path"].statistics
    assert (paths.min, paths.max) == ("000000.png", "001999.png")
    assert names["verdict"].statistics.min == "normal"
