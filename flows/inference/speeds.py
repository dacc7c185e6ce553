"""How fast engines are on this machine: measured when they were made, or at their first use on another machine."""

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from nelbo import vae_core
from nelbo.data import COMMIT, write_json
from nelbo.flows.inference.models import load_model, read_engine
from nelbo.flows.workspace.errors import UsageError, store_errors
from nelbo.flows.workspace.layout import Workspace
from nelbo.vae_core import BundleError, EngineError

log = logging.getLogger(__name__)

#: Why a model or an engine cannot score.
UNUSABLE = (EngineError, BundleError, UsageError)
#: Machines whose speeds are kept.
_MACHINES = 50


def gain(workspace: Workspace, model_id: str, engine: str) -> float:
    """How many times as fast as Keras an engine is here; infinite where Keras cannot score.

    Raises:
        EngineError, BundleError, UsageError: the engine is damaged, or had to be measured and cannot score.
    """
    place, here = workspace.engine(model_id, engine), vae_core.machine()
    made = read_engine(place)
    speeds: Mapping[str, float] = made.images_per_s
    if made.machine != here:
        checksums = hashlib.sha256((place / COMMIT).read_bytes()).hexdigest()
        kept = _kept(workspace, model_id, engine, here, checksums)
        speeds = kept or _measured(workspace, model_id, engine, here, checksums)
        if kept is None:
            log.info(
                "engine %s was timed on %s, so it is timed here, too: %s", engine, made.machine or "?", _said(speeds)
            )
    return speeds[engine] / speeds["keras"] if speeds["keras"] else math.inf


def _said(speeds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {speed:,.0f} images/s" for name, speed in speeds.items())


def _kept(workspace: Workspace, model_id: str, engine: str, here: str, checksums: str) -> dict[str, float] | None:
    """The speeds measured on this machine for exactly this engine; None without any."""
    with suppress(KeyError, TypeError, ValueError):
        kept = _read(workspace, model_id)[f"{engine} on {here}"]
        speeds = {name: float(kept["images_per_s"][name]) for name in (engine, "keras")}
        if kept["checksums"] == checksums and all(0 < speed < math.inf for speed in speeds.values()):
            return speeds
    return None


def _read(workspace: Workspace, model_id: str) -> dict[str, Any]:
    try:
        kept = json.loads(workspace.speeds(model_id).read_text(encoding="utf-8"))
    except store_errors():
        return {}
    except ValueError:
        # A damaged file is replaced by the next measurement.
        return {}
    return kept if isinstance(kept, dict) else {}


@lru_cache(maxsize=16)
def _measured(workspace: Workspace, model_id: str, engine: str, here: str, checksums: str) -> dict[str, float]:
    """Speeds measured now, and kept for this machine where the workspace can be written to."""
    exported = load_model(workspace, model_id, engine)
    try:
        keras = load_model(workspace, model_id)
    except UNUSABLE as error:
        log.warning("engine %s is used without a comparison with keras, which cannot score here: %s", engine, error)
        return {engine: 1.0, "keras": 0.0}
    pixels = read_engine(workspace.engine(model_id, engine)).pixels
    speeds = vae_core.images_per_s({"keras": keras, engine: exported}, pixels)
    when = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    try:
        with workspace.lock():
            kept = _read(workspace, model_id)
            kept[f"{engine} on {here}"] = {"at_utc": when, "checksums": checksums, "images_per_s": speeds}
            newest = sorted(kept.items(), key=lambda item: str(item[1]))[-_MACHINES:]
            write_json(dict(newest), workspace.speeds(model_id), workspace.staging)
    except store_errors() as error:
        log.info("speeds are not kept for the next run: %s", error)
    return speeds
