# ruff: noqa: S608 - only our own names are put into SQL; values are bound
"""The Parquet files of a workspace as SQL tables."""

import glob
import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import duckdb
import pandas as pd
import pyarrow as pa
from joblib import cpu_count

from nelbo.data import SCORES_SCHEMA, write_table
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.flagged import BESIDE, KEPT, MATCHING
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.tables import KINDS

#: A published batch: the id of the model that scored it, and its own.
Batch = tuple[str, str]
#: Batches by model and id; None stands for any.
Batches = tuple[str | None, str | None]
_ALL: Sequence[Batches] = [(None, None)]

#: Tables with one file for each batch, which is replaced when the batch is scored again.
_PUBLISHED = {"scores": SCORES_SCHEMA, **BESIDE}

#: How often a query is tried when files change while it reads them.
_READS = 5
#: Rows in memory at a time while a selection is written.
_ROWS = 65_536

_FILES = "read_parquet(?, union_by_name = true, hive_partitioning = {}, hive_types_autocast = false, filename = {})"

#: How the files of each table are read.
_READING = {name: _FILES.format("true", "false") for name in _PUBLISHED} | {
    name: _FILES.format("false", "true") for name in KINDS
}

#: Columns that a row must have to count.
_NEEDED: dict[str, tuple[str, ...]] = {"runs": (), "reviews": ("image_id",)}

#: While small files are merged, a row may be in two files.
_EACH_ONCE = {name: f"SELECT DISTINCT ON ({kind.key}) * EXCLUDE filename FROM {name}_" for name, kind in KINDS.items()}

_TABLES = {
    "batches": r"""
        SELECT regexp_extract(file, '/model_id=([^/]+)/', 1) AS model_id,
               regexp_extract(file, '/batch_id=([^/]+)/', 1) AS batch_id
        FROM (SELECT unnest(?) AS file) WHERE batch_id <> 'none'
    """,
    "scores": f"SELECT * FROM {_READING['scores']}",
    "flagged": f"""
        WITH scores AS (SELECT * FROM {_READING["scores"]}),
        flagged AS (SELECT * FROM {_READING["flagged"]})
        {MATCHING}
    """,
    **{
        name: f"""
            WITH scores AS (SELECT * FROM {_READING["scores"]}),
            {name} AS (SELECT * FROM {_READING[name]})
            {KEPT.format(name=name)}
        """
        for name in ("audit", "near")
    },
    "regions": f"""
        WITH scores AS (SELECT model_id, batch_id, run_id, relative_path FROM {_READING["scores"]}),
        regions AS (SELECT * FROM {_READING["regions"]})
        SELECT regions.* FROM regions SEMI JOIN scores USING (model_id, batch_id, run_id, relative_path)
    """,
    "runs": _EACH_ONCE["runs"],
    "decisions": _EACH_ONCE["reviews"],
    "reviews": f"""
        SELECT * FROM ({_EACH_ONCE["reviews"]}) WHERE decision IN ('normal', 'anomalous')
        AND review_id NOT IN (SELECT withdraws FROM reviews_ WHERE decision = 'withdrawn' AND withdraws IS NOT NULL)
    """,
}

#: Tables of many small files, and the kind of these files.
_GATHERED = {"runs": "runs", "decisions": "reviews", "reviews": "reviews"}


T = TypeVar("T")


class Selection(NamedTuple):
    """Rows that a page lists: it counts them, shows some, and offers all for download.

    source: the part of the query after SELECT and the columns, with ``?`` for the values.
    batches: see `Tables.query`.
    """

    source: str
    values: tuple[Any, ...]
    order: str
    columns: str = "*"
    batches: Sequence[Batches] = _ALL

    @classmethod
    def where(cls, source: str, asked: Mapping[str, Sequence[Any]], *how: Any) -> "Selection":
        """The rows of a source that meet all conditions; a condition with empty values is left out.

        >>> Selection.where("FROM scores", {"p_value <= ?": [0.5], "verdict = ?": []}, "p_value")[:2]
        ('FROM scores WHERE true AND p_value <= ?', (0.5,))
        """
        conditions = ["true", *(condition for condition, values in asked.items() if values)]
        values = tuple(value for some in asked.values() for value in some)
        return cls(f"{source} WHERE {' AND '.join(conditions)}", values, *how)


