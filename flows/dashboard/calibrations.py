"""Calibrations on pages: each is read only once, unless its files change; pages show its promise."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from nelbo.data import COMMIT, Place
from nelbo.flows.evaluation.sensitivity import seen
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.calibrations.calibration import FILES, Calibration, promise, read_calibration
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace


class Known(NamedTuple):
    """What pages say of the calibration that judged a batch.

    calibration: None where there is none, or it is gone, damaged or changed.
    promises: sentences on the rate that it promises with its range, and, for a candidate, on what spoke against it.
    problem: what is wrong with its files; None if nothing is.
    cannot_see: the sentence that a model is blind; None if it is not.
    """

    calibration: Calibration | None
    promises: tuple[str, ...]
    problem: str | None
    cannot_see: str | None


def known(workspace: Workspace, model_id: str, calibration_id: str | None) -> Known:
    """Look a calibration up."""
    found = _found(workspace, calibration_id)
    if isinstance(found, UsageError):
        # A deleted calibration is not a problem to report.
        is_there = calibration_id in catalog.calibration_ids(workspace)
        return Known(None, (), str(found) if is_there else None, None)
    path = workspace.simulated(model_id)
    stamps = (path.stat().st_mtime_ns,) if isinstance(path, Path) and path.exists() else ()
    return Known(found, _promises(found), None, _blindness(workspace, model_id, calibration_id, stamps))


def _found(workspace: Workspace, calibration_id: str | None) -> Calibration | UsageError | None:
    """A calibration, or why it cannot be read."""
    if pd.isna(calibration_id):
        return None
    try:
        return _read(workspace, calibration_id, _stamps(workspace.calibrations / calibration_id))
    except UsageError as error:
        return error


def _promises(calibration: Calibration | None) -> tuple[str, ...]:
    if calibration is None:
        return ()
    said = promise(calibration)
    found = [f"{said[0].upper()}{said[1:]}."]
    if calibration.why_not is not None:
        found.append(f"Made as a candidate, which becomes current only if people use it anyway: {calibration.why_not}.")
    return tuple(found)


@lru_cache(maxsize=1000)
def _blindness(
    workspace: Workspace,
    model_id: str,
    calibration_id: str | None,
    stamps: tuple[int, ...],  # noqa: ARG001 - a key
) -> str | None:
    found = _found(workspace, calibration_id)
    sees = None if isinstance(found, UsageError) else seen(workspace, model_id, found)
    return None if sees is None else sees.cannot_see


@lru_cache(maxsize=1000)
def _read(workspace: Workspace, calibration_id: str, stamps: tuple[int, ...]) -> Calibration:  # noqa: ARG001 - a key
    return read_calibration(workspace, calibration_id)


def _stamps(folder: Place) -> tuple[int, ...]:
    """When a calibration's files on a disk were last changed; empty for an object store, where looking takes long."""
    if not isinstance(folder, Path):
        return ()
    return tuple(file.stat().st_mtime_ns for name in (COMMIT, *FILES) if (file := folder / name).exists())
