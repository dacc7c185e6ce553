"""A digest of the rows of a Parquet file, which is the same however they are stored."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data.places import Place
from nelbo.data.store import opened


def rows_digest(rows: pa.Table) -> str:
    """Hex SHA-256 of a table's columns: names, types and values in their order, however the table is cut.

    Args:
        rows: columns of text and of numbers.

    >>> whole = pa.table({"name": ["a", "b"], "score": [0.5, None]})
    >>> rows_digest(pa.concat_tables([whole.slice(0, 1), whole.slice(1)])) == rows_digest(whole)
    True
    """
    digest = hashlib.sha256()
    for field, column in zip(rows.schema, rows.columns, strict=True):
        digest.update(json.dumps([field.name, str(field.type), rows.num_rows]).encode())
        if pa.types.is_string(field.type):
            digest.update(json.dumps(column.to_pylist()).encode())
            continue
        values = pc.fill_null(column, 0).to_numpy()
        # Little-endian, like most machines.
        digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
        digest.update(np.asarray(pc.is_null(column)).tobytes())
    return digest.hexdigest()


def read_as_written(source: Place) -> tuple[pa.Table, str]:
    """All rows of the file at `source` with the columns that it has; and what wrote it.

    A file of an older version is read as that version wrote it.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from nelbo.data import write_table
    >>> schema = pa.schema([("n", pa.int64())])
    >>> source = write_table(pa.table({"n": [1]}), Path(tempfile.mkdtemp()) / "a.parquet", schema)
    >>> table, wrote = read_as_written(source)
    >>> table.to_pydict(), wrote.split()[0]
    ({'n': [1]}, 'parquet-cpp-arrow')
    """
    with opened(source) as file:
        return file.read().replace_schema_metadata(), file.metadata.created_by
