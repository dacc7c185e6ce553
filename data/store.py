"""Files that appear whole or not at all: Parquet and JSON, written aside and moved into place."""

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from nelbo.data.errors import InputError, MissingError, SpaceError, VersionError
from nelbo.data.places import Place, open_parquet, open_place, read_unchanged, upload, was_replaced
from nelbo.data.schemas import SCHEMA_VERSION, SCORES_SCHEMA
from nelbo.data.versions import check_types, upgrade

ROW_GROUP_ROWS = 65_536

#: A row group is closed earlier when its rows take more than this: pictures are larger than numbers.
ROW_GROUP_BYTES = 64 << 20

_READABLE = tuple(str(version) for version in range(1, SCHEMA_VERSION + 1))

#: Errors of file systems that do not support an operation: FUSE, SMB, NFS, exFAT, WSL's mounts.
_CANNOT = (
    *(errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EPERM, errno.EACCES),
    *(errno.EBADF, errno.EISDIR, errno.EMLINK),
)

#: The disk is full, the user's quota is used up, or the file is longer than is allowed here.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(target: Place, staging: Place | None = None, exclusive: bool = False) -> Iterator[Path]:
    """A local path to write to that becomes `target` when the block ends well, and vanishes when it does not.

    Args:
        target: the file to make or replace; its folder is made. An object is uploaded when the block ends.
        staging: a folder on the same file system for the unfinished file; by default the target's own.
        exclusive: make it and never replace it, whoever else makes it at the same time.

    Raises:
        FileExistsError: `exclusive` is set, and `target` exists.
        SpaceError: the block or the move found no space left.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic_path(target) as unfinished:
    ...     _ = unfinished.write_text("whole")
    >>> [file.name for file in target.parent.iterdir()], target.read_text()
    (['a.txt'], 'whole')
    """
    if not isinstance(target, Path):
        with tempfile.TemporaryDirectory(prefix="nelbo-") as aside:
            unfinished = Path(aside) / target.name
            with _space_for(target, unfinished):
                yield unfinished
            upload(unfinished, target, exclusive)
        return
    folder = staging if isinstance(staging, Path) else target.parent
    unfinished = folder / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        with _space_for(target, unfinished):
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(parents=True, exist_ok=True)
            yield unfinished
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            if exclusive:
                _move_to_new(unfinished, target)
            else:
                unfinished.replace(target)
            _sync_folder(target.parent)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _space_for(target: Place, unfinished: Path) -> Iterator[None]:
    """Lack of space in the block becomes a `SpaceError`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, SpaceError) or error.errno not in _NO_SPACE:
            raise
        raise SpaceError(_no_space(error, target, unfinished)) from error


def _no_space(error: OSError, target: Place, unfinished: Path) -> str:
    with contextlib.suppress(OSError):
        written, free = unfinished.stat().st_size, shutil.disk_usage(unfinished.parent).free
        return (
            f"{target} cannot be written ({error.strerror} after {written:,} bytes; {free:,} bytes are free there). "
            "Free space and run the same command again."
        )
    return f"{target} cannot be written ({error.strerror}). Free space and run the same command again."


def _move_to_new(unfinished: Path, target: Path) -> None:
    """Give a finished file a name that nobody has taken.

    Raises:
        FileExistsError: the name is taken.
    """
    try:
        # Unlike a rename, a hard link is refused where the name is taken.
        os.link(unfinished, target)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        # No hard links here. An empty file, which only one process can create, takes the name and is replaced at once:
        # a reader may see it empty for that moment, and a process killed in that moment leaves it empty.
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            unfinished.replace(target)
        except OSError:
            target.unlink()
            raise


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut (a folder is a file of names), where the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise


def write_json(content: Mapping[str, Any], target: Place, staging: Place | None = None) -> None:
    """Write `content` to `target` as sorted, indented JSON, atomically.

    Args:
        content: what JSON can hold.
        target: the file.
        staging: as in `atomic_path`.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.json"
    >>> write_json({"b": 1, "a": [True]}, target)
    >>> json.loads(target.read_text())
    {'a': [True], 'b': 1}
    """
    with atomic_path(target, staging) as unfinished:
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        unfinished.write_text(text + "\n", encoding="utf-8")


class TableWriter:
    """One Parquet file (zstd) of exactly one schema, written in row groups as rows come in."""

    def __init__(self, file: BinaryIO, name: str, schema: pa.Schema, metadata: Mapping[str, str]) -> None:
        texts = {"nelbo.schema_version": str(SCHEMA_VERSION), **metadata}
        # Checksums: a reader that verifies them finds a damaged page. The others ignore them.
        self._file = pq.ParquetWriter(
            file, schema.with_metadata(texts), compression="zstd", write_page_checksum=True, write_statistics=True
        )
        self._name, self._schema = name, schema
        self._pending: list[pa.Table] = []
        self.n_rows = 0

    def write(self, table: pa.Table) -> None:
        """Append rows, with columns in any order; a missing, unknown or wrongly typed column is a ValueError."""
        if set(table.column_names) != set(self._schema.names):
            missing = sorted(set(self._schema.names) - set(table.column_names))
            unknown = sorted(set(table.column_names) - set(self._schema.names))
            raise ValueError(f"{self._name}: columns do not fit the schema; missing {missing}, unknown {unknown}")
        self._pending.append(table.select(self._schema.names).cast(self._schema))
        self.n_rows += table.num_rows
        if sum(part.nbytes for part in self._pending) >= ROW_GROUP_BYTES:
            self._flush()
        elif (n := sum(part.num_rows for part in self._pending)) >= ROW_GROUP_ROWS:
            self._flush(n - n % ROW_GROUP_ROWS)

    def _flush(self, n: int | None = None) -> None:
        """Write the first n pending rows."""
        rows = pa.concat_tables(self._pending) if self._pending else self._schema.empty_table()
        self._file.write_table(rows.slice(0, n), row_group_size=ROW_GROUP_ROWS)
        self._pending = [] if n is None else [rows.slice(n)]

    def close(self) -> None:
        """Write what is left, and the end of the file."""
        if self._pending:
            self._flush()
        self._file.close()

    def discard(self) -> None:
        """Abandon the file."""
        with contextlib.suppress(OSError):
            self._file.close()


@contextmanager
def table_writer(
    target: Place,
    schema: pa.Schema,
    metadata: Mapping[str, str] | None = None,
    staging: Place | None = None,
    exclusive: bool = False,
) -> Iterator[TableWriter]:
    """A Parquet file that grows by rows and becomes `target` when the block ends well; see `atomic_path`.

    Args:
        target: the file.
        schema: of all rows; rows of another schema are a ValueError.
        metadata: texts kept in the file beside the schema version.
        staging, exclusive: as in `atomic_path`.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "numbers.parquet"
    >>> schema = pa.schema([("n", pa.int64())])
    >>> with table_writer(target, schema) as writer:
    ...     writer.write(pa.table({"n": [1, 2]}))
    ...     writer.write(pa.table({"n": [3]}))
    >>> read_table(target)["n"].to_pylist()
    [1, 2, 3]
    """
    with atomic_path(target, staging, exclusive) as unfinished, unfinished.open("wb") as file:
        writer = TableWriter(file, target.name, schema, metadata or {})
        try:
            yield writer
            writer.close()
        except BaseException:
            writer.discard()
            raise


def write_table(
    table: pa.Table,
    target: Place,
    schema: pa.Schema,
    metadata: Mapping[str, str] | None = None,
    staging: Place | None = None,
    exclusive: bool = False,
) -> Place:
    """Write `table` to `target` as one Parquet file (zstd) of exactly `schema`, atomically; see `atomic_path`.

    Args:
        table: its columns in any order; a missing, unknown or wrongly typed one is a ValueError.
        target: the file.
        schema: of the file.
        metadata: texts kept in the file beside the schema version.
        staging, exclusive: as in `atomic_path`.

    Returns:
        `target`.

    Raises:
        ValueError: the table has other columns.
        SpaceError: there is no space left.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.parquet"
    >>> write_table(pa.table({"n": [1, 2]}), target, pa.schema([("n", pa.int64())])).name
    'a.parquet'
    """
    with table_writer(target, schema, metadata, staging, exclusive) as writer:
        writer.write(table)
    return target


def write_scores(
    table: pa.Table, target: Place, metadata: Mapping[str, str] | None = None, staging: Place | None = None
) -> Place:
    """Publish the score rows of one batch at `target`, atomically; the columns are ``SCORES_SCHEMA``.

    Args:
        table: a row for each file.
        target: the file.
        metadata: texts kept in the file beside the schema version.
        staging: as in `atomic_path`.

    Returns:
        `target`.

    >>> import tempfile
    >>> empty = dict.fromkeys(SCORES_SCHEMA.names)
    >>> table = pa.Table.from_pylist([empty | {"relative_path": "a.png", "verdict": "normal"}], SCORES_SCHEMA)
    >>> read_scores(write_scores(table, Path(tempfile.mkdtemp()) / "scores.parquet"))["verdict"].to_pylist()
    ['normal']
    """
    return write_table(table, target, SCORES_SCHEMA, metadata, staging)


def read_table(source: Place, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a Parquet file of this or an older schema version, as rows of this version.

    Args:
        source: the file.
        columns: names of the columns to read; by default all.

    Raises:
        MissingError: it does not exist.
        InputError: it is broken, damaged, or of an unknown schema version.

    >>> import tempfile
    >>> source = Path(tempfile.mkdtemp()) / "a.parquet"
    >>> _ = write_table(pa.table({"n": [1, 2]}), source, pa.schema([("n", pa.int64())]))
    >>> read_table(source).to_pydict()
    {'n': [1, 2]}
    """
    try:
        with opened(source) as file:
            return _read(file, range(file.num_row_groups), columns)
    except OSError as error:
        if not was_replaced(error):
            raise
    # What the store gives in one answer is of one version of the object.
    with opened(source, whole=True) as file:
        return _read(file, range(file.num_row_groups), columns)


