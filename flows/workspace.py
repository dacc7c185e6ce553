"""Where everything lies: the folders of a workspace, and which model and calibration are current."""

import fcntl
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data import write_json
from flows.errors import UsageError

#: Ids become folder names; they start with a letter so that hive readers keep them strings.
_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True)
class Workspace:
    """A folder of manifests, models, calibrations, scores and reports."""

    root: Path

    @classmethod
    def at(cls, path: str) -> "Workspace":
        """The workspace at a local path; it need not exist."""
        if "://" in path:
            raise UsageError(f"workspace={path} is a URL, and this version writes to local folders. Give a path.")
        return cls(Path(path).absolute())

    def prepare(self) -> "Workspace":
        """Make the folder and see that it can be written to, before any work is done."""
        try:
            self.staging.mkdir(parents=True, exist_ok=True)
            probe = self.staging / f".probe.{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UsageError(
                f"workspace {self.root} cannot be written ({error.strerror}). "
                "Choose another with --workspace, or change its permissions."
            ) from error
        return self

    @property
    def staging(self) -> Path:
        """Unfinished files; readers never look there."""
        return self.root / "_staging"

    def unfinished(self, model_id: str, batch_id: str) -> Path:
        """Folder of a batch that is being scored."""
        return self.staging / f"shards.{check_id(model_id)}.{check_id(batch_id)}"

    @property
    def models(self) -> Path:
        """One folder a model."""
        return self.root / "models"

    @property
    def calibrations(self) -> Path:
        """One folder a calibration."""
        return self.root / "calibrations"

    @property
    def runs(self) -> Path:
        """One small file a run."""
        return self.root / "runs"

    @property
    def latest(self) -> Path:
        """The model last promoted, and each model's current calibration."""
        return self.root / "latest.json"

    def manifest(self, batch_id: str) -> Path:
        """The files of a batch."""
        return self.root / "manifests" / f"batch_id={check_id(batch_id)}" / "manifest.parquet"

    def history(self, model_id: str) -> Path:
        """A model's training, one row an epoch."""
        return self.root / "history" / f"{check_id(model_id)}.parquet"

    def card(self, model_id: str) -> Path:
        """A model's page for people."""
        return self.root / "cards" / f"{check_id(model_id)}.md"

    def checkpoint(self, training_id: str) -> Path:
        """Folder of an unfinished training."""
        return self.root / "checkpoints" / check_id(training_id)

    def cache(self, cache_id: str) -> Path:
        """Folder of decoded training images that are kept."""
        return self.root / "cache" / check_id(cache_id)

    def scores(self, model_id: str, batch_id: str) -> Path:
        """The verdicts of a batch."""
        return self._published("scores", model_id, batch_id)

    def flagged(self, model_id: str, batch_id: str) -> Path:
        """Those of them that are anomalous or for review, with heatmaps."""
        return self._published("flagged", model_id, batch_id)

    def report(self, batch_id: str) -> Path:
        """The page of a batch."""
        return self.root / "reports" / f"{check_id(batch_id)}.html"

    def _published(self, kind: str, model_id: str, batch_id: str) -> Path:
        partition = Path(f"model_id={check_id(model_id)}") / f"batch_id={check_id(batch_id)}"
        return self.root / kind / partition / f"{kind}.parquet"

    def model_ids(self) -> list[str]:
        """Models in the workspace."""
        return sorted(path.parent.name for path in self.models.glob("*/model.json") if _ID.fullmatch(path.parent.name))

    def model(self, name: str) -> str:
        """The id of the model that `name` means: ``latest``, or an id itself."""
        known = self.model_ids()
        if name == "latest":
            promoted = self.promoted()
            if promoted is None:
                raise UsageError(f"workspace {self.root} has no latest model. Make one with: nelbo train --normal DIR")
            name = promoted
        if name not in known:
            raise UsageError(
                f"model {name!r} is not in workspace {self.root}, which has {_some(known)}. "
                "Name one of them, or give another --workspace."
            )
        return name

    def calibration(self, model_id: str, name: str | None = None) -> str | None:
        """The id of the calibration to use with a model: `name`, or the current one; None if there is none."""
        if name is None:
            return self._latest().get("calibrations", {}).get(model_id)
        if not (self.calibrations / check_id(name)).is_dir():
            known = sorted(path.name for path in self.calibrations.glob("c*"))
            raise UsageError(f"calibration {name!r} is not in workspace {self.root}, which has {_some(known)}.")
        return name

    def use_calibration(self, model_id: str, calibration_id: str) -> None:
        """Make a calibration its model's current one."""
        with self._lock():
            latest = self._latest()
            calibrations = {**latest.get("calibrations", {}), model_id: calibration_id}
            write_json({**latest, "calibrations": calibrations}, self.latest, self.staging)

    def promoted(self) -> str | None:
        """The id that ``latest`` means, or None."""
        return self._latest().get("model_id")

    def promote(self, model_id: str) -> None:
        """Make a model the one that ``latest`` means."""
        with self._lock():
            write_json({**self._latest(), "model_id": model_id}, self.latest, self.staging)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One writer of ``latest.json`` at a time, among processes too; the system frees it if one is killed."""
        self.root.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _latest(self) -> dict[str, Any]:
        try:
            latest = json.loads(self.latest.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError:
            latest = None
        if not isinstance(latest, dict) or not isinstance(latest.get("calibrations", {}), dict):
            raise UsageError(f"{self.latest} is damaged. Delete it, and name the model with --model.")
        return latest


def check_id(text: str) -> str:
    """The same text, if it can be a folder's name on every system and in every reader."""
    if not _ID.fullmatch(text):
        raise UsageError(f"id {text!r}: expected a letter, then letters, digits, '-' or '_', 100 at most.")
    return text


def new_run_id() -> str:
    """A fresh id that sorts by time."""
    return f"r{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def _some(names: list[str], shown: int = 5) -> str:
    if not names:
        return "none"
    text = ", ".join(names[:shown])
    return text if len(names) <= shown else f"{text} and {len(names) - shown} more"
