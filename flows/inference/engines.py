"""Which engine computes the scores, and thereby which fit of the model and which calibration are used."""

import logging
from collections.abc import Mapping
from types import MappingProxyType

from nelbo.flows.inference.models import load_model
from nelbo.flows.inference.speeds import UNUSABLE, gain
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.calibrations.calibration import calibration_of, read_calibration
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.pointers import PRECISIONS
from nelbo.vae_core import FLOAT32, INT8, precision_of

log = logging.getLogger(__name__)

_OF_BUNDLE: Mapping[str, str | None] = MappingProxyType({FLOAT32: None})


def calibrations_for(
    workspace: Workspace, model_id: str, name: str | None = None, uncalibrated: bool = False
) -> dict[str, str | None]:
    """The calibrations that give verdicts, by the precision of the model's fits that may score.

    Args:
        name: of the requested calibration; None takes the current one of each fit.
        uncalibrated: return scores without verdicts: any fit may score, and none has a calibration.

    Raises:
        UsageError: there is no calibration, or it belongs to another model.
    """
    if uncalibrated:
        return dict.fromkeys(PRECISIONS)
    named = [(name, FLOAT32)] if name is not None else [(None, precision) for precision in PRECISIONS]
    found = [calibration_of(workspace, model_id, *one) for one in named]
    if not any(found):
        raise UsageError(
            f"model {model_id} is not calibrated, so there are no verdicts. "
            "Calibrate it with: nelbo calibrate --normal DIR, or ask for numbers only with --uncalibrated."
        )
    return {one.precision: one.calibration_id for one in found if one is not None}


def choose_engine(
    workspace: Workspace, model_id: str, asked: str, calibrations: Mapping[str, str | None] = _OF_BUNDLE
) -> str:
    """The engine to score with, loaded and checked: `asked`, or for "auto" the fastest on this machine that passes.

    Args:
        calibrations: of the model's fits that may score, see `calibrations_for`; by default only the bundle's fit.

    Raises:
        UsageError: the model was not exported for the engine, or the engine scores with another fit.
        EngineError: the engine is not installed, or does not give the scores that it gave when it was made.
    """
    if asked != "auto":
        _load(workspace, model_id, asked, calibrations)
        return asked
    errors: dict[str, Exception] = {}
    for engine in _by_speed(workspace, model_id, calibrations):
        try:
            _load(workspace, model_id, engine, calibrations)
        except UNUSABLE as error:
            errors[engine] = error
            if engine != "keras":
                _pass_over(engine, error, calibrations)
        else:
            if "keras" in errors:
                _pass_over("keras", errors["keras"], calibrations)
            return engine
    if not errors:
        raise UsageError(
            f"calibration {next(iter(calibrations.values()))} belongs to the fit of model {model_id} in "
            f"{' or '.join(calibrations)}, which is not here. Use another calibration, or train again with: "
            f"nelbo train --precision {INT8}"
        )
    raise errors.get("keras") or next(iter(errors.values()))


def _load(workspace: Workspace, model_id: str, engine: str, calibrations: Mapping[str, str | None]) -> None:
    precision = precision_of(engine)
    # Loading an engine that does not exist raises an error that says how to make it.
    is_there = engine == "keras" or engine in catalog.engines(workspace, model_id)
    if is_there and precision not in calibrations:
        said = " and ".join(f"{one} for {kind}" for kind, one in calibrations.items())
        raise UsageError(
            f"engine {engine} scores with the fit of model {model_id} in {precision}, but the calibration is {said}: "
            f"the thresholds of two fits differ. Leave the engine out, or calibrate with: nelbo calibrate --normal DIR"
        )
    model, calibration_id = load_model(workspace, model_id, engine), calibrations[precision]
    if calibration_id is not None:
        read_calibration(workspace, calibration_id).check_fit(model)


def _by_speed(workspace: Workspace, model_id: str, calibrations: Mapping[str, str | None]) -> list[str]:
    """Keras and the engines exported from a model, the fastest on this machine first."""
    gains = {"keras": 1.0} if FLOAT32 in calibrations else {}
    for engine in catalog.engines(workspace, model_id):
        if engine == "keras" or precision_of(engine) not in calibrations:
            continue
        try:
            gains[engine] = gain(workspace, model_id, engine)
        except UNUSABLE as error:
            _pass_over(engine, error, calibrations)
        else:
            if gains[engine] <= 1:
                log.info("engine %s is %.2f times as fast as keras here", engine, gains[engine])
    return sorted(gains, key=lambda engine: (-gains[engine], engine != "keras"))


def _pass_over(engine: str, error: Exception, calibrations: Mapping[str, str | None]) -> None:
    other = precision_of(engine) != FLOAT32 and FLOAT32 in calibrations
    also = f", and the fit in {FLOAT32} scores with its own calibration" if other else ""
    log.warning("engine %s is passed over%s: %s", engine, also, error)
