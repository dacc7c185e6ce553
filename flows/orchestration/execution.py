"""Runs commands, through Prefect if an API is configured and directly if not; and commands that need Prefect."""

import os
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nelbo.flows.commands import COMMANDS
from nelbo.flows.options.options import DeployOptions, Options, ServeOptions
from nelbo.flows.orchestration.cluster import carry_out
from nelbo.flows.runner import Direct
from nelbo.flows.telemetry import QUIET
from nelbo.flows.workspace.errors import UsageError, without_credentials


def execute(name: str, options: Options, prefect: bool | None = None) -> dict[str, Any]:
    """Run the composition of a command; returns what the command prints.

    Args:
        name: the name of a command that is a flow.
        options: its options.
        prefect: whether to use Prefect; None uses it if an API is configured. A hidden server is never started.
    """
    if prefect is None:
        prefect = prefect_api() is not None
    if prefect:
        check_api()
        from nelbo.flows.orchestration.flows import FLOWS

        return dict(FLOWS[name](**options.model_dump()))
    return carry_out(COMMANDS[name].call, options, Direct())


def serve(options: ServeOptions) -> Iterator[dict[str, Any]]:
    """Yield what will be served, then serve it from this process until it is told to stop; schedules pause then."""
    check_api()
    import prefect

    from nelbo.flows.orchestration.deployments import describe, prepare

    deployments = prepare(options)
    yield {"deployments": [describe(one) for one in deployments]}
    prefect.serve(*deployments, limit=options.limit, print_starting_message=False)


def deploy(options: DeployOptions) -> dict[str, Any]:
    """Register the deployments; returns a row for each."""
    check_api()
    from nelbo.flows.orchestration.deployments import prepare, register

    return {"deployments": register(prepare(options, options.pool), options.pool)}


def prefect_api() -> str | None:
    """The address of the configured Prefect API (environment or profile), without credentials; or None."""
    api = _prefect_api()
    return None if api is None else without_credentials(api)


def _prefect_api() -> str | None:
    if not _may_be_configured():
        return None
    try:
        from prefect.settings import get_current_settings

        return get_current_settings().api.url
    except ValueError as error:
        raise UsageError(
            "Prefect refuses its settings and says why above. Mend PREFECT_API_URL or the profile, or use --no-prefect."
        ) from error


def _may_be_configured() -> bool:
    """Whether there is anything from which Prefect reads settings; asking Prefect itself takes two seconds."""
    # Not Path.home(), which raises where there is none.
    profiles = os.path.expanduser("~/.prefect/profiles.toml")  # noqa: PTH111
    return (
        "prefect" in sys.modules
        or any(name.upper().startswith("PREFECT_") and name not in QUIET for name in os.environ)
        or any(Path(file).exists() for file in ("prefect.toml", profiles))
        # Other programs keep settings in these files, too.
        or _holds(Path(".env"), lambda text: "prefect_" in text.lower())
        or _holds(Path("pyproject.toml"), lambda text: "prefect" in tomllib.loads(text).get("tool", {}))
    )


def _holds(file: Path, asked: Callable[[str], bool]) -> bool:
    try:
        return asked(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, TypeError, ValueError):
        # Prefect says what is wrong with it.
        return True


def check_api() -> None:
    """Refuse to go on without a Prefect API that answers.

    Raises:
        UsageError: none is configured, it does not answer, or it wants another password.
    """
    import httpx

    api = _prefect_api()
    if api is None:
        raise UsageError(
            "this needs a Prefect API, and none is configured. Set PREFECT_API_URL, for example to "
            "http://127.0.0.1:4200/api after: prefect server start. A command with --prefect works without it, too."
        )
    try:
        httpx.get(f"{api}/health", timeout=10).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UsageError(
            f"the Prefect API at {prefect_api()} does not answer ({type(error).__name__}). "
            "Start it, or run without it: --no-prefect."
        ) from error
    _check_password()


def _check_password() -> None:
    # The health check needs no password.
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        with get_client(sync_client=True) as client:
            client.read_work_pools(limit=1)
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (401, 403):
            raise
        raise UsageError(
            f"the Prefect API at {prefect_api()} refuses the password. Set PREFECT_API_AUTH_STRING to what its "
            "PREFECT_SERVER_API_AUTH_STRING is (user:password), or run without it: --no-prefect."
        ) from error


def prefect_profile(api: str | None) -> str | None:
    """The name of the Prefect profile in use; None where no API is configured."""
    if named := os.environ.get("PREFECT_PROFILE"):
        return named
    if api is None:
        return None
    from prefect.context import get_settings_context

    return str(get_settings_context().profile.name)
