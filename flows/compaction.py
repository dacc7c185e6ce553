"""Steps and composition of ``compact``: the rows of many small files in one; and how such files are read.

A file is deleted only when each of its rows stands in another one that is complete, so no row is ever missing. Its
name comes from its rows: two that compact at once cannot overwrite or lose what the other one wrote.
"""

import hashlib
import logging
import re
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from data import REVIEWS_SCHEMA, RUNS_SCHEMA, InputError, MissingError, Place, read_table, write_table
from flows.runner import Runner
from flows.settings import CompactOptions
from flows.workspace import Workspace

log = logging.getLogger(__name__)

#: One run, as `new_run_id` names it; the group is its month.
RUN_FILE = re.compile(r"r(\d{6})\d{2}T\d{6}-[0-9a-f]{8}\.parquet")
MONTH_FILE = re.compile(r"month-(\d{4}-\d{2})-[0-9a-f]{16}\.parquet")

#: Decisions that were joined; any other file of ``reviews/`` is named after its one decision.
JOINED_REVIEWS = "all-*.parquet"


class Kind(NamedTuple):
    """Rows that lie in many files of one folder: their columns, what tells them apart, and what orders them."""

    schema: pa.Schema
    key: str
    time: str


#: By folder.
KINDS = {
    "runs": Kind(RUNS_SCHEMA, "run_id", "started_at_utc"),
    "reviews": Kind(REVIEWS_SCHEMA, "review_id", "reviewed_at_utc"),
}


def compact_workspace(options: CompactOptions, runner: Runner) -> dict[str, Any]:
    """Join the rows of each month's runs, and all reviews, into one file each; what the command prints."""
    groups = list_groups(Workspace.at(options.workspace))
    n_rows = {group: runner.call(compact_group, options, group) for group in sorted(groups)}
    return {
        "n_months": sum(group.startswith("runs/") for group in groups),
        "n_files": sum(len(files) for files in groups.values()),
        "n_rows": sum(n_rows.values()),
        "n_reviews": n_rows.get("reviews/all", 0),
    }


def list_groups(workspace: Workspace) -> dict[str, list[Place]]:
    """Folder and beginning of a joined file's name -> the files with its rows, where there is more than one."""
    groups: dict[str, list[Place]] = defaultdict(list)
    for place in list_files(workspace.runs):
        if run := RUN_FILE.fullmatch(place.name):
            groups[f"runs/month-{run[1][:4]}-{run[1][4:]}"].append(place)
        elif month := MONTH_FILE.fullmatch(place.name):
            groups[f"runs/month-{month[1]}"].append(place)
    groups["reviews/all"] = list_files(workspace.reviews)
    return {group: files for group, files in groups.items() if len(files) > 1}


def list_files(folder: Place, pattern: str = "*.parquet") -> list[Place]:
    """The files of a folder by name. Links are none of ours."""
    places: list[Place] = list(folder.glob(pattern))
    return [
        place
        for place in sorted(places, key=str)
        if not (isinstance(place, Path) and (place.is_symlink() or place.parent.is_symlink()))
    ]


def compact_group(options: CompactOptions, group: str) -> int:
    """Join the rows of one group of files; how many there are.

    Between the two steps a row stands in two files, with the same id; it never stands in none.
    """
    workspace = Workspace.at(options.workspace)
    kind = KINDS[group.partition("/")[0]]
    tables = {}
    for place in list_groups(workspace).get(group, []):
        # Another one that compacts was faster.
        with suppress(MissingError):
            if (table := read_rows_of(place, kind)) is not None:
                tables[place] = table
    if len(tables) < 2:
        return 0
    rows = distinct(tables.values(), kind)
    target = workspace.root / f"{group}-{_digest(rows, kind)}.parquet"
    write_table(rows, target, kind.schema, staging=workspace.staging)
    # What a reader gets, not what was meant to be written.
    if not read_table(target).equals(rows):
        raise OSError(f"{target} does not hold what was written to it; nothing is deleted")
    for place in tables:
        if place != target:
            with suppress(FileNotFoundError):
                place.unlink()
    return rows.num_rows


def read_rows_of(place: Place, kind: Kind) -> pa.Table | None:
    """The rows of a file; None, and a warning, for one that cannot be read: it must not hide the others.

    Raises:
        MissingError: it is gone.
    """
    try:
        return read_table(place).select(kind.schema.names).cast(kind.schema)
    except MissingError:
        raise
    except (InputError, KeyError, pa.ArrowException) as error:
        log.warning("%s is left as it is: %s", place, error)
        return None


def distinct(tables: Iterable[pa.Table], kind: Kind) -> pa.Table:
    """All rows in order of time, each once: a compaction that is under way, or was killed, leaves some twice."""
    rows = pa.concat_tables([kind.schema.empty_table(), *tables]).replace_schema_metadata(None)
    rows = rows.sort_by([(kind.time, "ascending"), (kind.key, "ascending")])
    first: dict[str, int] = {}
    for row, key in enumerate(rows[kind.key].to_pylist()):
        first.setdefault(key, row)
    return rows.take(pa.array(first.values(), pa.int64()))


def _digest(rows: pa.Table, kind: Kind) -> str:
    return hashlib.sha256("\n".join(rows[kind.key].to_pylist()).encode()).hexdigest()[:16]
