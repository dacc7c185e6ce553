"""Lines that share a Prefect server: each has a workspace, deployments and events of its own."""

import re
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.responses import DeploymentResponse

from nelbo.data import is_url
from nelbo.flows.workspace.errors import UsageError

#: Label of an event's resource that names its workspace. An event starts only the deployments of that line.
WORKSPACE = "nelbo.workspace"
#: Prefix of the tag with a line's name, which its deployments and their runs carry.
LINE = "line:"

#: Beginning of the entrypoints of nelbo 0.1, whose code had that name.
_FORMER = "flows.orchestration."
#: Deployments that Prefect's server lists at a time.
_PAGE = 200
_LONGEST = 60
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{_LONGEST - 1}}}")


def line_name(given: str | None, workspace: str) -> str:
    """The name that was given, or one made from the name of the workspace's folder.

    Raises:
        UsageError: it cannot be part of a deployment's name.

    >>> line_name(None, "/srv/line 3/bottles (left)"), line_name(None, "s3://bucket/caps/"), line_name("A-1", "/srv")
    ('bottles-left', 'caps', 'A-1')
    """
    if given is None:
        folder = PurePosixPath(workspace).name
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", folder)[:_LONGEST].strip("-_")
        if not name:
            raise UsageError(f"workspace {workspace} has a name that no line can have. Give one: --line NAME")
        return name
    if _NAME.fullmatch(given) is None:
        raise UsageError(
            f"--line {given!r}: expected a letter or digit, then letters, digits, '-' or '_', {_LONGEST} at most."
        )
    return given


def same_everywhere(workspace: str) -> str:
    """A workspace as deployments and events name it: absolute, without a slash at its end."""
    return workspace.rstrip("/") if is_url(workspace) else str(Path(workspace).absolute())


def find_deployments(flows: Collection[str]) -> dict[str, DeploymentResponse]:
    """Deployments of flows on the server, whoever made them, by flow and name."""
    named = FlowFilter(name=FlowFilterName(any_=list(flows)))
    found: list[DeploymentResponse] = []
    with get_client(sync_client=True) as client:
        name_of = {flow.id: flow.name for flow in client.read_flows(flow_filter=named)}
        while page := client.read_deployments(flow_filter=named, limit=_PAGE, offset=len(found)):
            found += page
    return {f"{name_of[one.flow_id]}/{one.name}": one for one in found}


def former(found: Mapping[str, DeploymentResponse]) -> dict[str, DeploymentResponse]:
    """The deployments that name the code as in nelbo 0.1, and whose runs therefore fail."""
    return {name: one for name, one in found.items() if (one.entrypoint or "").startswith(_FORMER)}


def of_workspace(found: Mapping[str, DeploymentResponse], workspace: str) -> dict[str, DeploymentResponse]:
    """The deployments that work on a workspace."""
    return {name: one for name, one in found.items() if _is_same(str(one.parameters.get("workspace")), workspace)}


def update_former(one: DeploymentResponse, parameters: Mapping[str, Any], schema: dict[str, Any]) -> None:
    """Change a deployment of nelbo 0.1 to the current name of the code; its times, pool and triggers stay.

    Args:
        parameters: parameters of its runs from now on.
        schema: schema of the flow's parameters, which the server checks runs against.
    """
    entrypoint = f"nelbo.{one.entrypoint}"
    update = DeploymentUpdate(entrypoint=entrypoint, parameters=dict(parameters), parameter_openapi_schema=schema)
    with get_client(sync_client=True) as client:
        client.update_deployment(one.id, update)


def say_former(found: Mapping[str, DeploymentResponse]) -> list[str]:
    """A sentence for each line that has to be deployed again."""
    names_of = defaultdict(list)
    for name, one in found.items():
        names_of[_deploy_again(one)].append(name)
    said = []
    for command, names in names_of.items():
        text = f"{', '.join(names)}: deployed by nelbo 0.1, whose code had another name, so runs fail. "
        text += f"Deploy again, with the same folders and settings: {command}"
        deletions = [f"prefect deployment delete {name}" for name in names if line_of(found[name].tags) is None]
        # A deployment made again has a line's name, and does not replace one without.
        said.append(" && ".join([text, *deletions]))
    return said


def line_of(tags: Iterable[str]) -> str | None:
    """The line of a deployment with these tags; None if it has none."""
    return next((tag.removeprefix(LINE) for tag in tags if tag.startswith(LINE)), None)


def _deploy_again(one: DeploymentResponse) -> str:
    line, pool = line_of(one.tags), one.work_pool_name
    command = ["nelbo", "deploy", "--pool", pool] if pool else ["nelbo", "serve"]
    command += ["--line", line] if line else []
    return shlex.join([*command, "--workspace", str(one.parameters.get("workspace"))])


def check_ours(found: dict[str, DeploymentResponse], workspace: str, pool: str | None) -> None:
    """Refuse to take over another line's deployments.

    Args:
        found: deployments on the server under the names of this line.
        workspace: the workspace of this line.
        pool: the work pool for its runs; None if there is none.

    Raises:
        UsageError: one of them works on another workspace, or in another pool.
    """
    for name, one in found.items():
        other = str(one.parameters.get("workspace"))
        if not _is_same(other, workspace):
            taken = f"works on workspace {other}, not on {workspace}"
        elif pool and one.work_pool_name and one.work_pool_name != pool:
            taken = f"runs in work pool {one.work_pool_name}, not in {pool}"
        else:
            continue
        raise UsageError(
            f"{name} is already on this server and {taken}. Give this line another name with --line, or, if it is to "
            f"replace that one, delete that first: prefect deployment delete {name}"
        )


def say_what_stays(unnamed: Iterable[tuple[str, DeploymentResponse]], ours: Iterable[str]) -> list[str]:
    """Sentences about deployments that are not wanted now, and that nothing deletes.

    Args:
        unnamed: deployments without a line's name, after their names.
        ours: names of deployments of this line.
    """
    remedy = "If nobody needs it, delete it with: prefect deployment delete"
    without = [
        f"{name}, which has no line's name (it was made by nelbo 0.1, or from prefect.yaml), works on workspace "
        f"{one.parameters.get('workspace')} and stays as it is. {remedy} {name}"
        for name, one in unnamed
    ]
    return without + [f"{name} stays as it was deployed before. {remedy} {name}" for name in ours]


def _is_same(one: str, other: str) -> bool:
    if is_url(one) or is_url(other):
        return same_everywhere(one) == same_everywhere(other)
    return Path(one).resolve() == Path(other).resolve()
