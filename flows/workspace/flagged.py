"""Rows with pictures, flagged, nearly flagged or of the audit sample, as rows of the run whose scores are published.

A batch that is published again replaces its files one after the other. So that a reader finds all flagged rows of the
published run at whatever instant, each row carries its run, and for that moment the file of flagged rows holds those of
both runs; so do the other two.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import FLAGGED_SCHEMA, MissingError, Place, iter_rows, read_metadata, read_table, table_writer
from nelbo.flows.workspace.layout import Workspace

#: The same in SQL, of the tables ``scores`` and ``flagged``. Where a batch is published between the looks at the two,
#: the rows are those of its scores, and only maps and thumbnails are missing.
MATCHING = """
SELECT scores.*, map, map_low, map_high, thumbnail, heatmap_png
FROM scores
LEFT JOIN (
    SELECT model_id, batch_id, run_id, relative_path, map, map_low, map_high, thumbnail, heatmap_png FROM flagged
)
USING (model_id, batch_id, run_id, relative_path)
WHERE verdict IN ('anomalous', 'review')
"""

#: The same of the audit sample, or of what was nearly flagged: of the tables ``scores`` and that of the name.
KEPT = """
SELECT scores.*, map, map_low, map_high, thumbnail, heatmap_png
FROM scores
JOIN (
    SELECT model_id, batch_id, run_id, relative_path, map, map_low, map_high, thumbnail, heatmap_png FROM {name}
)
USING (model_id, batch_id, run_id, relative_path)
"""

#: What has rows with pictures, in the order in which it is published.
PICTURED = ("flagged", "audit", "near")

#: Rows, with a map and a thumbnail each, that are in memory at a time.
_ROWS = 1024


def published_run(workspace: Workspace, model_id: str, batch_id: str) -> str | None:
    """The run whose scores are published; None where there are none."""
    try:
        return read_metadata(workspace.scores(model_id, batch_id))["nelbo.run_id"]
    except MissingError:
        return None


def iter_flagged(workspace: Workspace, model_id: str, batch_id: str) -> Iterator[pa.Table]:
    """The flagged rows of the published run, some at a time.

    Raises:
        MissingError: the batch is not published.
    """
    yield from _iter_published(workspace, "flagged", model_id, batch_id)


def read_audit(workspace: Workspace, model_id: str, batch_id: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The audit sample of the published run, in the order of the draw: all columns of scores, a map and a thumbnail.

    It is empty where none was drawn: with ``audit=0``, without a calibration, and before version 8.

    Args:
        columns: those to read; by default all of them, which are some kB an image.
    """
    return _read_published(workspace, "audit", model_id, batch_id, FLAGGED_SCHEMA.names if columns is None else columns)


def read_near(workspace: Workspace, model_id: str, batch_id: str) -> pa.Table:
    """The rows of the published run with the highest scores that are not flagged, in that order, with the same columns.

    It is empty without a calibration, and before version 8.
    """
    return _read_published(workspace, "near", model_id, batch_id, FLAGGED_SCHEMA.names)


def _read_published(workspace: Workspace, kind: str, model_id: str, batch_id: str, columns: Sequence[str]) -> pa.Table:
    names = list(columns)
    try:
        found = list(_iter_published(workspace, kind, model_id, batch_id, names))
    except MissingError:
        found = []
    return pa.concat_tables([FLAGGED_SCHEMA.empty_table().select(names), *found])


def _iter_published(
    workspace: Workspace, kind: str, model_id: str, batch_id: str, columns: Sequence[str] = FLAGGED_SCHEMA.names
) -> Iterator[pa.Table]:
    run_id = published_run(workspace, model_id, batch_id)
    place = workspace.place(kind, model_id=model_id, batch_id=batch_id)
    for rows in iter_rows(place, _ROWS, [*dict.fromkeys([*columns, "run_id"])]):
        yield rows.filter(pc.equal(rows["run_id"], run_id)).select(columns)


def strangest(flagged: Iterable[pa.Table], n: int) -> tuple[pa.Table, int]:
    """The n rows with the highest scores, in that order, and how many there are; no others are held."""
    highest, n_flagged = FLAGGED_SCHEMA.empty_table(), 0
    for rows in flagged:
        highest = pa.concat_tables([highest, rows]).sort_by([("anomaly_score", "descending")]).slice(0, n)
        n_flagged += rows.num_rows
    return highest, n_flagged


def add_pictured(workspace: Workspace, model_id: str, batch_id: str, new: Mapping[str, Place]) -> None:
    """Put the rows of a run that is about to be published beside those of the published one.

    Args:
        new: a file for each kind of `PICTURED`.
    """
    is_published = published_run(workspace, model_id, batch_id) is not None
    for kind in PICTURED:
        place = workspace.place(kind, model_id=model_id, batch_id=batch_id)
        has_old = is_published and place.exists()
        old = _iter_published(workspace, kind, model_id, batch_id) if has_old else ()
        _write(workspace, place, [old, iter_rows(new[kind], _ROWS)], read_metadata(new[kind]))


def keep_pictured(workspace: Workspace, model_id: str, batch_id: str) -> None:
    """Leave no rows but those of the published run."""
    run_id = published_run(workspace, model_id, batch_id)
    for kind in PICTURED:
        place = workspace.place(kind, model_id=model_id, batch_id=batch_id)
        # What an earlier version published has flagged rows alone.
        if place.exists() and read_table(place, ["run_id"]).filter(pc.field("run_id") != run_id).num_rows:
            _write(workspace, place, [_iter_published(workspace, kind, model_id, batch_id)], read_metadata(place))


def _write(workspace: Workspace, place: Place, parts: list[Iterable[pa.Table]], said: dict[str, str]) -> None:
    said.pop("nelbo.schema_version")
    with table_writer(place, FLAGGED_SCHEMA, said, workspace.staging) as writer:
        for rows in (rows for part in parts for rows in part):
            writer.write(rows)
