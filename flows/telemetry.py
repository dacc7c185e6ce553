"""Switches off the telemetry of other packages, in this process and in those that it starts."""

import os

#: Variables that packages read on import, or a server when it starts. `vae_core` has those of its engines.
QUIET = {
    # Honoured by Prefect's client and by other packages.
    "DO_NOT_TRACK": "1",
    # Read by a Prefect server; a flow that is called without an API starts one.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


def switch_off() -> None:
    """Set the variables that are not set; a value that somebody has chosen stays."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
