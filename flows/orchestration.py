"""The flows: Prefect around the compositions that the command line also runs without it."""

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.flows import Flow
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import Task

from flows.calibration import recalibrate
from flows.cluster import carry_out
from flows.compaction import compact_workspace
from flows.errors import bad_input
from flows.ingestion import ingest_batch
from flows.reporting import report_batch
from flows.retention import prune_workspace
from flows.runner import Item, Result, Runner
from flows.scoring import score_batch
from flows.settings import (
    AnyOptions,
    CalibrateOptions,
    CompactOptions,
    IngestOptions,
    PruneOptions,
    ReportOptions,
    ScoreOptions,
    TrainOptions,
    check_options,
)
from flows.training import train_model


def _without_traceback(record: logging.LogRecord) -> bool:
    """Input that is the caller's to mend is said in a line; where in the code it was noticed helps nobody."""
    if record.exc_info and isinstance(record.exc_info[1], bad_input()):
        record.exc_info = None
    return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_without_traceback)


class PrefectRunner:
    """Steps as Prefect tasks; to be used inside a flow."""

    def call(self, step: Callable[..., Result], *args: Any) -> Result:
        """One task run."""
        return cast(Result, _task(step)(*args))

    def map(self, step: Callable[[Item], Result], items: Sequence[Item], sizes: Sequence[int]) -> list[Result]:
        """One task run for each item; all are waited for, and the first failure is raised."""
        del sizes
        futures = _task(step).map(items)
        futures.wait()
        return futures.result()

    def show(self, key: str, content: str | list[dict[str, Any]]) -> None:
        """An artifact of the flow run."""
        if isinstance(content, str):
            create_markdown_artifact(content, key=key)
        else:
            create_table_artifact(content, key=key)

    def rename(self, name: str) -> None:
        """The name of the flow run."""

    def announce(self, event: str, subject: str, **facts: Any) -> None:
        """A Prefect event."""


def _task(step: Callable[..., Any]) -> Task[..., Any]:
    # No cache: it would not see that an output file is gone. The published files are the checkpoints.
    return task(name=step.__name__, cache_policy=NO_CACHE, persist_result=False)(step)


def _make_flow(
    name: str, kind: type[AnyOptions], composition: Callable[[AnyOptions, Runner], dict[str, Any]]
) -> Flow[..., dict[str, Any]]:
    """A flow whose flat keyword parameters are the fields of `kind`, with their types and defaults."""

    def run(**parameters: Any) -> dict[str, Any]:
        return carry_out(composition, check_options(kind, parameters), PrefectRunner(), _task)

    signature = [
        inspect.Parameter(
            field,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if info.is_required() else info.default,
            annotation=info.rebuild_annotation(),
        )
        for field, info in kind.model_fields.items()
    ]
    run.__signature__ = inspect.Signature(signature, return_annotation=dict)  # type: ignore[attr-defined]
    run.__name__ = run.__qualname__ = name
    run.__doc__ = composition.__doc__
    # Two shards at a time: one is decoded while the other is computed.
    runner = cast(TaskRunner[Any], ThreadPoolTaskRunner(max_workers=2))
    return flow(name=name, task_runner=runner, persist_result=False)(run)


ingest = _make_flow("ingest", IngestOptions, ingest_batch)
train = _make_flow("train", TrainOptions, train_model)
calibrate = _make_flow("calibrate", CalibrateOptions, recalibrate)
score = _make_flow("score", ScoreOptions, score_batch)
report = _make_flow("report", ReportOptions, report_batch)
prune = _make_flow("prune", PruneOptions, prune_workspace)
compact = _make_flow("compact", CompactOptions, compact_workspace)
