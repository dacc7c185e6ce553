"""Calibrations on pages: each is read once, unless its files change, and its promise stands beside its threshold."""

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
    """What there is to say of the calibration that judged a batch.

    calibration: None where there is none, or it is gone, damaged or changed.
    promises: the rate that it promises, and between what it may lie; what spoke against it, if it is a candidate.
    problem: what is wrong with its files; None if nothing is.
    cannot_see: what has to be said of a model that is blind; None of others.
    """

    calibration: Calibration | None
    promises: tuple[str, ...]
    problem: str | None
    cannot_see: str | None


def known(workspace: Workspace, model_id: str, calibration_id: str | None) -> Known:
    """Look a calibration up."""
    found = _found(workspace, calibration_id)
    if isinstance(found, UsageError):
        # One that was deleted is no news.
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
        found.append(f"Made as a candidate, which became current only if somebody took it: {calibration.why_not}.")
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
    """When the files of a calibration were last changed, on a disk; objects would have to be asked for one by one."""
    if not isinstance(folder, Path):
        return ()
    return tuple(file.stat().st_mtime_ns for name in (COMMIT, *FILES) if (file := folder / name).exists())
