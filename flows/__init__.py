"""The chain: Prefect flows, settings, workspace, reports and the command line.

The flows ``ingest``, ``train``, ``calibrate``, ``score``, ``export``, ``report``, ``prune`` and ``compact`` are
loaded when asked for, because Prefect takes a second to import.
"""

from typing import Any

from flows.telemetry import switch_off

# Before any of the packages is imported.
switch_off()

__all__ = ["calibrate", "compact", "export", "ingest", "prune", "report", "score", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from flows import orchestration

        return getattr(orchestration, name)
    raise AttributeError(f"module 'flows' has no attribute {name!r}")
