"""Scheduled and event-driven runs of the flows: read from ``prefect.yaml``, served or registered."""

import logging
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron

from nelbo.flows.commands import COMMANDS
from nelbo.flows.options.credentials import refuse_credentials
from nelbo.flows.options.options import LineOptions
from nelbo.flows.options.sources import check_options
from nelbo.flows.orchestration.flows import FLOWS
from nelbo.flows.orchestration.lines import (
    LINE,
    WORKSPACE,
    check_ours,
    find_deployments,
    former,
    line_name,
    line_of,
    same_everywhere,
    say_former,
    say_what_stays,
)
from nelbo.flows.workspace.errors import UsageError

log = logging.getLogger(__name__)

#: Parameters that are paths, which must mean the same in whatever folder a run starts.
_PLACES = ("images", "normal", "gate", "workspace")


def entries() -> list[dict[str, Any]]:
    """The deployments of the ``prefect.yaml`` that is installed with nelbo, each with the name of its ``flow``.

    >>> [f"{entry['flow']}/{entry['name']}" for entry in entries()][:2]
    ['score/hourly', 'score/on-landing']
    """
    text = (files(__package__) / "prefect.yaml").read_text(encoding="utf-8")
    found = [{**entry, "flow": entry["entrypoint"].rpartition(".")[2]} for entry in yaml.safe_load(text)["deployments"]]
    refuse_credentials(found)
    return found


def _of_line(entry: Mapping[str, Any], line: str) -> str:
    """Flow and deployment of a line, as Prefect writes them."""
    return f"{entry['flow']}/{line}-{entry['name']}"


def _deployment(entry: Mapping[str, Any], line: str, parameters: dict[str, Any]) -> RunnerDeployment:
    """A line's deployment with these parameters, for Prefect; only events about the line's workspace start it."""
    return RunnerDeployment.from_entrypoint(
        entry["entrypoint"],
        name=f"{line}-{entry['name']}",
        description=entry["description"],
        tags=["nelbo", f"{LINE}{line}"],
        schedules=[
            Cron(one["cron"], one["timezone"], active=one.get("active", True)) for one in entry.get("schedules", ())
        ],
        triggers=[
            DeploymentEventTrigger(
                **trigger,
                name=f"{_of_line(entry, line)} on {', '.join(trigger['expect'])}",
                match={WORKSPACE: parameters["workspace"]},
            )
            for trigger in entry.get("triggers", ())
        ],
        concurrency_limit=ConcurrencyLimitConfig(**entry["concurrency_limit"]),
        parameters=parameters,
    )


def plan(options: LineOptions) -> tuple[list[RunnerDeployment], dict[str, str]]:
    """The deployments to register; and the names of those that are left out, with the option that each lacks.

    Args:
        options: a line's options; each goes to the flows that have it. Paths become absolute, because runs start in
            folders of their own.

    Raises:
        UsageError: a name or a setting is invalid.
    """
    workspace = same_everywhere(options.workspace)
    line = line_name(options.line, workspace)
    given = {name: getattr(options, name) for name in options.model_fields_set}
    given |= {name: same_everywhere(given[name]) for name in _PLACES if given.get(name) is not None}
    found, left_out = [], {}
    for entry in entries():
        flow, parameters = entry["flow"], entry["parameters"]
        needed = ["keep"] if flow == "prune" else [name for name in ("images", "normal") if name in parameters]
        if missing := [name for name in needed if given.get(name) is None]:
            left_out[_of_line(entry, line)] = f"--{missing[0]}"
            continue
        own = {name: value for name, value in parameters.items() if name not in _PLACES}
        if flow == "prune":
            # --keep asks for it: the schedule is active.
            own["older_than"] = options.keep
            entry["schedules"] = [one | {"active": True} for one in entry["schedules"]]
        kind = COMMANDS[flow].options
        taken = {name: value for name, value in given.items() if name in kind.model_fields}
        checked = check_options(kind, taken | own).model_dump(mode="json", exclude_unset=True)
        if flow == "train" and options.gate is None:
            # Nobody supervises these runs: without a gate, the model in use stays.
            checked["promote"] = False
        found.append(_deployment(entry, line, checked | {"workspace": workspace}))
    return found, left_out


def prepare(options: LineOptions, pool: str | None = None) -> list[RunnerDeployment]:
    """A line's deployments for the folders that are named; logs what is left out, and what else is on the server.

    Args:
        pool: the work pool for their runs.

    Raises:
        UsageError: one of them is on the server already, for another workspace or pool.
    """
    deployments, left_out = plan(options)
    for name, option in left_out.items():
        log.warning("%s is left out: it needs %s", name, option)
    line, workspace = line_of(deployments[0].tags), deployments[0].parameters["workspace"]
    plain = {f"{entry['flow']}/{entry['name']}" for entry in entries()}
    named = {_of_line(entry, str(line)) for entry in entries()}
    found = find_deployments(FLOWS)
    ours = {name: one for name, one in found.items() if name in named}
    check_ours(ours, workspace, pool)
    planned = {describe(deployment)["deployment"] for deployment in deployments}
    # What is planned is about to be deployed again.
    old = {name: one for name, one in former(found).items() if name not in planned}
    unnamed = [(name, one) for name, one in found.items() if name in plain and name not in old]
    for note in say_former(old) + say_what_stays(unnamed, sorted(set(ours) - planned - set(old))):
        log.warning(note)
    return deployments


def register(deployments: Sequence[RunnerDeployment], pool: str) -> list[dict[str, Any]]:
    """Create or update the deployments of a line for the workers of a pool; returns a row for each.

    Raises:
        UsageError: there is no such pool; then none is registered.
    """
    try:
        with get_client(sync_client=True) as client:
            client.read_work_pool(pool)
    except ObjectNotFound as error:
        raise UsageError(
            f"--pool {pool}: there is no such work pool. Make it with: prefect work-pool create {pool} --type process"
        ) from error
    rows = []
    for deployment in deployments:
        deployment_id = deployment.apply(work_pool_name=pool)
        rows.append(describe(deployment) | {"pool": pool, "deployment_id": str(deployment_id)})
    return rows


def describe(deployment: RunnerDeployment) -> dict[str, Any]:
    """The name of a deployment, and when it runs."""
    when = [schedule.schedule.cron for schedule in deployment.schedules or ()]  # type: ignore[union-attr]
    when += [event for trigger in deployment.triggers for event in sorted(trigger.expect)]  # type: ignore[union-attr]
    return {"deployment": f"{deployment.flow_name}/{deployment.name}", "when": ", ".join(when)}
