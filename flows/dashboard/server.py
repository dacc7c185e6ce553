"""Starting the dashboard's web server."""

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import click

from nelbo.flows.dashboard.palette import DARK, LIGHT
from nelbo.flows.options.options import DashboardOptions
from nelbo.flows.options.sources import PASSWORD
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.journal import opened

_FRONT = Path(__file__).with_name("front.py")
_SETTINGS = {
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "server.enableStaticServing": "false",
    "server.enableCORS": "true",
    "server.enableXsrfProtection": "true",
    # Pages send no files, and no more than names and notes.
    "server.maxUploadSize": 1,
    "server.maxMessageSize": 32,
    "browser.gatherUsageStats": "false",
    # It asks the network for this machine's own addresses.
    "logger.hideWelcomeMessage": "true",
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "theme.headingFontSizes": '["2rem", "1.4rem", "1.15rem"]',
    "theme.paddingTop": "3rem",
}
#: What Streamlit calls our colours.
_THEME = {
    "primaryColor": "accent",
    "backgroundColor": "page",
    "secondaryBackgroundColor": "card",
    "textColor": "text",
    "linkColor": "accent",
    "borderColor": "line",
}


def serve_dashboard(options: DashboardOptions) -> NoReturn:
    """Become the web server, until it is stopped.

    Raises:
        UsageError: the extra is not installed, the host is open to others and there is no password in the environment,
            or the port is taken.
    """
    host, port, root = options.host, options.port, opened(options.workspace).root
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
    _check_free(host, port)
    flags = [f"--{name}={value}" for name, value in _settings(host, port)]
    command = [sys.executable, "-P", "-m", "streamlit", "run", *flags, str(_FRONT), "--", str(root)]
    # Settings of other Streamlit apps, in the current folder or the environment, are none of this one's.
    os.chdir(_FRONT.parent)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMLIT_")}
    # Who says that he asks for another may be anybody; a web server that stands before this one can be named there.
    environment.setdefault("FORWARDED_ALLOW_IPS", "")
    shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104
    click.echo(f"nelbo: the dashboard is at http://{shown}:{port}, until Ctrl-C.", err=True)
    os.execve(sys.executable, command, environment)  # noqa: S606 - no shell, and what is run is ours


def _settings(host: str, port: int) -> Iterator[tuple[str, object]]:
    yield from {**_SETTINGS, "server.address": host, "server.port": port}.items()
    if _is_loopback(host):
        # Under any other name, somebody's web page has got at this machine's address.
        yield from (("server.allowedHosts", name) for name in ("localhost", "127.0.0.1", "::1"))
    for theme, palette in (("light", LIGHT), ("dark", DARK)):
        for name, colour in _THEME.items():
            yield f"theme.{theme}.{name}", getattr(palette, colour)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_free(host: str, port: int) -> None:
    """That the server can listen there: Streamlit itself says so in many lines."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UsageError(
            f"the dashboard cannot listen on {host} port {port} ({error.strerror}). "
            "Choose another with --port, or end what listens there."
        ) from error
