"""What it costs to spread a batch: start-up, a task, and images a second here and on a Dask cluster of this machine.

    python benchmarks/scaling.py

prints the tables of ``docs/scaling.md``. Everything listens on 127.0.0.1: a Prefect server, a Dask scheduler, workers.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from dask_cluster import DaskCluster, nothing
from synthetic import write_images

from flows.cluster import Cluster
from flows.execution import execute
from flows.runner import Direct, Runner
from flows.settings import ScoreOptions, TrainOptions

ROUNDS, TASKS, N = 3, (10, 100), 1000


def main() -> None:
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with tempfile.TemporaryDirectory() as aside, temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        folder = Path(aside)
        dask = DaskCluster(folder)
        try:
            print(f"| a worker starts, s | {timed(lambda: dask.add_workers(1)):.1f} |")
            dask.add_workers(1)
            print(f"| a client connects, s | {median(lambda: dask.client().close()):.2f} |")
            with prefect_test_harness(server_startup_timeout=60):
                tasks(dask)
            images(folder, dask)
        finally:
            dask.close()


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median(work: Callable[[], Any]) -> float:
    return statistics.median(timed(work) for _ in range(ROUNDS))


def seconds(runner: Runner, n: int) -> float:
    """Of n tasks that do nothing."""
    # Workers and threads are warm.
    runner.map(nothing, [1, 2], [1, 1])
    return median(lambda: runner.map(nothing, list(range(n)), [1] * n))


def tasks(dask: DaskCluster) -> None:
    from prefect import flow
    from prefect.logging import disable_run_logger
    from prefect.task_runners import ThreadPoolTaskRunner
    from prefect_dask.client import PrefectDaskClient

    from flows.orchestration import PrefectRunner, _task

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
    def in_flow(address: str | None, n: int) -> float:
        if address is None:
            return seconds(PrefectRunner(), n)
        with PrefectDaskClient(address, set_as_default=False) as client:
            return seconds(Cluster(client, PrefectRunner(), _task), n)

    with disable_run_logger(), dask.client() as client:
        kinds: dict[str, Callable[[int], float]] = {
            "here": lambda n: seconds(Direct(), n),
            "Dask": lambda n: seconds(Cluster(client, Direct()), n),
            "Prefect, threads": lambda n: in_flow(None, n),
            "Prefect, Dask": lambda n: in_flow(dask.address, n),
        }
        print("| ms a task | " + " | ".join(map(str, TASKS)) + " |\n|---|---|---|")
        for name, cost in kinds.items():
            print(f"| {name} | {' | '.join(f'{1000 * cost(n) / n:.2f}' for n in TASKS)} |", flush=True)


def images(folder: Path, dask: DaskCluster) -> None:
    """Images a second at 64 x 64, models loaded."""
    write_images(folder / "normal", 80, seed=1)
    write_images(folder / "new", N, seed=2)
    workspace = str(folder / "w")
    execute("train", TrainOptions(normal=str(folder / "normal"), workspace=workspace, epochs=2), prefect=False)
    score: dict[str, Any] = {"images": str(folder / "new"), "workspace": workspace}
    remote = {**score, "runner": "dask", "dask_address": dask.address}

    def rate(options: ScoreOptions) -> str:
        execute("score", options, prefect=False)
        found = sorted(execute("score", options, prefect=False)["images_per_s"] for _ in range(ROUNDS))
        return f"{found[ROUNDS // 2]:,.0f} ({found[0]:,.0f}-{found[-1]:,.0f})"

    print("| where | images/s |\n|---|---|")
    print(f"| here, a decoder a core | {rate(ScoreOptions(**score))} |", flush=True)
    print(f"| 2 Dask workers, one decoder each | {rate(ScoreOptions(**remote, workers=1))} |", flush=True)
    dask.remove_worker()
    print(f"| 1 Dask worker, a decoder a core | {rate(ScoreOptions(**remote))} |", flush=True)


if __name__ == "__main__":
    main()
