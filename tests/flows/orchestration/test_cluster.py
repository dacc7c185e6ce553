"""Batches on a Dask cluster of real processes give the rows of a local run, whatever happens to a worker."""

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from commands import assert_refused
from dask_cluster import DaskCluster, double, loads
from hypothesis import given
from hypothesis import strategies as st
from servers import prefect_server, wait_for
from synthetic import write_images

from nelbo.data import read_table
from nelbo.flows.inference.shards import LEAST_IMAGES, MAX_CHUNKS, chunks
from nelbo.flows.options.options import ScoreOptions
from nelbo.flows.options.sources import make_options
from nelbo.flows.orchestration import cluster
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.runner import Direct
from nelbo.flows.workspace.errors import UsageError

Nelbo = Callable[..., tuple[int, str, str]]
Trained = tuple[Path, dict[str, Any]]
N = 60


@given(st.integers(0, 3000), st.sampled_from(list(MAX_CHUNKS)))
def test_pieces_of_work_are_whole_shards_in_order(n: int, runner: str) -> None:
    shards: Any = [SimpleNamespace(number=i, size=LEAST_IMAGES[runner]) for i in range(n)]
    found, most = chunks(shards, runner), MAX_CHUNKS[runner]
    assert [shard for chunk in found for shard in chunk] == shards
    assert len(found) == n if n <= most else most // 2 <= len(found) <= most
    assert all(found)


def test_small_shards_are_one_piece_here_and_several_on_a_cluster() -> None:
    shards: Any = [SimpleNamespace(size=256)] * 15
    assert [len(chunk) for chunk in chunks(shards, "local")] == [15]
    assert [len(chunk) for chunk in chunks(shards, "dask")] == [1] * 15


def test_runner_and_address_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    address = "tcp://127.0.0.1:8786"
    score: Any = {"images": "x"}
    with pytest.raises(UsageError, match="runner=dask needs the address of a Dask scheduler: --dask-address tcp://"):
        make_options(ScoreOptions, {**score, "runner": "dask"})
    with pytest.raises(UsageError, match=f"dask_address={address} goes with runner=dask, not local"):
        make_options(ScoreOptions, {**score, "dask_address": address})
    with pytest.raises(UsageError, match="dask_address='localhost': expected tcp://host:8786"):
        make_options(ScoreOptions, {**score, "runner": "dask", "dask_address": "localhost"})
    with pytest.raises(UsageError, match="runner='ray'"):
        make_options(ScoreOptions, {**score, "runner": "ray"})
    monkeypatch.setenv("NELBO_DASK_ADDRESS", address)
    options = make_options(ScoreOptions, score, None, ["runner=dask"])
    assert (options.runner, options.dask_address) == ("dask", address)


