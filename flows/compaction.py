"""Steps and composition of ``compact``: the rows of a month's runs in one file instead of many.

A file is deleted only when each of its rows stands in another one that is complete, so no row is ever missing. Its
name comes from its rows: two that compact at once cannot overwrite or lose what the other one wrote.
"""

import hashlib
import logging
import re
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from data import RUNS_SCHEMA, InputError, Place, read_table, write_table
from flows.runner import Runner
from flows.settings import CompactOptions
from flows.workspace import Workspace

log = logging.getLogger(__name__)

#: One run, as `new_run_id` names it; the group is its month.
RUN_FILE = re.compile(r"r(\d{6})\d{2}T\d{6}-[0-9a-f]{8}\.parquet")
MONTH_FILE = re.compile(r"month-(\d{4}-\d{2})-[0-9a-f]{16}\.parquet")


def compact_workspace(options: CompactOptions, runner: Runner) -> dict[str, Any]:
    """Join the rows of each month's runs into one file; what the command prints."""
    months = list_months(Workspace.at(options.workspace))
    n_rows = [runner.call(compact_month, options, month) for month in sorted(months)]
    return {
        "n_months": len(months),
        "n_files": sum(len(files) for files in months.values()),
        "n_rows": sum(n_rows),
    }


def list_months(workspace: Workspace) -> dict[str, list[Place]]:
    """Month -> the files with its rows, where there is more than one. Other names and links are none of ours."""
    months: dict[str, list[Place]] = defaultdict(list)
    places: list[Place] = list(workspace.runs.glob("*.parquet"))
    for place in sorted(places, key=str):
        if isinstance(place, Path) and (place.is_symlink() or place.parent.is_symlink()):
            continue
        if run := RUN_FILE.fullmatch(place.name):
            months[f"{run[1][:4]}-{run[1][4:]}"].append(place)
        elif month := MONTH_FILE.fullmatch(place.name):
            months[month[1]].append(place)
    return {month: files for month, files in months.items() if len(files) > 1}


def compact_month(options: CompactOptions, month: str) -> int:
    """Join the rows of one month; how many there are.

    Between the two steps a row stands in two files, with the same ``run_id``; it never stands in none.
    """
    workspace = Workspace.at(options.workspace)
    tables = {place: table for place in list_months(workspace).get(month, []) if (table := _rows(place)) is not None}
    if len(tables) < 2:
        return 0
    rows = _distinct(pa.concat_tables(tables.values()))
    target = workspace.runs / f"month-{month}-{_digest(rows)}.parquet"
    write_table(rows, target, RUNS_SCHEMA, staging=workspace.staging)
    # What a reader gets, not what was meant to be written.
    if not read_table(target).equals(rows):
        raise OSError(f"{target} does not hold what was written to it; nothing is deleted")
    for place in tables:
        if place != target:
            # Another one that compacts was faster.
            with suppress(FileNotFoundError):
                place.unlink()
    return rows.num_rows


def _rows(place: Place) -> pa.Table | None:
    try:
        return read_table(place).select(RUNS_SCHEMA.names).cast(RUNS_SCHEMA)
    except (InputError, KeyError, pa.ArrowException) as error:
        log.warning("%s is left as it is: %s", place, error)
        return None


def _distinct(rows: pa.Table) -> pa.Table:
    """Each run once: a compaction that was killed left some twice."""
    first: dict[str, int] = {}
    for row, run_id in enumerate(rows["run_id"].to_pylist()):
        first.setdefault(run_id, row)
    return rows.take([first[run_id] for run_id in sorted(first)]).replace_schema_metadata(None)


def _digest(rows: pa.Table) -> str:
    return hashlib.sha256("\n".join(rows["run_id"].to_pylist()).encode()).hexdigest()[:16]
