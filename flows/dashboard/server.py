"""Starting the dashboard's web server."""

import ipaddress
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from flows.errors import UsageError
from flows.workspace import Workspace

PASSWORD = "NELBO_DASHBOARD_PASSWORD"  # noqa: S105
_APP = Path(__file__).with_name("app.py")


def serve_dashboard(workspace: str, host: str = "127.0.0.1", port: int = 8501) -> NoReturn:
    """Become the web server, until it is stopped.

    Args:
        workspace: a path or an fsspec URL.
        host: the address that it listens on; any but this machine's own needs a password in the environment.

    Raises:
        UsageError: the extra is not installed, or the host is open to others and there is no password.
    """
    if missing := [name for name in ("streamlit", "duckdb") if find_spec(name) is None]:
        raise UsageError(
            f"the dashboard needs {' and '.join(missing)}, which this environment lacks. "
            "Get it with: pip install 'nelbo[dashboard]'"
        )
    if not _is_loopback(host) and not os.environ.get(PASSWORD):
        raise UsageError(
            f"--host {host} lets other machines see the dashboard, so it needs a password. "
            f"Set {PASSWORD} in its environment, or leave --host at 127.0.0.1."
        )
    Workspace.at(workspace)
    settings = {
        "server.address": host,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "server.enableStaticServing": "false",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
    }
    flags = [f"--{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-P", "-m", "streamlit", "run", *flags, str(_APP), "--", workspace]
    os.execv(sys.executable, command)  # noqa: S606 - no shell, and what is run is ours


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
