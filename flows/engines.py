"""Which engine computes the scores."""

import logging

from flows.errors import UsageError
from flows.models import load_model, read_engine
from flows.workspace import Workspace
from vae_core import BundleError, EngineError, Scorable

log = logging.getLogger(__name__)

_UNUSABLE = (EngineError, BundleError, UsageError)


def choose_engine(workspace: Workspace, model_id: str, asked: str) -> str:
    """The engine to score with, loaded and checked: the one asked for; or, for "auto", the fastest that passes.

    Raises:
        UsageError: the model was not exported for the engine asked for.
        EngineError: that is not installed, or does not give the scores that it gave when it was made.
    """
    if asked != "auto":
        load_model(workspace, model_id, asked)
        return asked
    for engine in _faster_than_keras(workspace, model_id):
        try:
            load_model(workspace, model_id, engine)
        except _UNUSABLE as error:
            log.warning("engine %s is passed over: %s", engine, error)
        else:
            return engine
    load_model(workspace, model_id)
    return "keras"


def load_to_look(workspace: Workspace, model_id: str, engine: str) -> Scorable:
    """A model for pictures: by the engine that scored, or by Keras if that engine is no longer there."""
    try:
        return load_model(workspace, model_id, engine)
    except _UNUSABLE:
        return load_model(workspace, model_id)


def _faster_than_keras(workspace: Workspace, model_id: str) -> list[str]:
    """Those that were when they were made, the fastest first."""
    gains = {}
    for engine in workspace.engines(model_id):
        try:
            speeds = read_engine(workspace.engine(model_id, engine)).images_per_s
        except _UNUSABLE as error:
            log.warning("engine %s is passed over: %s", engine, error)
        else:
            gains[engine] = speeds[engine] / speeds["keras"]
    return sorted((engine for engine in gains if gains[engine] > 1), key=lambda engine: -gains[engine])
