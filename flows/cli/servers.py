"""The commands that set up servers, or are one."""

from collections.abc import Iterator
from typing import Any, NoReturn

from nelbo.flows.options.options import DashboardOptions, DeployOptions, ServeOptions


def dashboard(options: DashboardOptions) -> NoReturn:
    """Become the web server."""
    from nelbo.flows.dashboard.server import serve_dashboard
    from nelbo.flows.workspace.journal import opened

    serve_dashboard(str(opened(options.workspace).root), options.host, options.port)


def serve(options: ServeOptions) -> Iterator[dict[str, Any]]:
    """Say what will be served, then serve it."""
    from nelbo.flows.orchestration.execution import check_api

    check_api()
    from nelbo.flows.orchestration.deployments import describe, prepare, run

    deployments = prepare(options)
    yield {"deployments": [describe(one) for one in deployments]}
    run(deployments, options.limit)


def deploy(options: DeployOptions) -> dict[str, Any]:
    """Register the deployments; a row for each."""
    from nelbo.flows.orchestration.execution import check_api

    check_api()
    from nelbo.flows.orchestration.deployments import prepare, register

    return {"deployments": register(prepare(options, options.pool), options.pool)}
