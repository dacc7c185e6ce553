"""``score --csv FILE``: the scored rows, for spreadsheets and for tools that do not read Parquet."""

import csv
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from nelbo.data import SCORES_SCHEMA, atomic_path, iter_rows
from nelbo.flows.formulas import without_formula
from nelbo.flows.options.options import ScoreOptions
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace

#: Rows in memory at a time.
_ROWS = 4096


def check_target(options: ScoreOptions) -> None:
    """Refuse a file that would lie among images or in the workspace, before anything is scored.

    Raises:
        UsageError: what is wrong with the name, and another way.
    """
    name, said = str(options.csv), f"--csv {options.csv}"
    target = Path(name).resolve()
    if "://" in name or target.suffix.lower() != ".csv":
        raise UsageError(f"{said}: expected a file on this machine whose name ends with .csv, such as scores.csv.")
    if target.exists() and not target.is_file():
        raise UsageError(f"{said} exists and is not a file. Give another name.")
    root = Workspace.at(options.workspace).root
    for what, place in (("images", Path(options.images)), ("workspace", root)):
        if isinstance(place, Path) and (place.resolve() == target or place.resolve() in target.parents):
            raise UsageError(f"{said} lies among the {what} ({place}). Choose a place outside.")
    if not target.parent.is_dir():
        raise UsageError(f"{said}: there is no folder {target.parent}. Create it, or choose another.")


def write_rows(options: ScoreOptions, result: Mapping[str, Any]) -> None:
    """Write the rows of a ``score`` result, as in ``scores.parquet``; the file appears whole or not at all.

    It is UTF-8 with a byte-order mark, without which Excel assumes another encoding. With ``--new``, which may score
    several batches or none, the first column is ``batch_id``. Text that a spreadsheet would evaluate gets an apostrophe
    in front.
    """
    batch_ids = result["batches"] if "batches" in result else [result["batch_id"]]
    names = SCORES_SCHEMA.names
    with (
        atomic_path(Path(str(options.csv)).absolute()) as unfinished,
        unfinished.open("w", encoding="utf-8-sig", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["batch_id", *names] if options.new else names)
        for batch_id in batch_ids:
            beside = [batch_id] if options.new else []
            scores = Workspace.at(options.workspace).scores(result["model_id"], batch_id)
            writer.writerows([*beside, *map(_cell, row.values())] for row in _rows(scores))


def _rows(scores: Any) -> Iterator[dict[str, Any]]:
    for table in iter_rows(scores, _ROWS, SCORES_SCHEMA.names):
        yield from table.select(SCORES_SCHEMA.names).to_pylist()


def _cell(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else without_formula(value)
