"""What is published beside scores: rows with pictures (flagged, nearly flagged, audit sample), and regions.

A batch that is published again replaces its files one after the other. A reader must find all flagged rows of the
published run at any instant: each row names its run, and meanwhile the file of flagged rows holds those of both runs.
The same holds for the other files.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import (
    FLAGGED_SCHEMA,
    REGIONS_SCHEMA,
    SCORES_SCHEMA,
    MissingError,
    Place,
    iter_rows,
    read_metadata,
    read_table,
    table_writer,
)
from nelbo.flows.workspace.layout import Workspace

#: Columns that rows with pictures have beside those of scores.
_PICTURES = ", ".join(name for name in FLAGGED_SCHEMA.names if name not in SCORES_SCHEMA.names)

#: The flagged rows with their pictures, in SQL, from the tables ``scores`` and ``flagged``. If a batch is published
#: between the reads of the two, the rows are those of its scores, and only maps and thumbnails are missing.
MATCHING = f"""
SELECT scores.*, {_PICTURES}
FROM scores
LEFT JOIN (SELECT model_id, batch_id, run_id, relative_path, {_PICTURES} FROM flagged)
USING (model_id, batch_id, run_id, relative_path)
WHERE verdict IN ('anomalous', 'review')
"""  # noqa: S608 - columns of ours

#: The same for the audit sample or nearly flagged rows, from the tables ``scores`` and the named one.
KEPT = f"""
SELECT scores.*, {_PICTURES}
FROM scores
JOIN (SELECT model_id, batch_id, run_id, relative_path, {_PICTURES} FROM {{name}})
USING (model_id, batch_id, run_id, relative_path)
"""  # noqa: S608

#: Kinds whose rows have pictures.
PICTURED = ("flagged", "audit", "near")

#: Kinds that are published with the scores and before them, in this order.
BESIDE = {**dict.fromkeys(PICTURED, FLAGGED_SCHEMA), "regions": REGIONS_SCHEMA}

#: Key in the metadata of a file of regions: why there can be none.
NO_REGIONS = "nelbo.no_regions"

#: Rows in memory at a time, each with a map and a thumbnail.
_ROWS = 1024


def published_run(workspace: Workspace, model_id: str, batch_id: str) -> str | None:
    """The run whose scores are published; None if there are none."""
    try:
        return read_metadata(workspace.scores(model_id, batch_id))["nelbo.run_id"]
    except MissingError:
        return None


def iter_flagged(
    workspace: Workspace, model_id: str, batch_id: str, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """The flagged rows of the published run, some at a time.

    Args:
        columns: those to read; by default all of them, which take some kB per image.

    Raises:
        MissingError: the batch is not published.
    """
    yield from _iter_published(workspace, "flagged", model_id, batch_id, columns)


def read_audit(workspace: Workspace, model_id: str, batch_id: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The audit sample of the published run, in the order of the draw: all columns of scores, a map and a thumbnail.

    It is empty if none was drawn: with ``audit=0``, without a calibration, and before schema version 8.

    Args:
        columns: those to read; by default all of them, which take some kB per image.
    """
    return _read_published(workspace, "audit", model_id, batch_id, FLAGGED_SCHEMA.names if columns is None else columns)


def read_near(workspace: Workspace, model_id: str, batch_id: str) -> pa.Table:
    """The unflagged rows of the published run with the highest scores, in that order, with the same columns.

    It is empty without a calibration, and before schema version 8.
    """
    return _read_published(workspace, "near", model_id, batch_id, FLAGGED_SCHEMA.names)


def read_regions(workspace: Workspace, model_id: str, batch_id: str) -> pa.Table:
    """The regions of the published run's flagged images, those of one image together, the most unusual first.

    It is empty if none exceeds the level, if no level is known (`read_metadata` says why), and before schema version 9.
    """
    return _read_published(workspace, "regions", model_id, batch_id, REGIONS_SCHEMA.names)


def _read_published(workspace: Workspace, kind: str, model_id: str, batch_id: str, columns: Sequence[str]) -> pa.Table:
    names = list(columns)
    try:
        found = list(_iter_published(workspace, kind, model_id, batch_id, names))
    except MissingError:
        found = []
    return pa.concat_tables([BESIDE[kind].empty_table().select(names), *found])


def _iter_published(
    workspace: Workspace, kind: str, model_id: str, batch_id: str, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    columns = BESIDE[kind].names if columns is None else columns
    run_id = published_run(workspace, model_id, batch_id)
    place = workspace.place(kind, model_id=model_id, batch_id=batch_id)
    for rows in iter_rows(place, _ROWS, [*dict.fromkeys([*columns, "run_id"])]):
        yield rows.filter(pc.equal(rows["run_id"], run_id)).select(columns)


def strangest(flagged: Iterable[pa.Table], n: int) -> tuple[pa.Table, int]:
    """The n rows with the highest scores, in that order, and the number of all rows; holds no others in memory."""
    highest, n_flagged = FLAGGED_SCHEMA.empty_table(), 0
    for rows in flagged:
        highest = pa.concat_tables([highest, rows]).sort_by([("anomaly_score", "descending")]).slice(0, n)
        n_flagged += rows.num_rows
    return highest, n_flagged


def add_beside(workspace: Workspace, model_id: str, batch_id: str, new: Mapping[str, Place]) -> None:
    """Put the rows of a run that is about to be published beside those of the published one.

    Args:
        new: a file for each kind of `BESIDE`.
    """
    is_published = published_run(workspace, model_id, batch_id) is not None
    for kind in BESIDE:
        place = workspace.place(kind, model_id=model_id, batch_id=batch_id)
        has_old = is_published and place.exists()
        old = _iter_published(workspace, kind, model_id, batch_id) if has_old else ()
        _write(workspace, kind, place, [old, iter_rows(new[kind], _ROWS)], read_metadata(new[kind]))


def keep_beside(workspace: Workspace, model_id: str, batch_id: str) -> None:
    """Remove all rows but those of the published run."""
    run_id = published_run(workspace, model_id, batch_id)
    for kind in BESIDE:
        place = workspace.place(kind, model_id=model_id, batch_id=batch_id)
        # An earlier version published flagged rows alone.
        if place.exists() and read_table(place, ["run_id"]).filter(pc.field("run_id") != run_id).num_rows:
            _write(workspace, kind, place, [_iter_published(workspace, kind, model_id, batch_id)], read_metadata(place))


def _write(
    workspace: Workspace, kind: str, place: Place, parts: list[Iterable[pa.Table]], said: dict[str, str]
) -> None:
    said.pop("nelbo.schema_version")
    with table_writer(place, BESIDE[kind], said, workspace.staging) as writer:
        for rows in (rows for part in parts for rows in part):
            writer.write(rows)
