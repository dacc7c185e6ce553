"""Flagged rows, read as rows of the run whose scores are published, at whatever instant.

A batch that is published again replaces two files, one after the other. So that a reader finds all flagged rows of the
published run before, between and after, each row carries its run, and for that moment the file of flagged rows holds
those of both runs.
"""

from collections.abc import Iterable, Iterator

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

#: Rows, with a map and a thumbnail each, that are in memory at a time.
_ROWS = 1024


def published_run(workspace: Workspace, model_id: str, batch_id: str) -> str | None:
    """The run whose scores are published; None where there are none."""
    try:
        return read_metadata(workspace.scores(model_id, batch_id))["nelbo.run_id"]
    except MissingError:
        return None


def iter_flagged(workspace: Workspace, model_id: str, batch_id: str) -> Iterator[pa.Table]:
    """The flagged rows of the published run, some at a time."""
    run_id = published_run(workspace, model_id, batch_id)
    for rows in iter_rows(workspace.flagged(model_id, batch_id), _ROWS):
        yield rows.filter(pc.equal(rows["run_id"], run_id))


def strangest(flagged: Iterable[pa.Table], n: int) -> tuple[pa.Table, int]:
    """The n rows with the highest scores, in that order, and how many there are; no others are held."""
    highest, n_flagged = FLAGGED_SCHEMA.empty_table(), 0
    for rows in flagged:
        highest = pa.concat_tables([highest, rows]).sort_by([("anomaly_score", "descending")]).slice(0, n)
        n_flagged += rows.num_rows
    return highest, n_flagged


def add_flagged(workspace: Workspace, model_id: str, batch_id: str, new: Place) -> None:
    """Put the rows of a run that is about to be published beside those of the published one."""
    old: Iterable[pa.Table] = ()
    if published_run(workspace, model_id, batch_id) is not None:
        old = iter_flagged(workspace, model_id, batch_id)
    _write(workspace, model_id, batch_id, [old, iter_rows(new, _ROWS)], read_metadata(new))


def keep_flagged(workspace: Workspace, model_id: str, batch_id: str) -> None:
    """Leave no rows but those of the published run."""
    place, run_id = workspace.flagged(model_id, batch_id), published_run(workspace, model_id, batch_id)
    if any(found != run_id for found in read_table(place, ["run_id"])["run_id"].unique().to_pylist()):
        _write(workspace, model_id, batch_id, [iter_flagged(workspace, model_id, batch_id)], read_metadata(place))


def _write(
    workspace: Workspace, model_id: str, batch_id: str, parts: list[Iterable[pa.Table]], said: dict[str, str]
) -> None:
    said.pop("nelbo.schema_version")
    place = workspace.flagged(model_id, batch_id)
    with table_writer(place, FLAGGED_SCHEMA, said, workspace.staging) as writer:
        for rows in (rows for part in parts for rows in part):
            writer.write(rows)
