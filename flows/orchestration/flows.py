"""The flows: Prefect around the compositions that the command line also runs without it."""

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, cast
from uuid import UUID

from prefect import task
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event
from prefect.exceptions import TerminationSignal
from prefect.flows import Flow
from prefect.futures import as_completed
from prefect.logging.handlers import APILogHandler
from prefect.states import Completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import Task, exponential_backoff

from nelbo.flows.commands import COMMANDS, Command
from nelbo.flows.inference.signals import stop_decoders
from nelbo.flows.options.credentials import refuse_credentials
from nelbo.flows.options.former import without_former
from nelbo.flows.options.sources import check_options
from nelbo.flows.orchestration.cluster import carry_out
from nelbo.flows.orchestration.lines import WORKSPACE, same_everywhere
from nelbo.flows.runner import Item, Result
from nelbo.flows.workspace.errors import NotYetError, bad_input, is_transient

#: Retries of a step when storage fails, and about how many seconds to wait before the first.
_RETRIES, _RETRY_S = 3, 2
#: Progress updates of a run: each is a call to the server.
_UPDATES = 20


def _without_traceback(record: logging.LogRecord) -> bool:
    """Drop the traceback of bad input, which the caller must correct: where the code noticed it helps nobody."""
    if record.exc_info and isinstance(record.exc_info[1], bad_input()):
        record.exc_info = None
    return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_without_traceback)


class PrefectRunner:
    """Runs steps as Prefect tasks; for use inside a flow."""

    def call(self, step: Callable[..., Result], *args: Any) -> Result:
        """Run a step as one task."""
        return cast(Result, _task(step)(*args))

    def map(self, step: Callable[[Item], Result], items: Sequence[Item], sizes: Sequence[int]) -> list[Result]:
        """Run one task for each item and wait for all of them; then the first failure is raised."""
        made = _task(step)
        name = made.name.replace("_", " ")
        futures = [
            made.with_options(task_run_name=f"{name} {i} of {len(items)}").submit(item)
            for i, item in enumerate(items, start=1)
        ]
        size_of = dict(zip((future.task_run_id for future in futures), sizes, strict=True))
        try:
            advance = _progress(sum(sizes))
            for future in as_completed(futures):
                advance(size_of[future.task_run_id])
        except TerminationSignal:
            stop_decoders()
            raise
        return [future.result() for future in futures]

    def show(self, key: str, content: str | list[dict[str, Any]]) -> None:
        """Create an artifact of the flow run."""
        if not isinstance(content, str):
            create_table_artifact(content, key=key)
        elif content.startswith("data:image/"):
            create_image_artifact(content, key=key)
        else:
            create_markdown_artifact(content, key=key)

    def rename(self, name: str) -> None:
        """Rename the flow run."""
        context = FlowRunContext.get()
        if context is not None and context.flow_run is not None:
            get_client(sync_client=True).set_flow_run_name(context.flow_run.id, name)

    def announce(self, event: str, subject: str, **facts: Any) -> None:
        """Emit a Prefect event about a batch or a model; its resource names the workspace."""
        resource = {
            "prefect.resource.id": f"nelbo.{subject}",
            "prefect.resource.name": subject,
            WORKSPACE: same_everywhere(facts["workspace"]),
        }
        emit_event(event, resource, payload=facts)


def _task(step: Callable[..., Any]) -> Task[..., Any]:
    return task(
        name=step.__name__,
        # No cache: it would not see that an output file is gone. The published files are the checkpoints.
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=_RETRIES,
        retry_delay_seconds=exponential_backoff(_RETRY_S),
        retry_jitter_factor=1.0,
        retry_condition_fn=_may_pass,
    )(step)


def _may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed step is worth another try; errors in input, code or numbers would occur again."""
    try:
        state.result()
    except Exception as error:
        return is_transient(error)
    return False


def _progress(total: int) -> Callable[[int], None]:
    """Create a progress artifact; returns a function that advances it by n images."""
    artifact = cast(UUID, create_progress_artifact(0.0, key="progress", description=f"{total:,} images"))
    done = shown = 0

    def advance(n: int) -> None:
        nonlocal done, shown
        done += n
        if done == total or done - shown >= total / _UPDATES:
            update_progress_artifact(artifact, 100 * done / max(1, total))
            shown = done

    return advance


class _Handler(APILogHandler):
    """Shows nelbo's log records with the run in Prefect's UI; outside a run there is nowhere to show them."""

    def emit(self, record: logging.LogRecord) -> None:
        if FlowRunContext.get() or TaskRunContext.get():
            super().emit(record)


def _log_to_api() -> None:
    logger = logging.getLogger("nelbo")
    if not any(isinstance(handler, _Handler) for handler in logger.handlers):
        logger.addHandler(_Handler())
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def _run(command: Command, parameters: dict[str, Any]) -> dict[str, Any] | State[Any]:
    _log_to_api()
    context = FlowRunContext.get()
    deployed = context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None
    try:
        result = carry_out(command.call, check_options(command.options, parameters), PrefectRunner(), _task)
    except NotYetError as error:
        if not deployed:
            raise
        result = {"skipped": str(error)}
    if "skipped" in result and deployed:
        # A night in which there is nothing to do is no failure, and no success to celebrate either.
        logging.getLogger(__name__).warning("nothing done: %s", result["skipped"])
        return Completed(name="Skipped", message=result["skipped"])
    return result


class _Flow(Flow[..., dict[str, Any]]):
    """Refuses credentials before Prefect sees them: it stores the parameters of a run, and logs those it refuses."""

    def __call__(self, *args: Any, **parameters: Any) -> Any:
        """Run the flow."""
        refuse_credentials([args, parameters])
        return super().__call__(*args, **without_former(parameters))

    def validate_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The parameters with their types; a deployment's runs come through here, too."""
        refuse_credentials(parameters)
        return super().validate_parameters(without_former(parameters))


def _make_flow(command: Command) -> Flow[..., dict[str, Any]]:
    """A flow whose flat keyword parameters are the options of a command, with their types and defaults."""

    def run(**parameters: Any) -> dict[str, Any] | State[Any]:
        return _run(command, parameters)

    signature = [
        inspect.Parameter(
            field,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if info.is_required() else info.default,
            annotation=info.rebuild_annotation(),
        )
        for field, info in command.options.model_fields.items()
        # Fields with `exclude` belong to the command line alone.
        if not info.exclude
    ]
    run.__signature__ = inspect.Signature(signature, return_annotation=dict)  # type: ignore[attr-defined]
    run.__name__ = run.__qualname__ = command.name
    run.__doc__ = command.help
    # One task at a time: each already decodes, computes and writes in parallel, and two would need twice the decoders.
    runner = cast(TaskRunner[Any], ThreadPoolTaskRunner(max_workers=1))
    return _Flow(cast(Any, run), name=command.name, task_runner=runner, persist_result=False)


#: Flows by name.
FLOWS = {command.name: _make_flow(command) for command in COMMANDS.values() if command.is_flow}