def read_rows(source: Place, start: int, size: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows `start` to `start` + `size` of a file, read without the others; else as `read_table`.

    Args:
        source: the file.
        columns: names of the columns to read; by default all.

    >>> import tempfile
    >>> source = Path(tempfile.mkdtemp()) / "a.parquet"
    >>> _ = write_table(pa.table({"n": range(5)}), source, pa.schema([("n", pa.int64())]))
    >>> read_rows(source, 3, 9)["n"].to_pylist()
    [3, 4]
    """
    with opened(source) as file:
        groups: list[int] = []
        first = end = 0
        for group in range(file.num_row_groups):
            begin, end = end, end + file.metadata.row_group(group).num_rows
            if begin < start + size and start < end:
                first = first if groups else begin
                groups.append(group)
        return _read(file, groups, columns).slice(start - first, size)


def iter_rows(source: Place, size: int, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """All rows of a file in order, `size` at a time, the last ones fewer; else as `read_table`.

    Args:
        source: the file.
        columns: names of the columns to read; by default all.

    >>> import tempfile
    >>> source = Path(tempfile.mkdtemp()) / "a.parquet"
    >>> _ = write_table(pa.table({"n": range(5)}), source, pa.schema([("n", pa.int64())]))
    >>> [rows["n"].to_pylist() for rows in iter_rows(source, 2)]
    [[0, 1], [2, 3], [4]]
    """
    with opened(source) as file:
        rows = _read(file, [], columns)
        for group in range(file.num_row_groups):
            rows = pa.concat_tables([rows, _read(file, [group], columns)])
            whole = rows.num_rows - rows.num_rows % size
            yield from (rows.slice(start, size) for start in range(0, whole, size))
            rows = rows.slice(whole)
        if rows.num_rows:
            yield rows


def read_metadata(source: Place) -> dict[str, str]:
    """The metadata of the file at `source`, including its schema version; else as `read_table`.

    >>> import tempfile
    >>> source = Path(tempfile.mkdtemp()) / "a.parquet"
    >>> _ = write_table(pa.table({"n": [1]}), source, pa.schema([("n", pa.int64())]), {"made_by": "me"})
    >>> read_metadata(source)["made_by"]
    'me'
    """
    with opened(source) as file:
        return _texts(file)


@contextmanager
def opened(source: Place, whole: bool = False) -> Iterator[pq.ParquetFile]:
    """An open Parquet file of nelbo, of a version that can be read; errors as in `read_table`."""
    try:
        with open_parquet(source, whole) as file:
            found = _texts(file).get("nelbo.schema_version", "none")
            if found not in _READABLE:
                is_newer = re.fullmatch(r"[0-9]{1,9}", found) is not None and int(found) > SCHEMA_VERSION
                raise (VersionError if is_newer else InputError)(
                    f"{source} has schema version {found}, this nelbo reads 1 to {SCHEMA_VERSION}. "
                    "Read it with the version that wrote it."
                )
            if int(found) == SCHEMA_VERSION:
                check_types(file.schema_arrow)
            yield file
    except FileNotFoundError as error:
        raise MissingError(f"{source} does not exist.") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        # An error with a number comes from the system, and not from the file's contents.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{source} is not a readable Parquet file ({error}). Make it again.") from error


def _texts(file: pq.ParquetFile) -> dict[str, str]:
    return {key.decode(): text.decode() for key, text in (file.schema_arrow.metadata or {}).items()}


def _read(file: pq.ParquetFile, groups: Sequence[int], columns: Sequence[str] | None) -> pa.Table:
    version = int(_texts(file)["nelbo.schema_version"])
    if version == SCHEMA_VERSION:
        return file.read_row_groups(list(groups), columns)
    table = upgrade(file.read_row_groups(list(groups)), version)
    return table if columns is None else table.select(columns)


def read_scores(source: Place | str) -> pa.Table:
    """The score rows of one published file, or of all batches below a folder or URL.

    Rows from a folder have two more columns, ``model_id`` and ``batch_id``, taken from its partitions.

    Args:
        source: a file, or a folder such as ``workspace/scores``.

    Raises:
        InputError: it is broken, damaged, or of an unknown schema version.
        MissingError: it does not exist.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> row = dict.fromkeys(SCORES_SCHEMA.names) | {"relative_path": "a.png", "verdict": "normal"}
    >>> table = pa.Table.from_pylist([row], SCORES_SCHEMA)
    >>> _ = write_scores(table, folder / "model_id=m1" / "batch_id=b1" / "scores.parquet")
    >>> read_scores(folder).select(["relative_path", "verdict", "batch_id"]).to_pylist()
    [{'relative_path': 'a.png', 'verdict': 'normal', 'batch_id': 'b1'}]
    """
    source = open_place(source) if isinstance(source, str) else source
    if not source.is_dir():
        return read_table(source)
    ids = pa.schema([("model_id", pa.string()), ("batch_id", pa.string())])
    # The schema is given, not inferred: the first file may be of an older version, with fewer columns.
    schema = pa.unify_schemas([SCORES_SCHEMA, ids])
    partitions = ds.partitioning(ids, flavor="hive")
    filesystem = None if isinstance(source, Path) else source.fs
    path = source if isinstance(source, Path) else source.path
    return read_unchanged(
        lambda: ds.dataset(path, schema, "parquet", filesystem=filesystem, partitioning=partitions).to_table()
    )
