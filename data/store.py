"""Files that appear whole or not at all: Parquet and JSON, written aside and moved into place."""

import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from data.errors import InputError
from data.places import Place, open_place, read_parquet, read_unchanged, upload
from data.schemas import SCHEMA_VERSION, SCORES_SCHEMA

ROW_GROUP_ROWS = 65_536


@contextmanager
def atomic_path(target: Place, staging: Place | None = None) -> Iterator[Path]:
    """A local path to write to that becomes `target` when the block ends well, and vanishes when it does not.

    Args:
        target: the file to make or replace; its folder is made. An object is uploaded when the block ends.
        staging: a folder on the same file system for the unfinished file; by default the target's own.
    """
    if not isinstance(target, Path):
        with tempfile.TemporaryDirectory(prefix="nelbo-") as aside:
            unfinished = Path(aside) / target.name
            yield unfinished
            upload(unfinished, target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = staging if isinstance(staging, Path) else target.parent
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(target)
        _sync_folder(target.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself last through a power cut (a folder is a file of names)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(content: Mapping[str, Any], target: Place, staging: Place | None = None) -> None:
    """Write `content` to `target` as sorted, indented JSON, atomically."""
    with atomic_path(target, staging) as unfinished:
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        unfinished.write_text(text + "\n", encoding="utf-8")


def write_table(
    table: pa.Table,
    target: Place,
    schema: pa.Schema,
    metadata: Mapping[str, str] | None = None,
    staging: Place | None = None,
) -> Place:
    """Write `table` to `target` as one Parquet file (zstd) of exactly `schema`, atomically.

    Args:
        table: its columns in any order; a missing, further or ill-typed one is a ValueError.
        metadata: texts kept in the file beside the schema version.
    """
    if set(table.column_names) != set(schema.names):
        missing = sorted(set(schema.names) - set(table.column_names))
        unknown = sorted(set(table.column_names) - set(schema.names))
        raise ValueError(f"{target.name}: columns do not fit the schema; missing {missing}, unknown {unknown}")
    table = table.select(schema.names).cast(schema)
    texts = {"nelbo.schema_version": str(SCHEMA_VERSION), **(metadata or {})}
    table = table.replace_schema_metadata(texts)
    with atomic_path(target, staging) as unfinished:
        pq.write_table(table, unfinished, compression="zstd", row_group_size=ROW_GROUP_ROWS)
    return target


def write_scores(
    table: pa.Table, target: Place, metadata: Mapping[str, str] | None = None, staging: Place | None = None
) -> Place:
    """Publish the score rows of one batch at `target`, atomically; the columns are ``SCORES_SCHEMA``.

    >>> import tempfile
    >>> empty = dict.fromkeys(SCORES_SCHEMA.names)
    >>> table = pa.Table.from_pylist([empty | {"relative_path": "a.png", "verdict": "normal"}], SCORES_SCHEMA)
    >>> read_scores(write_scores(table, Path(tempfile.mkdtemp()) / "scores.parquet"))["verdict"].to_pylist()
    ['normal']
    """
    return write_table(table, target, SCORES_SCHEMA, metadata, staging)


def read_table(source: Place, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one Parquet file, refusing one that is missing, broken or of an unknown schema version."""
    try:
        table = read_parquet(source, columns)
    except FileNotFoundError as error:
        raise InputError(f"{source} does not exist.") from error
    except pa.ArrowException as error:
        raise InputError(f"{source} is not a readable Parquet file ({error}). Make it again.") from error
    found = (table.schema.metadata or {}).get(b"nelbo.schema_version", b"none").decode()
    if found != str(SCHEMA_VERSION):
        raise InputError(
            f"{source} has schema version {found}, this nelbo reads {SCHEMA_VERSION}. "
            "Read it with the version that wrote it."
        )
    return table


def read_scores(source: Place | str) -> pa.Table:
    """Score rows of one published file, or of all batches below a folder or URL (``workspace/scores``).

    A folder's rows carry two columns more, ``model_id`` and ``batch_id``, taken from its partitions.
    """
    source = open_place(source) if isinstance(source, str) else source
    if not source.is_dir():
        return read_table(source)
    partitions = ds.partitioning(pa.schema([("model_id", pa.string()), ("batch_id", pa.string())]), flavor="hive")
    filesystem = None if isinstance(source, Path) else source.fs
    path = source if isinstance(source, Path) else source.path
    return read_unchanged(
        lambda: ds.dataset(path, filesystem=filesystem, format="parquet", partitioning=partitions).to_table()
    )
