"""Scheduled and event-driven runs of the flows: read strictly from ``prefect.yaml``, served or registered."""

import importlib.resources
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.schedules import Cron
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nelbo.flows.commands import COMMANDS
from nelbo.flows.options.credentials import refuse_credentials
from nelbo.flows.options.options import LineOptions, Options
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

_MODULE = "nelbo.flows.orchestration."
#: Parameters that name places on disks, in whatever folder a run starts.
_PLACES = ("images", "normal", "gate", "workspace")


class _Strict(BaseModel):
    # Prefect itself passes over keys that it does not know.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ScheduleSpec(_Strict):
    """When a deployment runs."""

    cron: str
    timezone: str
    active: bool = True


class ConcurrencySpec(_Strict):
    """How many of its runs there may be at once, and what becomes of one more."""

    limit: int = Field(ge=1)
    collision_strategy: Literal["CANCEL_NEW", "ENQUEUE"]


class TriggerSpec(_Strict):
    """Events that start a run, and parameters made of them."""

    enabled: bool = True
    expect: list[str] = Field(min_length=1)
    match: dict[str, str] = {}
    parameters: dict[str, Any] = {}


class WorkPoolSpec(_Strict):
    """Where its runs go."""

    name: str


class DeploymentSpec(_Strict):
    """One entry of ``prefect.yaml``, checked beyond what Prefect checks: its flow exists and takes its parameters."""

    name: str = Field(min_length=1)
    entrypoint: str
    description: str
    schedules: list[ScheduleSpec] = []
    triggers: list[TriggerSpec] = []
    concurrency_limit: ConcurrencySpec
    parameters: dict[str, Any]
    work_pool: WorkPoolSpec

    @model_validator(mode="after")
    def _check(self) -> "DeploymentSpec":
        if not self.entrypoint.startswith(_MODULE) or self.entrypoint.removeprefix(_MODULE) not in FLOWS:
            raise ValueError(f"entrypoint {self.entrypoint!r}: expected {_MODULE} and one of {', '.join(FLOWS)}")
        check_options(self.options, self.parameters)
        for trigger in self.triggers:
            refuse_credentials(trigger.parameters)
            unknown = set(trigger.parameters) - set(self.flow.parameters.properties)
            if unknown:
                raise ValueError(f"a trigger sets {', '.join(sorted(unknown))}, which {self.flow.name} does not take")
        return self

    @property
    def flow(self) -> Flow[..., Any]:
        """The flow that it runs."""
        return FLOWS[self.entrypoint.removeprefix(_MODULE)]

    @property
    def full_name(self) -> str:
        """Flow and deployment, as Prefect writes them."""
        return f"{self.flow.name}/{self.name}"

    @property
    def options(self) -> type[Options]:
        """The options model of its flow."""
        return COMMANDS[self.flow.name].options

    def of_line(self, line: str) -> str:
        """Flow and deployment of a line."""
        return f"{self.flow.name}/{line}-{self.name}"

    def deployment(self, line: str, parameters: Mapping[str, Any]) -> RunnerDeployment:
        """As Prefect takes it, for a line with its parameters; events start it that are about the line's workspace."""
        limit = self.concurrency_limit
        return RunnerDeployment.from_entrypoint(
            self.entrypoint,
            name=f"{line}-{self.name}",
            description=self.description,
            tags=["nelbo", f"{LINE}{line}"],
            schedules=[Cron(one.cron, timezone=one.timezone, active=one.active) for one in self.schedules],
            triggers=[
                DeploymentEventTrigger(
                    name=f"{self.of_line(line)} on {', '.join(trigger.expect)}",
                    enabled=trigger.enabled,
                    expect=set(trigger.expect),
                    match={**trigger.match, WORKSPACE: parameters["workspace"]},
                    parameters=trigger.parameters,
                )
                for trigger in self.triggers
            ],
            concurrency_limit=ConcurrencyLimitConfig(
                limit=limit.limit, collision_strategy=ConcurrencyLimitStrategy(limit.collision_strategy)
            ),
            parameters=dict(parameters),
        )


class ProjectSpec(_Strict):
    """All of ``prefect.yaml``."""

    name: str
    prefect_version: str = Field(alias="prefect-version")
    pull: list[Any] = Field(max_length=0)
    deployments: list[DeploymentSpec]

    @model_validator(mode="after")
    def _check(self) -> "ProjectSpec":
        names = [spec.full_name for spec in self.deployments]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two deployments have the name {twice[0]}")
        return self


