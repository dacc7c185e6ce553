"""A batch that is still being filled: its rows lie on this machine's disk until it is published as a whole."""

import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from nelbo.data import (
    MANIFEST_SCHEMA,
    SHARD_SCHEMA,
    InputError,
    MissingError,
    read_table,
    remove_folder,
    write_json,
    write_table,
)
from nelbo.flows.inference.publishing import publish
from nelbo.flows.inference.shards import Target, plan_shards
from nelbo.flows.options.options import ScoreOptions
from nelbo.flows.runner import Runner
from nelbo.flows.steps.land import Ledger, finish_batch, take_rows
from nelbo.flows.steps.score import conclude
from nelbo.flows.watching.scoring import Scoring
from nelbo.flows.workspace.errors import bad_input, store_errors
from nelbo.flows.workspace.layout import KEPT_ABOUT
from nelbo.flows.workspace.runs import Run

log = logging.getLogger(__name__)

#: Rows of files that were scored together, as in a manifest and as in a shard.
_ROWS = pa.schema([("listed", pa.struct(list(MANIFEST_SCHEMA))), ("scored", pa.struct(list(SHARD_SCHEMA)))])


@dataclass
class OpenBatch:
    """Rows of files that landed, each path once, with what scored them.

    folder: holds numbered files of rows, and a description; exists as soon as there are rows.
    options: with the name of the loaded engine, and the batch's id.
    is_left: whether an earlier process has left it; other commands may have taken files of the folder since.
    opened_s: when it got its first rows, in seconds since 1970.
    busy_s: seconds that this process has spent on scoring it.
    """

    folder: Path
    options: ScoreOptions
    model_id: str
    calibration_id: str | None
    is_left: bool = False
    opened_s: float = 0.0
    busy_s: float = 0.0
    listed: list[pa.Table] = field(default_factory=list)
    scored: list[pa.Table] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)

    @classmethod
    def begin(cls, ledger: Ledger, scoring: Scoring) -> "OpenBatch":
        """An empty batch; nothing is written yet."""
        batch_id = f"w{uuid.uuid4().hex[:16]}"
        folder = ledger.workspace.kept_rows(ledger.path.stem, batch_id)
        options = scoring.options.model_copy(update={"batch_id": batch_id})
        return cls(folder, options, scoring.model_id, scoring.calibration_id)

    @classmethod
    def read(cls, ledger: Ledger, options: ScoreOptions, batch_id: str) -> "OpenBatch | None":
        """A batch that an earlier process has left; None if it had no rows yet.

        Args:
            options: say where the folder and the workspace are; all else is as it was when the rows were made.

        Raises:
            InputError: its files are damaged.
        """
        folder = ledger.workspace.kept_rows(ledger.path.stem, batch_id)
        here = {"images": options.images, "workspace": options.workspace}
        try:
            about = json.loads((folder / KEPT_ABOUT).read_text(encoding="utf-8"))
            options = ScoreOptions(**{**about["options"], **here})
            batch = cls(folder, options, about["model_id"], about["calibration_id"], True, about["opened_s"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder / KEPT_ABOUT} cannot be read ({error}).") from error
        try:
            while True:
                rows = read_table(batch._next_file)
                batch._note(*(pa.Table.from_struct_array(rows[name]) for name in _ROWS.names))
        except MissingError:
            return batch if len(batch) else None

    @property
    def batch_id(self) -> str:
        """Its id, which it keeps when it is published."""
        return str(self.options.batch_id)

    def __len__(self) -> int:
        return len(self.paths)

    def goes_on_with(self, scoring: Scoring) -> bool:
        """Whether further rows would be made with the same model, calibration and settings."""
        same = self.options.model_copy(update={"batch_id": None}) == scoring.options
        return same and (self.model_id, self.calibration_id) == (scoring.model_id, scoring.calibration_id)

    def is_over(self, images: int, minutes: float, now_s: float) -> bool:
        """Whether it has so many files, or its first one came so many minutes ago."""
        return len(self) >= images or (len(self) > 0 and now_s - self.opened_s >= 60 * minutes)

    def add(self, listed: pa.Table, scored: pa.Table) -> None:
        """Add rows of further files; they are on the disk when this returns."""
        if not self.paths:
            self.opened_s = time.time()
            ids = {"model_id": self.model_id, "calibration_id": self.calibration_id}
            options = self.options.model_dump(mode="json")
            write_json({**ids, "opened_s": self.opened_s, "options": options}, self.folder / KEPT_ABOUT)
        listed, scored = (table.select(kind.names).cast(kind) for table, kind in _kinds(listed, scored))
        rows = pa.table([table.to_struct_array() for table in (listed, scored)], schema=_ROWS)
        write_table(rows, self._next_file, _ROWS)
        self._note(listed, scored)

    def keep(self, stay: Callable[[pa.Table], pa.Array]) -> None:
        """Leave out rows that have been published in another batch.

        Args:
            stay: says which rows of a manifest stay.
        """
        for number, rows in enumerate(self.listed):
            stays = stay(rows)
            self.listed[number], self.scored[number] = rows.filter(stays), self.scored[number].filter(stays)
        self.paths = {path for rows in self.listed for path in rows["relative_path"].to_pylist()}

    def close(self, ledger: Ledger, is_there: Callable[[str], bool], runner: Runner) -> dict[str, Any]:
        """Enter it in the ledger and publish it, without decoding or computing again; returns what ``score`` returns.

        After a kill at any point, it can be closed again.

        Args:
            is_there: whether a file is in the folder now, by its path.
        """
        run = Run("watch", self.options)
        target = Target(self.batch_id, self.model_id, self.calibration_id, run.run_id)
        listed, scored = (pa.concat_tables(tables).sort_by("relative_path") for tables in (self.listed, self.scored))
        workspace = ledger.workspace
        with workspace.using(self.batch_id):
            take_rows(ledger, listed, self.batch_id, run, is_there, beside=self.is_left)
            shards = plan_shards(self.options, target, len(self))
            for shard in shards:
                write_table(scored.slice(shard.start, shard.size), shard.path, SHARD_SCHEMA)
            speed = len(self) / self.busy_s if self.busy_s else None
            facts = {"n_waiting": 0, "n_folders_unlisted": 0, "images_per_s": speed}
            published = publish(shards, Run(run.command, run.options, run.run_id, facts=facts))
            remove_folder(target.staging(self.options))
        published["images_per_s"] = speed and round(speed, 1)
        try:
            result = conclude(self.options, target, 0, published, runner, run)
        except (*bad_input(), *store_errors()) as error:
            # The next command writes the page: what is published must not be published again for it.
            log.warning("batch %s is published, and its page cannot be written: %s", self.batch_id, error)
            result = {"batch_id": self.batch_id, **published, "report": None}
        finish_batch(self.options, self.batch_id, self.model_id)
        self.drop()
        return result

    def drop(self) -> None:
        """Remove its folder."""
        remove_folder(self.folder)

    @property
    def _next_file(self) -> Path:
        return self.folder / f"{len(self.listed):06d}.parquet"

    def _note(self, listed: pa.Table, scored: pa.Table) -> None:
        self.listed.append(listed)
        self.scored.append(scored)
        self.paths.update(listed["relative_path"].to_pylist())


def _kinds(listed: pa.Table, scored: pa.Table) -> tuple[tuple[pa.Table, pa.Schema], ...]:
    return (listed, MANIFEST_SCHEMA), (scored, SHARD_SCHEMA)
