"""The commands that only read a workspace."""

from typing import Any

from nelbo.flows.options.options import CalibrateOptions, ModelOptions, Options
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.journal import opened


def models(options: Options) -> dict[str, Any]:
    """The workspace's models."""
    return {"models": catalog.models(opened(options.workspace)).to_pylist()}


def batches(options: Options) -> dict[str, Any]:
    """The workspace's scored batches."""
    return {"batches": catalog.batches(opened(options.workspace)).to_pylist()}


def calibrations(options: ModelOptions) -> dict[str, Any]:
    """A model's calibrations."""
    from nelbo.flows.evaluation.comparison import list_calibrations

    workspace = opened(options.workspace)
    return {"calibrations": list_calibrations(workspace, catalog.find_model(workspace, options.model))}


def comparison(options: CalibrateOptions) -> dict[str, Any]:
    """A model's calibrations side by side on a batch."""
    from nelbo.flows.evaluation.comparison import compare_calibrations

    workspace = opened(options.workspace)
    return compare_calibrations(workspace, catalog.find_model(workspace, options.model), options.batch)


def verification(options: ModelOptions) -> dict[str, Any]:
    """The check of a model, its engines and its calibrations."""
    from nelbo.flows.cli.verification import verify

    return verify(opened(options.workspace), options.model)
