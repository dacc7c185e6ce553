"""The last evaluation of how well a batch's scores find real defects, kept beside these scores."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from nelbo.data import EVALUATION_SCHEMA, MissingError, read_metadata, read_table, write_table
from nelbo.flows.workspace.flagged import published_run
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run

#: Key in the file's metadata: the run whose scores were judged.
_JUDGED = "nelbo.scores_run_id"


def keep_evaluation(
    workspace: Workspace, model_id: str, batch_id: str, rows: list[dict[str, Any]], run: Run, scores_run_id: str
) -> str:
    """Publish the measures of a batch, and return the place of the file."""
    place = workspace.evaluation(model_id, batch_id)
    said: Mapping[str, str] = {**run.metadata, _JUDGED: scores_run_id}
    write_table(pa.Table.from_pylist(rows, EVALUATION_SCHEMA), place, EVALUATION_SCHEMA, said, workspace.staging)
    return str(place)


def read_evaluation(workspace: Workspace, model_id: str, batch_id: str) -> list[dict[str, Any]]:
    """The measures of a batch; empty if it was not evaluated, or was scored again since."""
    place = workspace.evaluation(model_id, batch_id)
    try:
        if read_metadata(place).get(_JUDGED) != published_run(workspace, model_id, batch_id):
            return []
        rows: list[dict[str, Any]] = read_table(place).to_pylist()
    except MissingError:
        return []
    return rows
