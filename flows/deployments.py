"""Scheduled and event-driven runs of the flows: read strictly from ``prefect.yaml``, served or registered."""

import importlib.resources
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

from data import check_url
from data.roots import is_url
from flows import settings
from flows.errors import UsageError
from flows.home import expand_home
from flows.orchestration import FLOWS

_MODULE = "flows.orchestration."
#: Parameters that name places on disks, in whatever folder a run starts.
_PLACES = ("images", "normal", "gate", "workspace")


class _Strict(BaseModel):
    # Prefect itself passes over keys that it does not know.
    model_config = ConfigDict(extra="forbid", frozen=True)


class ScheduleSpec(_Strict):
    """When a deployment runs."""

    cron: str
    timezone: str


class ConcurrencySpec(_Strict):
    """How many of its runs there may be at once, and what becomes of one more."""

    limit: int = Field(ge=1)
    collision_strategy: Literal["CANCEL_NEW", "ENQUEUE"]


class TriggerSpec(_Strict):
    """Events that start a run, and parameters made of them."""

    enabled: bool = True
    expect: list[str] = Field(min_length=1)
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
        settings.check_options(self.options, self.parameters)
        for trigger in self.triggers:
            unknown = set(trigger.parameters) - set(self.options.model_fields)
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
    def options(self) -> type[settings.Options]:
        """The options model of its flow."""
        return settings.OPTIONS[self.flow.name]

    def deployment(self, parameters: Mapping[str, Any]) -> RunnerDeployment:
        """As Prefect takes it, with other parameters."""
        limit = self.concurrency_limit
        return RunnerDeployment.from_entrypoint(
            self.entrypoint,
            name=self.name,
            description=self.description,
            schedules=[Cron(schedule.cron, timezone=schedule.timezone) for schedule in self.schedules],
            triggers=[
                DeploymentEventTrigger(
                    name=f"{self.full_name} on {', '.join(trigger.expect)}",
                    enabled=trigger.enabled,
                    expect=set(trigger.expect),
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
            text = importlib.resources.files("flows").joinpath("prefect.yaml").read_text(encoding="utf-8")
        else:
            text = path.read_text(encoding="utf-8")
        return ProjectSpec.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"{path or 'prefect.yaml'}: {where}: {first['msg'].rstrip('.')}.") from error
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}. Give a YAML file with deployments.") from error


def plan(
    given: Mapping[str, Any], config: Path | None = None, assignments: Sequence[str] = ()
) -> tuple[list[RunnerDeployment], dict[str, str]]:
    """What is to be registered, and the names of those that are left out with what they lack.

    Args:
        given: images, normal, gate and workspace; None where the command line did not name one. Paths become absolute,
            for runs start in folders of their own.
        config: a TOML file, or None.
        assignments: texts "key=value"; each goes to the flows that have such an option.
    """
    places = {name: _absolute(value) for name, value in given.items() if value is not None}
    found, left_out = [], {}
    for spec in read_project().deployments:
        missing = [name for name in ("images", "normal") if name in spec.parameters and name not in places]
        if missing:
            left_out[spec.full_name] = f"--{missing[0]}"
            continue
        fields = spec.options.model_fields
        own = {name: value for name, value in spec.parameters.items() if name not in _PLACES}
        named = {name: value for name, value in places.items() if name in fields}
        options = settings.make_options(spec.options, own | named, config, assignments)
        parameters = options.model_dump(mode="json", exclude_unset=True)
        if spec.flow.name == "train" and "gate" not in named:
            # Nobody looks on: without a gate the serving model stays.
            parameters["promote"] = False
        found.append(spec.deployment(parameters | {"workspace": _absolute(options.workspace)}))
    return found, left_out


def register(deployments: Sequence[RunnerDeployment], pool: str) -> list[dict[str, Any]]:
    """Create or update deployments for the workers of a pool; a row for each.

    Raises:
        UsageError: there is no such pool.
    """
    try:
        get_client(sync_client=True).read_work_pool(pool)
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
    return {"deployment": f"{deployment.flow_name}/{deployment.name}", "when": ", ".join(when)}


def _absolute(place: str) -> str:
    check_url(place)
    place = expand_home(place)
    return place if is_url(place) else str(Path(place).absolute())
