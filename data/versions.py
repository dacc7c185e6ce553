"""Files of older schema versions, read as files of this one."""

import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data.schemas import (
    CALIBRATION_SCHEMA,
    FLAGGED_SCHEMA,
    MANIFEST_SCHEMA,
    REGIONS_SCHEMA,
    REVIEWS_SCHEMA,
    RUNS_SCHEMA,
    SCORES_SCHEMA,
)

_KINDS = (
    CALIBRATION_SCHEMA,
    FLAGGED_SCHEMA,
    MANIFEST_SCHEMA,
    REGIONS_SCHEMA,
    REVIEWS_SCHEMA,
    RUNS_SCHEMA,
    SCORES_SCHEMA,
)


def upgrade(table: pa.Table, version: int) -> pa.Table:
    """The rows of a whole file with the columns that its kind has now; columns that it lacks are null.

    Versions have only added columns so far, so a file is of the smallest kind that has all of its columns. A file of
    no kind (a training's history, a shard) is returned as it is.

    Args:
        table: all columns of the file.
        version: of its schema, below ``SCHEMA_VERSION``.

    >>> old = pa.table({"run_id": ["r1"], "command": ["score"], "n_images": pa.array([3], pa.int64())})
    >>> upgrade(old, 2).select(["n_images", "n_waiting"]).to_pylist()
    [{'n_images': 3, 'n_waiting': None}]
    """
    schema = _kind(table.schema)
    if schema is None:
        return table
    if version == 1 and "statistic" in table.column_names:
        # Only the first column held the statistic that was thresholded.
        is_peak = pc.equal(table["statistic"].cast(pa.string()), "peak")
        table = table.append_column("peak", pc.if_else(is_peak, table["anomaly_score"], None).cast(pa.float64()))
    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(schema.names).cast(schema.with_metadata(table.schema.metadata))


def check_types(found: pa.Schema) -> None:
    """Check that a file of this version has the types of its kind; a file of no kind may have any.

    Raises:
        pyarrow.ArrowTypeError: a column has another type.

    >>> check_types(pa.schema([("run_id", pa.string()), ("n_images", pa.string())]))
    Traceback (most recent call last):
        ...
    pyarrow.lib.ArrowTypeError: column n_images is string, expected int64
    """
    kind = _kind(found)
    if kind is None:
        return
    for field in found:
        expected = kind.field(field.name).type
        if field.type != expected:
            raise pa.ArrowTypeError(f"column {field.name} is {field.type}, expected {expected}")


def _kind(found: pa.Schema) -> pa.Schema | None:
    """The smallest kind that has all of these columns."""
    kinds = [schema for schema in _KINDS if set(found.names) <= set(schema.names)]
    return min(kinds, key=len, default=None)
