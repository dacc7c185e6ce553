"""Starting the dashboard's web server."""

import ipaddress
import os
import socket
from importlib.util import find_spec

import click

from nelbo.flows.options.options import DashboardOptions
from nelbo.flows.options.sources import PASSWORD
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.journal import opened

#: Host names that are allowed: any other means that a web page has made its name point to this machine.
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def serve_dashboard(options: DashboardOptions) -> None:
    """Serve the pages, until stopped.

    Raises:
        UsageError: the extra is not installed, the port is taken, or the host is open to others without a password in
            the environment.
    """
    host, port, workspace = options.host, options.port, opened(options.workspace)
    if missing := lacking():
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
    import uvicorn

    from nelbo.flows.dashboard.app import make_app

    app = make_app(workspace, os.environ.get(PASSWORD), _LOOPBACK if _is_loopback(host) else ("*",))
    shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104
    click.echo(f"nelbo: the dashboard is at http://{shown}:{port}, until Ctrl-C.", err=True)
    # Anybody can claim to forward another's request, so only the proxies that are named there are trusted.
    trusted = os.environ.get("FORWARDED_ALLOW_IPS", "")
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
        proxy_headers=bool(trusted),
        forwarded_allow_ips=trusted,
        timeout_graceful_shutdown=5,
    )


def lacking() -> list[str]:
    """Packages of the extra that this environment lacks."""
    return [name for name in ("duckdb", "itsdangerous", "uvicorn") if find_spec(name) is None]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_free(host: str, port: int) -> None:
    """Check that the server can listen there: uvicorn itself would end with a traceback."""
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
