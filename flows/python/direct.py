"""Commands carried out in this process, with their options as keywords."""

import os
from collections.abc import Callable
from typing import Any

from nelbo.flows.options.options import AnyOptions, check_options
from nelbo.flows.runner import Direct, Runner
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.journal import settle
from nelbo.flows.workspace.layout import Workspace


def carry_out(
    composition: Callable[[AnyOptions, Runner], dict[str, Any]], kind: type[AnyOptions], **given: Any
) -> dict[str, Any]:
    """What a command prints, after what killed ones have left.

    Args:
        composition: of the command's steps.
        kind: the options model of the command.
        given: its options; paths may be of pathlib.

    Raises:
        UsageError: an unknown option, or a bad value.
    """
    options = check_options(kind, {name: as_text(value) for name, value in given.items()})
    if getattr(options, "runner", "local") != "local":
        raise UsageError("runner: from Python, images are scored in this process. For others: nelbo score --runner")
    settle(Workspace.at(options.workspace))
    return composition(options, Direct())


def as_text(value: Any) -> Any:
    """A path as options take it; anything else as it is."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value
