"""Which model and which calibrations are current, according to ``latest.json``."""

import json
from collections.abc import Iterable
from typing import Any

from nelbo.data import write_json
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.vae_core import FLOAT32, INT8

#: A model's fits, the bundle's first; and the key of each one's calibrations.
PRECISIONS = (FLOAT32, INT8)
_KEYS = {FLOAT32: "calibrations", INT8: "calibrations_int8"}


def promoted(workspace: Workspace) -> str | None:
    """The id of the model that ``latest`` refers to; None if there is none."""
    return _read(workspace).get("model_id")


def promote(workspace: Workspace, model_id: str) -> None:
    """Make a model the one that ``latest`` refers to."""
    with workspace.lock():
        _write(workspace, model_id=model_id)


def current_calibration(workspace: Workspace, model_id: str, precision: str = FLOAT32) -> str | None:
    """The id of the current calibration of a model's fit; None if it has none."""
    return calibrations(workspace, precision).get(model_id)


def calibrations(workspace: Workspace, precision: str = FLOAT32) -> dict[str, str]:
    """Model -> the current calibration of its fit in that precision."""
    return dict(_read(workspace).get(_KEYS[precision], {}))


def use_calibration(workspace: Workspace, model_id: str, calibration_id: str, precision: str = FLOAT32) -> None:
    """Make a calibration the current one of a model's fit, whichever one it replaces."""
    with workspace.lock():
        _use(workspace, model_id, calibration_id, precision)


def replace_calibration(
    workspace: Workspace, model_id: str, calibration_id: str, before: str | None, precision: str = FLOAT32
) -> bool:
    """Make a calibration the current one of a fit if `before` still is; False if another one has replaced `before`."""
    with workspace.lock():
        still = current_calibration(workspace, model_id, precision) == before
        if still:
            _use(workspace, model_id, calibration_id, precision)
    return still


def forget(workspace: Workspace, model_id: str, precisions: Iterable[str] = PRECISIONS) -> None:
    """Leave a model's fits without a current calibration."""
    with workspace.lock():
        for precision in precisions:
            known = calibrations(workspace, precision)
            if known.pop(model_id, None) is not None:
                _write(workspace, **{_KEYS[precision]: known})


def _use(workspace: Workspace, model_id: str, calibration_id: str, precision: str) -> None:
    known = calibrations(workspace, precision)
    _write(workspace, **{_KEYS[precision]: known | {model_id: calibration_id}})


def _read(workspace: Workspace) -> dict[str, Any]:
    try:
        latest = json.loads(workspace.latest.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        latest = None
    if not isinstance(latest, dict) or not all(isinstance(latest.get(key, {}), dict) for key in _KEYS.values()):
        raise UsageError(f"{workspace.latest} is damaged. Delete it, and name the model with --model.")
    return latest


def _write(workspace: Workspace, **changed: Any) -> None:
    write_json(_read(workspace) | changed, workspace.latest, workspace.staging)
