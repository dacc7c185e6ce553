"""Prefect and Dask around the commands: the flows, their deployments, and where a command runs.

The flows are loaded on first access, because Prefect takes a second to import.
"""

from typing import Any

from nelbo.flows.commands import COMMANDS

__all__ = sorted(command.name for command in COMMANDS.values() if command.is_flow)


def __getattr__(name: str) -> Any:
    if name in __all__:
        from nelbo.flows.orchestration import flows

        return flows.FLOWS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