class Tables:
    """SQL over a workspace; each query sees the files as they are at that moment.

    There are ``scores``, ``flagged``, ``audit``, ``near``, ``regions``, ``runs`` and ``reviews`` with the contract's
    columns, including ``model_id`` and ``batch_id``; and ``batches`` with only these two, a row for each published
    batch. ``flagged``, ``audit`` and ``near`` are rows of the published run, with maps and thumbnails. ``reviews`` are
    the decisions that stand; ``decisions`` are all that were ever written, including withdrawn ones and withdrawals.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._lock = threading.Lock()
        self._root = str(workspace.root)
        #: Each damaged file, with a mark that changes when it is replaced.
        self._damaged: dict[str, str] = {}
        folder = tempfile.mkdtemp(prefix="nelbo-dashboard-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._connection = _connect(workspace, folder)
        # An empty file heads each list of files, and names all columns: older files lack some, and there may be none.
        empty = Workspace(Path(folder, self._root.strip("/")))
        self._empty = {name: str(getattr(empty, name)("none", "none")) for name in _PUBLISHED}
        self._empty |= {name: str(empty.root / name / "none.parquet") for name in KINDS}
        schemas = _PUBLISHED | {name: kind.schema for name, kind in KINDS.items()}
        for name, schema in schemas.items():
            write_table(schema.empty_table(), Path(self._empty[name]), schema)
        #: How the files of each of `KINDS` are read: columns and types of other programs cannot break a page.
        self._taken = {}
        for name, kind in KINDS.items():
            self._connection.execute(f"CREATE TABLE {name}_ AS FROM {_READING[name]}", [[self._empty[name]]])
            columns = self._connection.execute(f"DESCRIBE {name}_").fetchall()
            known = ", ".join(f'TRY_CAST("{column}" AS {type_}) AS "{column}"' for column, type_, *_ in columns)
            whole = " AND ".join(f"{column} IS NOT NULL" for column in (kind.key, *_NEEDED[name]))
            self._taken[name] = f"FROM (SELECT {known} FROM {_READING[name]}) WHERE {whole}"

    def query(self, sql: str, parameters: Sequence[Any] = (), batches: Sequence[Batches] = _ALL) -> pd.DataFrame:
        """The rows of a query, all in memory, so only for few rows.

        Args:
            sql: begins with SELECT or FROM, and has ``?`` for values. A WITH goes into a subquery.
            parameters: the values.
            batches: the batches whose files are opened; runs and reviews are not narrowed.

        Files that cannot be read are left out; `damaged` names them.

        Raises:
            duckdb.Error: the query is wrong, or the files do not stop changing.
        """
        return self._read(lambda found: found.df(), sql, parameters, batches)

    def records(
        self, sql: str, parameters: Sequence[Any] = (), batches: Sequence[Batches] = _ALL
    ) -> list[dict[str, Any]]:
        """The rows of a query as dictionaries, None where a value is null; for the arguments see `query`."""

        def listed(found: duckdb.DuckDBPyRelation) -> list[dict[str, Any]]:
            return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]

        return self._read(listed, sql, parameters, batches)

    def count(self, selection: Selection) -> int:
        """How many rows a selection has."""
        (found,) = self.records(f"SELECT count(*) AS n {selection.source}", selection.values, selection.batches)
        return int(found["n"])

    def some(self, selection: Selection, n: int, page: int) -> list[dict[str, Any]]:
        """One page of `n` rows of a selection; pages count from 1."""
        sql = f"SELECT {selection.columns} {selection.source} ORDER BY {selection.order} LIMIT ? OFFSET ?"
        return self.records(sql, [*selection.values, n, (page - 1) * n], selection.batches)

    def write(self, selection: Selection, write: Callable[[pa.RecordBatchReader], T]) -> T:
        """Give all rows of a selection to a function, some at a time; called again if files change meanwhile."""
        sql = f"SELECT {selection.columns} {selection.source} ORDER BY {selection.order}"
        return self._read(lambda found: write(found.to_arrow_reader(_ROWS)), sql, selection.values, selection.batches)

    def _read(
        self,
        take: Callable[[duckdb.DuckDBPyRelation], T],
        sql: str,
        parameters: Sequence[Any],
        batches: Sequence[Batches],
    ) -> T:
        left = _READS
        while True:
            left -= 1
            try:
                tables, files = self._tables(sql, batches)
                return take(self._connection.cursor().sql(tables + sql, params=[*files, *parameters]))
            except (duckdb.Error, OSError):
                # A file was replaced or went between two reads; DuckDB has many errors for that.
                if left <= 0 and not self._set_aside(sql, batches):
                    raise

    def damaged(self) -> list[str]:
        """Files in the workspace that could not be read and have not changed since."""
        with self._lock:
            known = list(self._damaged.items())
        return sorted(file.removeprefix(self._root).strip("/") for file, mark in known if self._mark(file) == mark)

    def _set_aside(self, sql: str, batches: Sequence[Batches]) -> int:
        """Read each file of a query completely to find damaged ones, and return their number."""
        named = {_GATHERED.get(name, name) for name in _TABLES if re.search(rf"\b{name}\b", sql)} & set(_READING)
        # Files beside the scores are matched with the rows of `scores`.
        named |= {"scores"} if named & {*BESIDE} else set()
        found = {}
        for name in sorted(named):
            for file in self._list(name, batches if name in _PUBLISHED else _ALL):
                mark = self._mark(file)
                if mark is not None and not self._can_read(_READING[name], [self._empty[name], file]):
                    found[file] = mark
        with self._lock:
            self._damaged |= found
        return len(found)

    def _can_read(self, reading: str, files: list[str]) -> bool:
        try:
            self._connection.cursor().execute(f"SELECT max(hash(found)) FROM (FROM {reading}) AS found", [files])
        except (duckdb.Error, OSError):
            return False
        return True

    def _mark(self, file: str) -> str | None:
        """A mark that changes when a file is replaced; None if it is gone."""
        root = self.workspace.root
        try:
            if isinstance(root, Path):
                status = Path(file).stat()
                return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"
            return repr(root.fs.info(file))
        except OSError:
            return None

    def _tables(self, sql: str, batches: Sequence[Batches]) -> tuple[str, list[list[str]]]:
        """The definitions of the tables that a query names, to put before it, and the files for their ``?``."""
        named = [name for name in _TABLES if re.search(rf"\b{name}\b", sql)]
        files = []
        for name in named:
            if name in _GATHERED:
                self._append(_GATHERED[name])
            else:
                kinds = ("scores", name) if name in BESIDE else ("scores",)
                files += [[self._empty[kind], *self._list(kind, batches)] for kind in kinds]
        definitions = ", ".join(f"{name} AS NOT MATERIALIZED ({_TABLES[name]})" for name in named)
        return f"WITH {definitions} " if named else "", files

    def _append(self, name: str) -> None:
        """Read new files into memory, and forget those that are gone."""
        with self._lock:
            cursor = self._connection.cursor()
            known = {file for (file,) in cursor.execute(f"SELECT DISTINCT filename FROM {name}_").fetchall()}
            found = set(self._list(name))
            if new := found - known:
                cursor.execute(f"INSERT INTO {name}_ BY NAME {self._taken[name]}", [[self._empty[name], *new]])
            if gone := known - found:
                cursor.execute(f"DELETE FROM {name}_ WHERE list_contains(?, filename)", [list(gone)])

    def _list(self, kind: str, batches: Sequence[Batches] = _ALL) -> list[str]:
        """Files of a kind in some batches, without those that are known to be damaged."""
        found = [catalog.find(self.workspace, kind, model_id=model, batch_id=batch)["path"] for model, batch in batches]
        files = [f"{self._root.rstrip('/')}/{path}" for paths in found for path in paths.to_pylist()]
        return [file for file in files if file not in self._damaged or self._mark(file) != self._damaged[file]]


def _connect(workspace: Workspace, folder: str) -> duckdb.DuckDBPyConnection:
    """A database in memory that can read this workspace and a folder, but no other file and no network."""
    connection = duckdb.connect(
        config={
            "threads": min(2, cpu_count()),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
        }
    )
    root = workspace.root
    if isinstance(root, Path):
        allowed = [f"{root}/", f"{glob.escape(str(root))}/"]
    else:
        connection.register_filesystem(root.fs)
        allowed = [f"{root.protocol}://"]
    connection.execute("SET allowed_directories = ?", [[f"{folder}/", *allowed]])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection
