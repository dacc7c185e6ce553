"""What it costs to spread a batch over a Dask cluster on this machine, and how the work is shared by its workers.

    python -m benchmarks.speed.scale [--workspace W] [--smoke]

prints the tables of ``docs/how-to/scaling.md``. Everything listens on 127.0.0.1: a Prefect server, a Dask scheduler and
workers. For more workers than this machine has cores, workers sleep instead of decoding and computing; what the
scheduler, the shared disk and this process add is real. The latest model of the workspace scores; without a workspace
one of 64 x 64 pixels is trained.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.datasets import repeated_elpv
from benchmarks.rates import circumstances
from benchmarks.speed import stand_in
from benchmarks.speed.end_to_end import trained
from benchmarks.table import heads, row

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

from dask_cluster import DaskCluster, nothing

from nelbo.flows.options.options import ScoreOptions
from nelbo.flows.orchestration.cluster import Cluster
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.runner import Direct, Runner


class Size(NamedTuple):
    """The amounts that are measured."""

    rounds: int
    tasks: tuple[int, ...]
    images: int
    sleeping_images: int
    sleeping_workers: tuple[int, ...]


FULL = Size(rounds=3, tasks=(10, 100), images=2_000, sleeping_images=8_000, sleeping_workers=(1, 2, 4, 8, 16))
#: Runs without a Prefect server, which takes half a minute to start.
SMOKE = Size(rounds=1, tasks=(), images=40, sleeping_images=40, sleeping_workers=(1, 2))
#: Folder in which workers find the stand-in for the network.
ROOT = Path(__file__).parents[2]
#: Time that a sleeping worker takes for an image.
SECONDS_PER_IMAGE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, help="with the model that scores; it is left as it is")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round: whether it runs, not how fast")
    asked = parser.parse_args()
    size = SMOKE if asked.smoke else FULL
    print(f"{circumstances()}; medians of {size.rounds} rounds")
    with tempfile.TemporaryDirectory() as aside, closing(DaskCluster(Path(aside))) as dask:
        folder = Path(aside)
        print("\n| start-up | s |\n|---|---|")
        print(f"| a Dask worker starts | {timed(lambda: dask.add_workers(1, path=ROOT)):.1f} |")
        print(f"| a client connects | {median(lambda: dask.client().close(), size.rounds):.2f} |", flush=True)
        if asked.workspace is None:
            workspace = trained(folder, "keras", 100, 64)
        else:
            workspace = str(shutil.copytree(asked.workspace, folder / "workspace"))
        # This adds the second worker.
        images(folder, workspace, dask, size)
        if size.tasks:
            with_prefect(dask, size)
        sleeping(folder, workspace, dask, size)


def with_prefect(dask: DaskCluster, size: Size) -> None:
    """Measure what each piece of work costs while a Prefect server records it."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with (
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
        prefect_test_harness(server_startup_timeout=60),
    ):
        tasks(dask, size)


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median(work: Callable[[], Any], rounds: int) -> float:
    return statistics.median(timed(work) for _ in range(rounds))


def seconds(runner: Runner, n: int, rounds: int) -> float:
    """The time of n tasks that do nothing."""
    # This warms up workers and threads.
    runner.map(nothing, [1, 2], [1, 1])
    return median(lambda: runner.map(nothing, list(range(n)), [1] * n), rounds)


def tasks(dask: DaskCluster, size: Size) -> None:
    from prefect import flow
    from prefect.logging import disable_run_logger
    from prefect.task_runners import ThreadPoolTaskRunner
    from prefect_dask.client import PrefectDaskClient

    from nelbo.flows.orchestration.flows import PrefectRunner, _task

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
    def in_flow(address: str | None, n: int) -> float:
        if address is None:
            return seconds(PrefectRunner(), n, size.rounds)
        with PrefectDaskClient(address, set_as_default=False) as client:
            return seconds(Cluster(client, PrefectRunner(), _task), n, size.rounds)

    with disable_run_logger(), dask.client() as client:
        kinds: dict[str, Callable[[int], float]] = {
            "here": lambda n: seconds(Direct(), n, size.rounds),
            "Dask, directly": lambda n: seconds(Cluster(client, Direct()), n, size.rounds),
            "Prefect, two threads": lambda n: in_flow(None, n),
            "Prefect on Dask": lambda n: in_flow(dask.address, n),
        }
        print("\n".join(["", *heads("ms a task that does nothing", *(f"of {n} tasks" for n in size.tasks))]))
        for name, cost in kinds.items():
            print(row(name, *(f"{1000 * cost(n) / n:.2f}" for n in size.tasks)), flush=True)


def images(folder: Path, workspace: str, dask: DaskCluster, size: Size) -> None:
    """Print images a second with decoder and model, here, on one worker and on two; and bytes an image on the disk."""
    new = str(repeated_elpv(size.images, folder / "new"))

    def rate(**where: Any) -> float:
        options = ScoreOptions(images=new, workspace=workspace, **where)
        # This loads the models and starts the decoders.
        execute("score", options, prefect=False)
        return statistics.median(execute("score", options, prefect=False)["images_per_s"] for _ in range(size.rounds))

    print("\n| where | images/s, decoded and scored | share of here |\n|---|---|---|")
    here = rate()
    print(f"| here, a decoder a core | {here:,.0f} | 1.00 |", flush=True)
    remote: dict[str, Any] = {"runner": "dask", "dask_address": dask.address}
    found = {"1 Dask worker, a decoder a core": rate(**remote)}
    dask.add_workers(1, path=ROOT)
    found["2 Dask workers, one decoder each"] = rate(**remote, workers=1)
    for name, images_per_s in found.items():
        print(f"| {name} | {images_per_s:,.0f} | {images_per_s / here:.2f} |", flush=True)
    print("\n| in the workspace | bytes an image |\n|---|---|")
    for kind in ("scores", "flagged", "manifests"):
        places = [path for path in (Path(workspace) / kind).rglob("*") if path.is_file()]
        print(f"| {kind} | {sum(path.stat().st_size for path in places) / size.images:.1f} |", flush=True)


def sleeping(folder: Path, workspace: str, dask: DaskCluster, size: Size) -> None:
    """Print figures of scoring on more and more sleeping workers; efficiency is relative to one of them."""
    new = str(repeated_elpv(size.sleeping_images, folder / "sleeping"))
    # As many pieces of work as a large batch has.
    shard_size = max(1, size.sleeping_images // 100)
    columns = ("workers", "images/s", "efficiency", "before and after, s", "bytes an image", "scheduler's CPU")
    print("\n".join(["", *heads(*columns)]), flush=True)
    stand_in.use()
    alone = 0.0
    scheduler = psutil.Process(dask.scheduler.pid)
    for n_workers in size.sleeping_workers:
        while len(dask.workers()) > n_workers:
            dask.remove_worker()
        dask.add_workers(n_workers - len(dask.workers()), path=ROOT)
        with dask.client() as client:
            client.run(stand_in.use, SECONDS_PER_IMAGE)
        options = ScoreOptions(
            images=new,
            workspace=workspace,
            shard_size=shard_size,
            runner="dask",
            dask_address=dask.address,
            batch_id=f"workers{n_workers}",
        )
        moved, busy = bytes_moved(), cpu_seconds(scheduler)
        result = execute("score", options, prefect=False)
        moved, busy = bytes_moved() - moved, cpu_seconds(scheduler) - busy
        alone = alone or result["images_per_s"]
        mapped = result["n_images"] / result["images_per_s"]
        cells = [
            f"{n_workers}",
            f"{result['images_per_s']:,.0f}",
            f"{result['images_per_s'] / (n_workers * alone):.0%}",
            f"{result['seconds'] - mapped:.1f}",
            f"{moved / result['n_images']:,.0f}",
            f"{busy / result['seconds']:.0%}",
        ]
        print(row(*cells), flush=True)


def bytes_moved() -> int:
    """Bytes that all processes of this machine have sent over the loopback so far."""
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
