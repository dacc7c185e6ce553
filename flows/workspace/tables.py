"""Tables of rows: replaced columns, chosen images; and the rows of runs and reviews, which lie in many small files."""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import REVIEWS_SCHEMA, RUNS_SCHEMA, InputError, MissingError, Place, first_rows, read_table

log = logging.getLogger(__name__)

#: The file of one run, as `new_run_id` names it; the group is its month.
RUN_FILE = re.compile(r"r(\d{6})\d{2}T\d{6}-[0-9a-f]{8}\.parquet")

MONTH_FILE = re.compile(r"month-(\d{4}-\d{2})-[0-9a-f]{16}\.parquet")

#: Beginning of the names of files with joined decisions; every other file in ``reviews/`` holds one decision.
JOINED_REVIEWS = "all-"


class Kind(NamedTuple):
    """Rows that lie in many files of one folder: their columns, their key, and the column that orders them."""

    schema: pa.Schema
    key: str
    time: str


#: Folder -> kind of its rows.
KINDS = {
    "runs": Kind(RUNS_SCHEMA, "run_id", "started_at_utc"),
    "reviews": Kind(REVIEWS_SCHEMA, "review_id", "reviewed_at_utc"),
}


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    """The table with other values in a column, which keeps its place and type; NaN becomes null."""
    place = table.schema.get_field_index(name)
    field = table.schema.field(place)
    is_arrow = isinstance(values, pa.Array | pa.ChunkedArray)
    return table.set_column(place, field, values if is_arrow else pa.array(values, field.type, from_pandas=True))


def spread(columns: Mapping[str, Any], places: np.ndarray) -> dict[str, Any]:
    """Columns with their values, in order, where `places` is True, and nulls elsewhere."""
    rows = pa.array(np.cumsum(places) - 1, mask=~places)
    return {name: column.take(rows) for name, column in columns.items()}


def only(table: pa.Table, images: pa.Table) -> pa.Table:
    """The rows of those images that are also in another table."""
    return table.filter(pc.is_in(table["image_id"], images["image_id"].combine_chunks()))


def without(table: pa.Table, images: pa.Table) -> pa.Table:
    """The rows of those images that are not in another table."""
    return table.filter(pc.invert(pc.is_in(table["image_id"], images["image_id"].combine_chunks())))


def read_rows_of(place: Place, kind: Kind) -> pa.Table | None:
    """The rows of a file; None, with a warning, if it cannot be read, because it must not hide the others.

    Raises:
        MissingError: the file is gone.
    """
    try:
        return read_table(place).select(kind.schema.names).cast(kind.schema)
    except MissingError:
        raise
    except (InputError, KeyError, pa.ArrowException) as error:
        log.warning("%s is left as it is: %s", place, error)
        return None


def distinct(tables: Iterable[pa.Table], kind: Kind) -> pa.Table:
    """All rows in order of time, without repetitions, which a compaction leaves while it runs or after a kill."""
    rows = pa.concat_tables([kind.schema.empty_table(), *tables]).replace_schema_metadata(None)
    rows = rows.sort_by([(kind.time, "ascending"), (kind.key, "ascending")])
    return rows.take(pa.array(first_rows(rows[kind.key].to_pylist()).values(), pa.int64()))
