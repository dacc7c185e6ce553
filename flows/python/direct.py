"""Commands carried out in this process, with their options as keywords."""

import os
from typing import Any

from nelbo.flows.commands import COMMANDS
from nelbo.flows.options.sources import check_options
from nelbo.flows.runner import Direct
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.journal import opened


def carry_out(name: str, /, **given: Any) -> dict[str, Any]:
    """What a command prints, after what killed ones have left.

    Args:
        name: of the command.
        given: its options; paths may be of pathlib.

    Raises:
        UsageError: an unknown option, or a bad value.
    """
    command = COMMANDS[name]
    options = check_options(command.options, {option: as_text(value) for option, value in given.items()})
    if getattr(options, "runner", "local") != "local":
        raise UsageError("runner: from Python, images are scored in this process. For others: nelbo score --runner")
    opened(options.workspace)
    return dict(command.call(options, Direct()))


def as_text(value: Any) -> Any:
    """A path as options take it; anything else as it is."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value
