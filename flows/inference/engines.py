"""Which engine computes the scores."""

import logging

from nelbo.flows.inference.models import load_model
from nelbo.flows.inference.speeds import UNUSABLE, gain
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.layout import Workspace

log = logging.getLogger(__name__)


def choose_engine(workspace: Workspace, model_id: str, asked: str) -> str:
    """The engine to score with, loaded and checked: the one asked for; or, for "auto", the fastest here that passes.

    Raises:
        UsageError: the model was not exported for the engine asked for.
        EngineError: that is not installed, or does not give the scores that it gave when it was made.
    """
    if asked != "auto":
        load_model(workspace, model_id, asked)
        return asked
    errors: dict[str, Exception] = {}
    for engine in _by_speed(workspace, model_id):
        try:
            load_model(workspace, model_id, engine)
        except UNUSABLE as error:
            errors[engine] = error
            if engine != "keras":
                _pass_over(engine, error)
        else:
            if "keras" in errors:
                _pass_over("keras", errors["keras"])
            return engine
    raise errors["keras"]


def _by_speed(workspace: Workspace, model_id: str) -> list[str]:
    """Keras and the engines that are made of a model, the fastest on this machine first."""
    gains = {"keras": 1.0}
    for engine in catalog.engines(workspace, model_id):
        if engine == "keras":
            continue
        try:
            gains[engine] = gain(workspace, model_id, engine)
        except UNUSABLE as error:
            _pass_over(engine, error)
        else:
            if gains[engine] <= 1:
                log.info("engine %s is %.2f times as fast as keras here", engine, gains[engine])
    return sorted(gains, key=lambda engine: (-gains[engine], engine != "keras"))


def _pass_over(engine: str, error: Exception) -> None:
    log.warning("engine %s is passed over: %s", engine, error)
