"""Engines of a workspace's model, made anew with other facts, and a workspace that scores without TensorFlow."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from nelbo import vae_core
from nelbo.flows.inference.models import read_engine
from nelbo.flows.options.options import ExportOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.layout import Workspace


def remake(workspace: Path, engine: str, **changes: Any) -> None:
    """An engine of the latest model with other facts or graphs, and the id that they give it."""
    place = Workspace(workspace)
    folder = place.engine(catalog.find_model(place, "latest"), engine)
    made = read_engine(folder)
    shutil.rmtree(folder)
    vae_core.save_exported(replace(made, **changes), folder)


def copy_with_engine(trained: Path, copy: Path) -> Path:
    """A copy of a workspace whose model has an engine that counts as the fastest, and that a second starts."""
    shutil.copytree(trained, copy)
    execute("export", ExportOptions(engine="onnx", workspace=str(copy)), prefect=False)
    remake(copy, "onnx", images_per_s={"keras": 1.0, "onnx": 9.0})
    return copy
