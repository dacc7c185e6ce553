"""Steps and composition of ``compact``: join the rows of many small files in one.

A file is deleted only when each of its rows stands in another complete file: no row is ever missing. The joined file's
name comes from its rows: two commands that compact at once cannot overwrite or lose what the other one wrote.
"""

import hashlib
import logging
from collections import defaultdict
from contextlib import suppress
from typing import Any

from nelbo.data import MissingError, Place, read_table, write_table
from nelbo.flows.options.options import CompactOptions
from nelbo.flows.runner import Runner
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.tables import KINDS, MONTH_FILE, RUN_FILE, distinct, read_rows_of

log = logging.getLogger(__name__)


def compact_workspace(options: CompactOptions, runner: Runner) -> dict[str, Any]:
    """Join the rows of each month's runs, and all reviews, into one file each; returns what the command prints."""
    groups = list_groups(Workspace.at(options.workspace))
    n_rows = {group: runner.call(compact_group, options, group) for group in sorted(groups)}
    return {
        "n_months": sum(group.startswith("runs/") for group in groups),
        "n_files": sum(len(files) for files in groups.values()),
        "n_rows": sum(n_rows.values()),
        "n_reviews": n_rows.get("reviews/all", 0),
    }


def list_groups(workspace: Workspace) -> dict[str, list[Place]]:
    """Folder and beginning of a joined file's name -> the files with its rows, if there is more than one."""
    groups: dict[str, list[Place]] = defaultdict(list)
    for place in catalog.places(workspace, "runs"):
        if run := RUN_FILE.fullmatch(place.name):
            groups[f"runs/month-{run[1][:4]}-{run[1][4:]}"].append(place)
        elif month := MONTH_FILE.fullmatch(place.name):
            groups[f"runs/month-{month[1]}"].append(place)
    groups["reviews/all"] = catalog.places(workspace, "reviews")
    return {group: files for group, files in groups.items() if len(files) > 1}


def compact_group(options: CompactOptions, group: str) -> int:
    """Join the rows of one group of files; returns the number of rows.

    Between the two steps a row stands in two files, with the same id; it never stands in none.
    """
    workspace = Workspace.at(options.workspace)
    kind = KINDS[group.partition("/")[0]]
    tables = {}
    for place in list_groups(workspace).get(group, []):
        # Another command that compacts was faster.
        with suppress(MissingError):
            if (table := read_rows_of(place, kind)) is not None:
                tables[place] = table
    if len(tables) < 2:
        return 0
    rows = distinct(tables.values(), kind)
    digest = hashlib.sha256("\n".join(rows[kind.key].to_pylist()).encode()).hexdigest()[:16]
    target = workspace.root / f"{group}-{digest}.parquet"
    write_table(rows, target, kind.schema, staging=workspace.staging)
    # Compare what a reader gets, not what was meant to be written.
    if not read_table(target).equals(rows):
        raise OSError(f"{target} does not hold what was written to it; nothing is deleted")
    for place in tables:
        if place != target:
            with suppress(FileNotFoundError):
                place.unlink()
    return rows.num_rows