def read_project(path: Path | None = None) -> ProjectSpec:
    """The deployments in a file; by default the one that is installed with nelbo.

    Raises:
        UsageError: it is no such file, or says what is not understood.

    >>> [spec.full_name for spec in read_project().deployments][:2]
    ['score/hourly', 'score/on-landing']
    """
    try:
        if path is None:
            text = (
                importlib.resources.files("nelbo.flows.orchestration")
                .joinpath("prefect.yaml")
                .read_text(encoding="utf-8")
            )
        else:
            text = path.read_text(encoding="utf-8")
        return ProjectSpec.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        # Not from it: it repeats what it was given.
        raise UsageError(f"{path or 'prefect.yaml'}: {where}: {first['msg'].rstrip('.')}.") from None
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}. Give a YAML file with deployments.") from error


def plan(options: LineOptions) -> tuple[list[RunnerDeployment], dict[str, str]]:
    """What is to be registered, and the names of those that are left out with what they lack.

    Args:
        options: of a line; each goes to the flows that have it. Paths become absolute, for runs start in folders of
            their own.

    Raises:
        UsageError: a name or a setting is not what is expected.
    """
    workspace = same_everywhere(options.workspace)
    line = line_name(options.line, workspace)
    given = {name: getattr(options, name) for name in options.model_fields_set}
    given |= {name: same_everywhere(given[name]) for name in _PLACES if given.get(name) is not None}
    found, left_out = [], {}
    for spec in read_project().deployments:
        missing = [f"--{name}" for name in ("images", "normal") if name in spec.parameters and name not in given]
        if spec.flow.name == "prune" and options.keep is None:
            missing = ["--keep"]
        if missing:
            left_out[spec.of_line(line)] = missing[0]
            continue
        own = {name: value for name, value in spec.parameters.items() if name not in _PLACES}
        if spec.flow.name == "prune":
            # Asked for, so it is also done.
            own["older_than"] = options.keep
            spec = _on_schedule(spec)
        taken = {name: value for name, value in given.items() if name in spec.options.model_fields}
        parameters = check_options(spec.options, taken | own).model_dump(mode="json", exclude_unset=True)
        if spec.flow.name == "train" and options.gate is None:
            # Nobody looks on: without a gate the serving model stays.
            parameters["promote"] = False
        found.append(spec.deployment(line, parameters | {"workspace": workspace}))
    return found, left_out


def _on_schedule(spec: DeploymentSpec) -> DeploymentSpec:
    return spec.model_copy(update={"schedules": [one.model_copy(update={"active": True}) for one in spec.schedules]})


def check_server(deployments: Sequence[RunnerDeployment], pool: str | None = None) -> list[str]:
    """See that none of these deployments is another line's; what there is to say of others that stay on the server.

    Args:
        deployments: all of one line, as planned.
        pool: where their runs are to go.

    Raises:
        UsageError: one of them belongs to another workspace or pool.
    """
    line, workspace = line_of(deployments[0].tags), deployments[0].parameters["workspace"]
    specs = read_project().deployments
    plain, named = {spec.full_name for spec in specs}, {spec.of_line(str(line)) for spec in specs}
    found = find_deployments(FLOWS)
    ours = {name: one for name, one in found.items() if name in named}
    check_ours(ours, workspace, pool)
    planned = {_full_name(deployment) for deployment in deployments}
    # What is planned is about to be deployed again.
    old = {name: one for name, one in former(found).items() if name not in planned}
    unnamed = [(name, one) for name, one in found.items() if name in plain and name not in old]
    return say_former(old) + say_what_stays(unnamed, sorted(set(ours) - planned - set(old)))


def prepare(options: LineOptions, pool: str | None = None) -> list[RunnerDeployment]:
    """A line's deployments for the places that are named; what is left out, and what else is there, is said."""
    deployments, left_out = plan(options)
    for name, option in left_out.items():
        log.warning("%s is left out: it needs %s", name, option)
    for note in check_server(deployments, pool):
        log.warning(note)
    return deployments


def register(deployments: Sequence[RunnerDeployment], pool: str) -> list[dict[str, Any]]:
    """Create or update the deployments of a line for the workers of a pool; a row for each.

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
        rows.append(_row(deployment) | {"pool": pool, "deployment_id": str(deployment_id)})
    return rows


def run(deployments: Sequence[RunnerDeployment], limit: int) -> None:
    """Serve deployments from this process until it is told to stop; their schedules pause then."""
    from prefect import serve

    serve(*deployments, limit=limit, print_starting_message=False)


def describe(deployments: Sequence[RunnerDeployment]) -> list[dict[str, Any]]:
    """A row for each."""
    return [_row(deployment) for deployment in deployments]


def _row(deployment: RunnerDeployment) -> dict[str, Any]:
    when = [schedule.schedule.cron for schedule in deployment.schedules or ()]  # type: ignore[union-attr]
    when += [event for trigger in deployment.triggers for event in sorted(trigger.expect)]  # type: ignore[union-attr]
    return {"deployment": _full_name(deployment), "when": ", ".join(when)}


def _full_name(deployment: RunnerDeployment) -> str:
    return f"{deployment.flow_name}/{deployment.name}"
