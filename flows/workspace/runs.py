"""The run of a command, and the row that it leaves behind."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pyarrow as pa
from pydantic import BaseModel

from nelbo.data import RUNS_SCHEMA, write_table
from nelbo.flows.workspace.layout import Workspace, new_run_id


@dataclass(frozen=True)
class Run:
    """Which command ran when, and with which options; `record` writes the row.

    facts: columns of the row that are already known.
    """

    command: str
    options: BaseModel
    run_id: str = field(default_factory=new_run_id)
    started_at_utc: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.perf_counter)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.started

    @property
    def metadata(self) -> dict[str, str]:
        """The origin of a Parquet file of this run, for its metadata."""
        return _metadata(self.row())

    def row(self, **facts: Any) -> dict[str, Any]:
        """The run's row in ``runs``; facts are columns of ``RUNS_SCHEMA``."""
        return dict.fromkeys(RUNS_SCHEMA.names) | {
            "run_id": self.run_id,
            "command": self.command,
            "started_at_utc": self.started_at_utc,
            "seconds": self.seconds,
            "code_version": code_version(),
            "config_hash": hashlib.sha256(self.options.model_dump_json().encode()).hexdigest(),
            **self.facts,
            **facts,
        }

    def record(self, workspace: Workspace, **facts: Any) -> None:
        """Publish the run's row."""
        record_row(workspace, self.row(**facts))


def record_row(workspace: Workspace, row: dict[str, Any]) -> None:
    """Publish the row of a run; writing it again replaces the same file, so that a run never has two."""
    place = workspace.runs / f"{row['run_id']}.parquet"
    write_table(pa.Table.from_pylist([row], RUNS_SCHEMA), place, RUNS_SCHEMA, _metadata(row), workspace.staging)


def _metadata(row: Mapping[str, Any]) -> dict[str, str]:
    return {f"nelbo.{name}": row[name] for name in ("run_id", "code_version", "config_hash")}


def code_version() -> str:
    """The installed version of nelbo."""
    return version("nelbo")