def test_a_port_without_a_dask_scheduler_is_refused(
    nelbo: Nelbo, images: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_ANSWER_S", 0.5)
    at = ["--workspace", trained[0], "--no-prefect", "--runner", "dask", "--dask-address"]
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        # A bound socket refuses the connection; a listening one accepts it and stays silent.
        address = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        for prepare in (lambda: None, mute.listen):
            prepare()
            code, out, err = nelbo("score", images / "new", *at, address)
            assert (code, out) == (2, "")
            (line,) = err.splitlines()
            assert line.startswith(f"nelbo: no Dask scheduler answers at {address}")


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    running = DaskCluster(tmp_path_factory.mktemp("dask"))
    try:
        running.add_workers(2)
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch")
    write_images(folder, N - 5, seed=23)
    write_images(folder, 4, seed=24, blot=True)
    (folder / "cut.png").write_bytes((folder / "tile_23_000.png").read_bytes()[:200])
    return folder


@pytest.fixture(scope="module")
def workspace(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One workspace for all batches here, so that each process loads its model only one time."""
    return Path(shutil.copytree(exported, tmp_path_factory.mktemp("shared") / "workspace"))


def rows(workspace: Path, batch_id: str) -> list[dict[str, Any]]:
    (path,) = workspace.glob(f"scores/*/batch_id={batch_id}/scores.parquet")
    return read_table(path).drop_columns(["run_id", "scored_at_utc"]).to_pylist()


@pytest.fixture(scope="module")
def here(workspace: Path, batch: Path) -> list[dict[str, Any]]:
    """The rows of a run without a cluster."""
    local = ScoreOptions(images=str(batch), workspace=str(workspace), batch_id="here", shard_size=6)
    execute("score", local, prefect=False)
    found = rows(workspace, "here")
    assert len(found) == N
    assert {row["verdict"] for row in found} == {"normal", "anomalous", "not_scored"}
    return found


def options(batch: Path, workspace: Path, dask: DaskCluster, **more: Any) -> ScoreOptions:
    place = {"images": str(batch), "workspace": str(workspace), "runner": "dask", "dask_address": dask.address}
    return ScoreOptions(**{"shard_size": 6, **place, **more})


@pytest.mark.slow
def test_a_cluster_gives_the_same_rows_and_loads_one_model_a_worker(
    nelbo: Nelbo,
    batch: Path,
    workspace: Path,
    dask: DaskCluster,
    here: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the command and relative paths; for two runs each worker loads the model one time."""
    monkeypatch.chdir(workspace.parent)
    images = os.path.relpath(batch)
    at = ["--workspace", "workspace", "--set", "shard_size=6", "--runner", "dask", "--dask-address", dask.address]
    for batch_id in ("first", "second"):
        code, _, err = nelbo("score", images, *at, "--batch-id", batch_id, "--no-prefect", "--json")
        assert (code, err) == (0, "")
        assert rows(workspace, batch_id) == here
    assert loaded(dask) == [1, 1]
    assert not [path for path in (workspace / "_staging").rglob("*") if path.is_file()]


def loaded(dask: DaskCluster) -> list[int]:
    with dask.client() as client:
        return sorted(client.run(loads).values())


def first_shards(workspace: Path, batch_id: str, n: int) -> list[Path]:
    """Wait for finished shards; the first `n`."""

    def finished() -> list[Path]:
        found = list(workspace.glob(f"_staging/shards.*.{batch_id}/[!.]*.parquet"))
        return found if len(found) >= n else []

    return wait_for(finished, "the first shards", every=0.001)


@pytest.mark.slow
def test_a_killed_worker_changes_no_row(
    batch: Path, workspace: Path, dask: DaskCluster, here: list[dict[str, Any]]
) -> None:
    pid = next(iter(dask.pids().values()))
    killed = []

    def kill() -> None:
        killed.append(len(first_shards(workspace, "killed", 1)))
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    # Shards of one image, so that the kill comes before the end.
    result = execute("score", options(batch, workspace, dask, batch_id="killed", shard_size=1), prefect=False)
    killer.join()
    assert killed[0] < N
    assert (result["n_images"], result["n_waiting"]) == (N, 0)
    assert rows(workspace, "killed") == here


@pytest.mark.slow
def test_a_cluster_gives_the_same_rows_through_prefect(
    batch: Path,
    workspace: Path,
    dask: DaskCluster,
    here: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from prefect.client.orchestration import get_client

    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "ERROR")
    with prefect_server(tmp_path) as server, server.here():
        execute("score", options(batch, workspace, dask, batch_id="flow"), prefect=True)
        with get_client(sync_client=True) as client:
            (flow_run,) = client.read_flow_runs()
            task_runs = client.read_task_runs()
    assert rows(workspace, "flow") == here
    mapped = [run for run in task_runs if run.name.startswith("score_shards")]
    assert len(mapped) == N // 6
    assert {run.flow_run_id for run in task_runs} == {flow_run.id}
    assert {run.state_name for run in task_runs} == {"Completed"}


@pytest.mark.slow
def test_files_that_workers_cannot_see_are_refused(
    nelbo: Nelbo, batch: Path, workspace: Path, dask: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = ["--no-prefect", "--runner", "dask", "--dask-address", dask.address]
    monkeypatch.chdir(workspace.parent)
    # This name leads each process to another folder.
    on += ["--batch-id", "unseen"]
    elsewhere = nelbo("score", batch, "--workspace", "/proc/self/cwd/workspace", *on)
    assert_refused(elsewhere, "the Dask worker at tcp://127.0.0.1:", "does not see the workspace /proc/self/cwd")
    files = fsspec.filesystem("memory")
    files.put(str(batch / "tile_23_001.png"), "/cluster/a.png")
    try:
        elsewhere = nelbo("score", "memory://cluster", "--workspace", workspace, *on)
    finally:
        files.rm("/cluster", recursive=True)
    assert_refused(elsewhere, "the Dask worker at tcp://127.0.0.1:", "cannot read a.png of memory://cluster")
    assert not list(workspace.glob("manifests/batch_id=unseen"))
    assert not [path for path in (workspace / "_staging").rglob("*") if path.is_file()]


@pytest.mark.slow
def test_an_error_of_a_worker_is_the_same_error_here(dask: DaskCluster) -> None:
    with dask.client() as client:
        runner = cluster.Cluster(client, Direct())
        with pytest.raises(UsageError, match=r"^twice 3 is refused$"):
            runner.map(double, [1, 2, 3, 4], [1] * 4)
        assert runner.map(abs, [-1, 2], [1, 1]) == [1, 2]


@pytest.mark.slow
def test_unfit_workers_are_refused_and_a_lost_scheduler_is_reported(
    nelbo: Nelbo, batch: Path, workspace: Path, tmp_path: Path, here: list[dict[str, Any]]
) -> None:
    """The test has a cluster of its own, because it breaks it."""
    (tmp_path / "old" / "keras-3.0.0.dist-info").mkdir(parents=True)
    (tmp_path / "old" / "keras-3.0.0.dist-info" / "METADATA").write_text("Name: keras\nVersion: 3.0.0\n")
    (tmp_path / "none" / "nelbo").mkdir(parents=True)
    # Imitates a machine without nelbo; an editable installation would find a module that is merely absent.
    missing = """raise ModuleNotFoundError("No module named 'nelbo.flows'")"""
    (tmp_path / "none" / "nelbo" / "__init__.py").write_text(missing)
    (tmp_path / "dask").mkdir()
    dask = DaskCluster(tmp_path / "dask")
    at = ["--workspace", workspace, "--no-prefect", "--runner", "dask", "--dask-address", dask.address]
    try:
        assert_refused(nelbo("score", batch, *at), "has no workers", f"dask worker {dask.address}")
        dask.add_workers(1, path=tmp_path / "none")
        assert_refused(nelbo("score", batch, *at), "the Dask worker at tcp://", "cannot run nelbo", "nelbo.flows")
        dask.remove_worker()
        dask.add_workers(1, path=tmp_path / "old")
        assert_refused(nelbo("score", batch, *at), "the Dask worker at tcp://", "has keras 3.0.0, but here it is 3.")
        # If one worker has a GPU, the other gets no work.
        dask.add_workers(1, "--resources", "GPU=1")
        (gpu,) = [address for address, facts in dask.workers().items() if facts["resources"]]
        assert nelbo("score", batch, *at, "--batch-id", "gpu", "--set", "shard_size=6")[0] == 0
        assert rows(workspace, "gpu") == here
        with dask.client() as client:
            found = client.run(loads)
        assert found.pop(gpu) == 1
        assert list(found.values()) == [0]
        killer = threading.Thread(target=lambda: (first_shards(workspace, "lost", 1), dask.scheduler.kill()))
        killer.start()
        started = time.monotonic()
        code, out, err = nelbo("score", batch, *at, "--batch-id", "lost", "--set", "shard_size=1")
        killer.join()
        assert (code, out) == (1, "")
        (line,) = err.splitlines()
        assert f"the Dask scheduler at {dask.address} was lost" in line
        assert line.endswith("It is safe to run the same command again.")
        assert time.monotonic() - started < 40
    finally:
        dask.close()


@pytest.mark.slow
def test_losing_all_workers_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_LOOK_S", 0.2)
    dask = DaskCluster(tmp_path)
    try:
        with dask.client() as client, pytest.raises(RuntimeError, match="all workers of the Dask scheduler"):
            cluster.Cluster(client, Direct()).map(abs, [1, 2], [1, 1])
    finally:
        dask.close()
