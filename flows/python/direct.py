"""Runs commands in this process, with their options as keywords."""

import os
from typing import Any

from nelbo.flows.commands import COMMANDS
from nelbo.flows.options.sources import check_options
from nelbo.flows.runner import Direct
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.journal import opened


def carry_out(name: str, /, **given: Any) -> dict[str, Any]:
    """Finish what killed commands have left, then run a command; returns what it prints.

    Args:
        name: the command's name.
        given: its options; a path may be a `pathlib.Path`.

    Raises:
        UsageError: an unknown option, or a bad value.
    """
    command = COMMANDS[name]
    options = check_options(command.options, {option: as_text(value) for option, value in given.items()})
    if getattr(options, "runner", "local") != "local":
        raise UsageError("runner: Python scores images in this process. For other runners use: nelbo score --runner")
    opened(options.workspace)
    return dict(command.call(options, Direct()))


def as_text(value: Any) -> Any:
    """A path as text, which options take; other values unchanged."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value
