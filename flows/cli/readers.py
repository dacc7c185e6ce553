"""The commands that only read a workspace."""

from typing import Any

from nelbo.flows.options.options import CalibrateOptions, ModelOptions, Options
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.journal import settle
from nelbo.flows.workspace.layout import Workspace


def models(options: Options) -> dict[str, Any]:
    """The workspace's models."""
    return {"models": catalog.models(opened(options)).to_pylist()}


def batches(options: Options) -> dict[str, Any]:
    """The workspace's scored batches."""
    return {"batches": catalog.batches(opened(options)).to_pylist()}


def calibrations(options: ModelOptions) -> dict[str, Any]:
    """A model's calibrations."""
    from nelbo.flows.evaluation.comparison import list_calibrations

    workspace = opened(options)
    return {"calibrations": list_calibrations(workspace, catalog.find_model(workspace, options.model))}


def comparison(options: CalibrateOptions) -> dict[str, Any]:
    """A model's calibrations side by side on a batch."""
    from nelbo.flows.evaluation.comparison import compare_calibrations

    workspace = opened(options)
    return compare_calibrations(workspace, catalog.find_model(workspace, options.model), options.batch)


def verification(options: ModelOptions) -> dict[str, Any]:
    """A model, its engines and calibrations against what they were made as."""
    from nelbo.flows.steps.verify import verify

    return verify(opened(options), options.model)


def diagnosis(options: Options) -> dict[str, Any]:
    """What this system has and lacks."""
    from nelbo.flows.cli.doctor import diagnose

    return diagnose(opened(options))


def opened(options: Options) -> Workspace:
    """The workspace, after what killed commands have left in it."""
    workspace = Workspace.at(options.workspace)
    settle(workspace)
    return workspace
