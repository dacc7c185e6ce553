"""Which model and which calibration are current: what ``latest.json`` says."""

import json
from typing import Any

from nelbo.data import write_json
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace


def promoted(workspace: Workspace) -> str | None:
    """The id of the model that ``latest`` means; None if it means none."""
    return _read(workspace).get("model_id")


def promote(workspace: Workspace, model_id: str) -> None:
    """Make a model the one that ``latest`` means."""
    with workspace.lock():
        _write(workspace, model_id=model_id)


def current_calibration(workspace: Workspace, model_id: str) -> str | None:
    """The id of the calibration that a model is used with; None if it has none."""
    return calibrations(workspace).get(model_id)


def calibrations(workspace: Workspace) -> dict[str, str]:
    """Model -> its current calibration."""
    return dict(_read(workspace).get("calibrations", {}))


def use_calibration(workspace: Workspace, model_id: str, calibration_id: str) -> None:
    """Make a calibration its model's current one, whichever was."""
    with workspace.lock():
        _write(workspace, calibrations=calibrations(workspace) | {model_id: calibration_id})


def replace_calibration(workspace: Workspace, model_id: str, calibration_id: str, before: str | None) -> bool:
    """Make a calibration its model's current one if `before` still is; False where another one has become it."""
    with workspace.lock():
        still = current_calibration(workspace, model_id) == before
        if still:
            _write(workspace, calibrations=calibrations(workspace) | {model_id: calibration_id})
    return still


def forget(workspace: Workspace, model_id: str) -> None:
    """Take away a model's current calibration."""
    with workspace.lock():
        kept = {name: kept for name, kept in calibrations(workspace).items() if name != model_id}
        if kept != calibrations(workspace):
            _write(workspace, calibrations=kept)


def _read(workspace: Workspace) -> dict[str, Any]:
    try:
        latest = json.loads(workspace.latest.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        latest = None
    if not isinstance(latest, dict) or not isinstance(latest.get("calibrations", {}), dict):
        raise UsageError(f"{workspace.latest} is damaged. Delete it, and name the model with --model.")
    return latest


def _write(workspace: Workspace, **changed: Any) -> None:
    write_json(_read(workspace) | changed, workspace.latest, workspace.staging)
