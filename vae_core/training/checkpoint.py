"""Training that goes on where it was interrupted."""

import json
import logging
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

log = logging.getLogger(__name__)


class Checkpoint(keras.callbacks.Callback):
    """Writes all that training depends on to one file after each epoch, and puts it back before the first.

    The file is safetensors with JSON in its header: no code is ever loaded from it. It is replaced atomically, so
    that a process killed at any moment leaves its last finished epoch.

    Args:
        path: the file; its folder is made.
        facts: what two trainings must have in common for one to go on where the other stopped; the
            backend and its version are added.
        early_stopping: its state is kept, too, if there is one; it comes before this one in the list of callbacks.
        rows: the history, one row for each finished epoch; extended by another callback before this one.
    """

    def __init__(
        self,
        path: Path,
        facts: Mapping[str, Any],
        early_stopping: keras.callbacks.EarlyStopping | None,
        rows: list[dict[str, float]],
    ) -> None:
        super().__init__()
        self.path, self.early_stopping, self.rows = path, early_stopping, rows
        backend = [keras.backend.backend(), keras.__version__]
        self.facts = json.dumps({**facts, "backend": backend}, sort_keys=True)
        self.stopping: dict[str, Any] = {}

    def restore(self, network: keras.Model) -> None:
        """Put the last finished epoch back into a compiled network; a file that does not fit it is ignored.

        The optimizer must have its variables already.
        """
        targets = {"weights": network.weights, "optimizer": network.optimizer.variables}
        if self.early_stopping is not None:
            targets["best"] = network.weights
        try:
            with safe_open(self.path, framework="numpy") as file:
                state = json.loads(file.metadata()["state"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            if state["facts"] != self.facts:
                raise ValueError("it belongs to another training")
            groups = {name: _group(arrays, name) for name in targets}
            for name, variables in targets.items():
                if [array.shape for array in groups[name]] != [tuple(variable.shape) for variable in variables]:
                    raise ValueError(f"its {name} do not fit the network")
            rows, stopping = list(state["rows"]), dict(state["stopping"])
        except FileNotFoundError:
            return
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            log.warning("%s cannot be used (%s): training starts anew", self.path, error)
            return
        for name in ("weights", "optimizer"):
            for variable, value in zip(targets[name], groups[name], strict=True):
                variable.assign(value)
        self.rows[:] = rows
        if self.early_stopping is not None:
            self.stopping = {**stopping, "best_weights": groups["best"]}

    @property
    def has_stopped(self) -> bool:
        """Whether the restored training had already run out of patience."""
        stopping = self.early_stopping
        return stopping is not None and bool(self.stopping) and self.stopping["wait"] >= stopping.patience

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras names them
        """Restore the state of early stopping, which has just reset it."""
        for name, value in self.stopping.items():
            setattr(self.early_stopping, name, value)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Write the file."""
        state: dict[str, Any] = {"facts": self.facts, "rows": self.rows, "stopping": {}}
        groups = {
            "weights": self.model.get_weights(),
            "optimizer": [np.asarray(variable) for variable in self.model.optimizer.variables],
        }
        if (stopping := self.early_stopping) is not None:
            state["stopping"] = {
                "best": float(stopping.best),
                "best_epoch": stopping.best_epoch,
                "wait": stopping.wait,
            }
            groups["best"] = stopping.best_weights
        arrays = {f"{name}.{i:04d}": np.asarray(a) for name, group in groups.items() for i, a in enumerate(group)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}")
        try:
            with unfinished.open("wb") as file:
                file.write(save(arrays, {"state": json.dumps(state)}))
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self.path)
        finally:
            unfinished.unlink(missing_ok=True)


def _group(arrays: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    return [arrays[key] for key in sorted(arrays) if key.startswith(f"{name}.")]
