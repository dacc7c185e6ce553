"""What is about to be published, written down first, so that the next command finishes what a kill has left.

An entry holds the row of a run. It is written before the run's scores take their place, which is the commit, and goes
when the batch has its page: killed at any step, either nothing is published, or the row is known.
"""

import json
import logging
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from data import Place, write_json
from flows.compaction import KINDS, list_files, read_rows_of
from flows.errors import bad_input, store_errors
from flows.flagged import keep_flagged, published_run
from flows.run import record_row
from flows.workspace import Workspace

log = logging.getLogger(__name__)

_NAME = "journal.{}.json"


def note(workspace: Workspace, row: dict[str, Any]) -> None:
    """Write down the row of a run that is about to publish its batch; by whoever holds the workspace's lock."""
    content = {**row, "started_at_utc": row["started_at_utc"].isoformat()}
    write_json(content, _place(workspace, row["run_id"]), workspace.staging)


def finish(workspace: Workspace, row: dict[str, Any]) -> None:
    """All that belongs to the commit of a batch and comes after it, as often as is necessary; under the same lock."""
    keep_flagged(workspace, row["model_id"], row["batch_id"])
    if not _is_recorded(workspace, row["run_id"]):
        record_row(workspace, row)


def close(workspace: Workspace, run_id: str) -> None:
    """Nothing is left to do for a run."""
    _remove(_place(workspace, run_id))


def settle(workspace: Workspace) -> None:
    """Finish what was published and then killed. Without entries, as nearly always, this is one listing."""
    if not _entries(workspace):
        return
    try:
        with workspace.lock():
            # Nobody else is between an entry and its row now.
            for row in published(workspace):
                finish(workspace, row)
    except (*store_errors(), *bad_input()) as error:
        # A workspace that cannot be written to can be read.
        log.warning("what a killed run has left in %s cannot be finished yet: %s", workspace.root, error)


def published(workspace: Workspace) -> list[dict[str, Any]]:
    """The rows of runs that have an entry, and whose scores are those that are published."""
    rows = []
    for place in _entries(workspace):
        row = _read(place)
        if row is None:
            continue
        if published_run(workspace, row["model_id"], row["batch_id"]) == row["run_id"]:
            rows.append(row)
        elif isinstance(place, Path):
            # Killed before its commit, or scored anew since. A store has no lock that would tell: it may be at work.
            _remove(place)
    return rows


def _place(workspace: Workspace, run_id: str) -> Place:
    return workspace.staging / _NAME.format(run_id)


def _remove(place: Place) -> None:
    with suppress(FileNotFoundError):
        place.unlink()


def _entries(workspace: Workspace) -> list[Place]:
    return list_files(workspace.staging, _NAME.format("*"))


def _read(place: Place) -> dict[str, Any] | None:
    try:
        row = json.loads(place.read_text(encoding="utf-8"))
        return {**row, "started_at_utc": datetime.fromisoformat(row["started_at_utc"])}
    except FileNotFoundError:
        # Its run has just closed it.
        return None


def _is_recorded(workspace: Workspace, run_id: str) -> bool:
    """Whether the row stands in its own file or in one of its month; asked in the order in which `compact` moves it."""
    if (workspace.runs / f"{run_id}.parquet").exists():
        return True
    months = list_files(workspace.runs, f"month-{run_id[1:5]}-{run_id[5:7]}-*.parquet")
    tables = (read_rows_of(place, KINDS["runs"]) for place in months)
    return any(table is not None and run_id in table["run_id"].to_pylist() for table in tables)
