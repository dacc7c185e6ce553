"""What other packages would tell their makers is switched off: in this process, and in those that it starts."""

import os

#: What a package reads when it is imported, or when a server starts. `vae_core` has those of its engines.
QUIET = {
    # Of Prefect's client, and of whatever else keeps to it.
    "DO_NOT_TRACK": "1",
    # Of a Prefect server; a flow that is called without an API starts one.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


def switch_off() -> None:
    """Set what is not set: who has said something else, has said so."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
