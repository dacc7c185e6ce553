"""One execution and the row that it leaves behind."""

import hashlib
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from data import RUNS_SCHEMA, write_table
from flows.settings import Options
from flows.workspace import Workspace, new_run_id


@dataclass(frozen=True)
class Run:
    """When, what, and with which options; `record` writes the row."""

    command: str
    options: Options
    run_id: str = field(default_factory=new_run_id)
    started_at_utc: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.perf_counter() - self.started

    @property
    def metadata(self) -> dict[str, str]:
        """What every Parquet file of this run says of its origin."""
        return {
            "nelbo.run_id": self.run_id,
            "nelbo.code_version": code_version(),
            "nelbo.config_hash": self.config_hash,
        }

    @property
    def config_hash(self) -> str:
        """Hex SHA-256 of the options."""
        return hashlib.sha256(self.options.model_dump_json().encode()).hexdigest()

    def record(self, workspace: Workspace, **facts: Any) -> None:
        """Publish the run's row; facts are columns of ``RUNS_SCHEMA``."""
        row = dict.fromkeys(RUNS_SCHEMA.names) | {
            "run_id": self.run_id,
            "command": self.command,
            "started_at_utc": self.started_at_utc,
            "seconds": self.seconds,
            "code_version": code_version(),
            "config_hash": self.config_hash,
            **facts,
        }
        table = pa.Table.from_pylist([row], schema=RUNS_SCHEMA)
        write_table(table, workspace.runs / f"{self.run_id}.parquet", RUNS_SCHEMA, self.metadata, workspace.staging)


def code_version() -> str:
    """The installed version of nelbo."""
    return version("nelbo")
