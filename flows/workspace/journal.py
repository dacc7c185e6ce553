"""The journal of batches about to be published, from which the next command finishes what a kill has left.

An entry holds the row of a run. It is written before the run's scores take their place, which is the commit, and is
removed when the batch has its page: after a kill at any step, either nothing is published or the row is known.
"""

import json
import logging
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from nelbo.data import write_json
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.errors import bad_input, store_errors
from nelbo.flows.workspace.flagged import keep_beside, published_run
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import record_row

log = logging.getLogger(__name__)


def note(workspace: Workspace, row: dict[str, Any]) -> None:
    """Write down the row of a run that is about to publish its batch; the caller holds the workspace's lock."""
    content = {**row, "started_at_utc": row["started_at_utc"].isoformat()}
    write_json(content, workspace.place("journal", run_id=row["run_id"]), workspace.staging)


def finish(workspace: Workspace, row: dict[str, Any]) -> bool:
    """Do what comes after the commit of a run's batch, as far as it is not done; under the same lock.

    Returns:
        Whether this run is the published one. If not, it is not recorded, and has left nothing behind.
    """
    run_id = published_run(workspace, row["model_id"], row["batch_id"])
    if run_id is not None:
        keep_beside(workspace, row["model_id"], row["batch_id"])
    if run_id == row["run_id"] and not _is_recorded(workspace, row["run_id"]):
        record_row(workspace, row)
    return bool(run_id == row["run_id"])


def close(workspace: Workspace, run_id: str) -> None:
    """Remove the entry of a run for which nothing is left to do."""
    with suppress(FileNotFoundError):
        workspace.place("journal", run_id=run_id).unlink()


def opened(place: str) -> Workspace:
    """The workspace at a path or URL, after finishing what killed commands have left in it."""
    workspace = Workspace.at(place)
    settle(workspace)
    return workspace


def settle(workspace: Workspace) -> None:
    """Finish runs that were killed around their commit. Without entries, as nearly always, this is one listing."""
    if not catalog.places(workspace, "journal"):
        return
    try:
        with workspace.lock():
            # Under the lock, no other run is between its entry and its row.
            for row in _rows(workspace):
                # In a store, which has no locks, the run may be at work, and keeps its entry.
                if not finish(workspace, row) and isinstance(workspace.root, Path):
                    close(workspace, row["run_id"])
    except (*store_errors(), *bad_input()) as error:
        # A workspace that is not writable can still be read.
        log.warning("what a killed run has left in %s cannot be finished yet: %s", workspace.root, error)


def published(workspace: Workspace) -> list[dict[str, Any]]:
    """The rows of runs that are published and not known to have written their pages."""
    return [
        row for row in _rows(workspace) if published_run(workspace, row["model_id"], row["batch_id"]) == row["run_id"]
    ]


def _rows(workspace: Workspace) -> list[dict[str, Any]]:
    rows = []
    for place in catalog.places(workspace, "journal"):
        # A run may close its entry meanwhile.
        with suppress(FileNotFoundError):
            row = json.loads(place.read_text(encoding="utf-8"))
            rows.append({**row, "started_at_utc": datetime.fromisoformat(row["started_at_utc"])})
    return rows


def _is_recorded(workspace: Workspace, run_id: str) -> bool:
    """Whether the row stands in its own file or in its month's; looks in the order in which `compact` moves rows."""
    if (workspace.runs / f"{run_id}.parquet").exists():
        return True
    month = catalog.all_rows(workspace, "runs", f"month-{run_id[1:5]}-{run_id[5:7]}-")
    return run_id in month["run_id"].to_pylist()
