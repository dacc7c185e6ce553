"""Deployments on real servers: scheduled and started by events, while flows, workers and servers are killed."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from servers import PASSWORD, Prefect, end, postgresql, prefect_server, wait_for
from synthetic import write_images

from nelbo.data import read_table
from nelbo.flows.options.options import ScoreOptions
from nelbo.flows.orchestration.execution import execute

# Servers, workers and flows run in their own processes, each of which takes a slow machine a minute to start.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

Nelbo = Callable[..., tuple[int, str, str]]
PROJECT = Path(__file__).parents[3] / "prefect.yaml"
N = 24


def rows(workspace: Path) -> dict[str, list[dict[str, Any]]]:
    """Batch -> its rows, without their times and run ids."""
    paths = sorted(workspace.glob("scores/*/*/scores.parquet"))
    own = ("run_id", "scored_at_utc")
    return {path.parent.name.partition("=")[2]: read_table(path).drop_columns(own).to_pylist() for path in paths}


def clear(workspace: Path) -> None:
    for name in ("scores", "flagged", "landing", "_staging"):
        shutil.rmtree(workspace / name, ignore_errors=True)
    # Keep the manifests of the images behind the model.
    for path in workspace.glob("manifests/batch_id=[!tk]*"):
        shutil.rmtree(path)


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A landing folder whose files are complete."""
    folder = tmp_path_factory.mktemp("landing")
    write_images(folder / "a", N - 6, seed=31)
    write_images(folder / "b", 6, seed=32, blot=True)
    for path in folder.rglob("*.png"):
        os.utime(path, (1e9, 1e9))
    return folder


@pytest.fixture(scope="module")
def direct(exported: Path, landed: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of a run without Prefect."""
    workspace = shutil.copytree(exported, tmp_path_factory.mktemp("direct") / "w")
    execute("score", ScoreOptions(images=str(landed), workspace=str(workspace)), prefect=False)
    (found,) = rows(workspace).values()
    assert len(found) == N
    return found


def project(server: Prefect, exported: Path, landed: Path, hourly: str) -> Path:
    """Deploy prefect.yaml with this test's paths by Prefect's own command; the workspace."""
    home = server.folder / "srv"
    workspace = shutil.copytree(exported, home / "workspace")
    text = PROJECT.read_text().replace("/srv/nelbo/landing", str(landed)).replace("/srv/nelbo", str(home))
    text = text.replace("5 * * * *", hourly)
    (server.folder / "prefect.yaml").write_text(text)
    server.add_pool()
    server.command("prefect", "--no-prompt", "deploy", "--all")
    return workspace


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """A server on PostgreSQL, with a password."""
    folder = tmp_path_factory.mktemp("guarded")
    with postgresql() as database, prefect_server(folder, database=database, password=PASSWORD) as found:
        yield found


def test_a_scheduled_and_an_event_triggered_run_score_each_image_one_time(
    guarded: Prefect, exported: Path, landed: Path, direct: list[dict[str, Any]]
) -> None:
    workspace = project(guarded, exported, landed, hourly="* * * * *")
    worker = guarded.worker("nelbo")
    try:
        scheduled = wait_for(
            lambda: [run for run in guarded.runs("score/hourly") if run["state_type"] == "COMPLETED"],
            "a scheduled run",
            400,
        )[0]
        assert scheduled["auto_scheduled"]
        (batch_id,) = rows(workspace)
        assert rows(workspace)[batch_id] == direct
        assert batch_id in scheduled["name"]

        more = write_images(landed / "c", 4, seed=33)
        for path in more:
            os.utime(path, (1e9, 1e9))
        deployment = guarded.get("deployments/name/score/hourly")
        guarded.call("PATCH", f"deployments/{deployment['id']}", {"paused": True}).raise_for_status()
        payload = f'{{"images": "{landed}"}}'
        guarded.command(
            "prefect", "event", "emit", "nelbo.batch.landed", "--resource-id", "camera", "--payload", payload
        )
        (started,) = wait_for(lambda: guarded.runs("score/on-landing"), "the run that the event starts", 180)
        assert guarded.ended(started["id"])["state_type"] == "COMPLETED"
        every = [row["relative_path"] for batch in rows(workspace).values() for row in batch]
        assert sorted(every) == sorted(str(path.relative_to(landed)) for path in landed.rglob("*.png"))

        # If nothing is new, the run says so.
        idle = guarded.ended(guarded.submit("score/hourly"))
        assert (idle["state_type"], idle["state_name"]) == ("COMPLETED", "Skipped")
        # A parameter of the wrong type is refused when it is submitted.
        refused = guarded.call(
            "POST", f"deployments/{deployment['id']}/create_flow_run", {"parameters": {"fdr": "high"}}
        )
        assert refused.status_code in (409, 422)
        events = guarded.ask("events/filter", filter={"event": {"prefix": ["nelbo."]}})["events"]
        assert {event["event"] for event in events} >= {"nelbo.batch.landed", "nelbo.scores.ready"}
    finally:
        end(worker)
        shutil.rmtree(landed / "c", ignore_errors=True)


def test_a_server_with_a_password_refuses_a_wrong_one(
    guarded: Prefect, exported: Path, landed: Path, tmp_path: Path
) -> None:
    workspace = shutil.copytree(exported, tmp_path / "w")
    line = ("nelbo", "score", landed, "--workspace", workspace)
    for given in ("ada:byron", ""):
        bad = guarded.command(*line, check=False, PREFECT_API_AUTH_STRING=given)
        assert bad.returncode == 2
        assert re.search(r"refuses the password. Set PREFECT_API_AUTH_STRING", bad.stderr)
        assert "byron" not in bad.stderr
        assert len(bad.stderr.splitlines()) == 1
    assert not rows(workspace)
    guarded.command(*line)
    assert len(rows(workspace)) == 1


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as found:
        yield found


@pytest.fixture
def sqlite(running: Prefect) -> Iterator[Prefect]:
    """A server on SQLite, without deployments."""
    yield running
    if running.process.poll() is not None:
        # The test has failed while the server was stopped.
        running.start()
    running.delete_deployments()


def in_the_middle(workspace: Path) -> None:
    """Wait until some shards are finished and others are not."""
    wait_for(lambda: len(list(workspace.glob("_staging/shards.*/*.parquet"))) >= 3, "three shards", 180)


def assert_published_once(server: Prefect, workspace: Path, direct: list[dict[str, Any]]) -> None:
    (found,) = rows(workspace).values()
    assert found == direct
    # A run that Prefect took for crashed may still work on the same rows. It may leave shards behind, which
    # `nelbo prune` removes: Prefect ends the tasks of a flow that it knows to have completed.
    wait_for(lambda: not server.is_working(), "the end of all work", 300)
    assert list(rows(workspace).values()) == [direct]


def test_batches_survive_killed_flows_workers_and_servers(
    sqlite: Prefect, exported: Path, landed: Path, direct: list[dict[str, Any]]
) -> None:
    workspace = project(sqlite, exported, landed, hourly="0 0 1 1 *")
    worker = sqlite.worker("nelbo")

    def begin(batch_id: str) -> str:
        run_id = sqlite.submit("score/hourly", batch_id=batch_id, shard_size=1)
        in_the_middle(workspace)
        return run_id

    def finish(run_id: str) -> None:
        wait_for(lambda: completed(sqlite, run_id), "a retry that completes", 300)
        assert_published_once(sqlite, workspace, direct)
        clear(workspace)

    try:
        # Kill the flow's process.
        run_id = begin("flow")
        pid = int(str(sqlite.run(run_id)["infrastructure_pid"]).rpartition(":")[2])
        os.kill(pid, signal.SIGKILL)
        assert sqlite.ended(run_id)["state_type"] == "CRASHED"
        assert not rows(workspace)
        finish(run_id)

        # Kill the worker: its flow goes on alone, or a retry by a new worker completes it.
        run_id = begin("worker")
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        worker = sqlite.worker("nelbo")
        finish(run_id)

        # Kill the server, and start it again after some seconds.
        run_id = begin("server")
        sqlite.stop()
        # The flow may end without the server, if it has nothing left to ask.
        with suppress(AssertionError):
            wait_for(lambda: rows(workspace), "the flow on its own", 5)
        sqlite.start()
        finish(run_id)
    finally:
        end(worker)


def completed(server: Prefect, run_id: str) -> bool:
    """Whether a run has completed; if it failed, retry it as an operator would.

    Prefect reports a crash twice, seconds apart, and the second report undoes a quick retry. If a retry has begun
    meanwhile, the run is waited for.
    """
    if server.ended(run_id)["state_type"] == "COMPLETED":
        return True
    server.ask(f"flow_runs/{run_id}/set_state", state={"type": "SCHEDULED"}, force=True)
    return False


def test_deployments_are_served_without_a_pool(
    exported: Path, landed: Path, direct: list[dict[str, Any]], sqlite: Prefect
) -> None:
    workspace = shutil.copytree(exported, sqlite.folder / "w")
    line = ["nelbo", "serve", "--images", str(landed), "--workspace", str(workspace)]
    environment = sqlite.environment | {"PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    serving = subprocess.Popen(
        line, env=environment, cwd=sqlite.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: len(sqlite.ask("deployments/filter")) == 3, "all of them")
        # A report before the first batch says so, and is no failure.
        early = sqlite.ended(sqlite.submit("report/w-daily"))
        assert (early["state_type"], early["state_name"]) == ("COMPLETED", "Skipped")
        assert "no batch is scored yet" in early["state"]["message"]
        assert sqlite.ended(sqlite.submit("score/w-hourly"))["state_type"] == "COMPLETED"
        assert_published_once(sqlite, workspace, direct)
        serving.send_signal(signal.SIGINT)
        out, err = serving.communicate(timeout=180)
        assert "score/w-on-landing" in out
        assert "train/w-weekly is left out: it needs --normal" in err
        assert all(deployment["paused"] for deployment in sqlite.ask("deployments/filter"))
    finally:
        serving.kill()
        serving.wait()


def test_two_lines_share_one_server(
    exported: Path, landed: Path, sqlite: Prefect, tmp_path: Path, nelbo: Nelbo
) -> None:
    """The second deploys beside the first; each is scheduled, scores its own folder, and reacts to its own events."""
    other = tmp_path / "other"
    for path in write_images(other, 5, seed=34):
        os.utime(path, (1e9, 1e9))
    lines = {"bottles": landed, "caps": other}
    workspaces = {line: shutil.copytree(exported, tmp_path / line / "workspace") for line in lines}
    sqlite.add_pool()
    # A deployment whose name holds no line.
    plain = {"name": "hourly", "flow_id": sqlite.ask("flows/", name="score")["id"], "work_pool_name": "nelbo"}
    plain |= {"parameters": {"workspace": str(workspaces["caps"])}, "tags": ["nelbo"]}
    sqlite.ask("deployments/", **plain, entrypoint="nelbo.flows.orchestration.score")

    def run(*arguments: object) -> tuple[int, str, str]:
        with sqlite.here():
            return nelbo(*arguments)

    def deploy(line: str, images: Path, workspace: Path, *more: object) -> tuple[int, str, str]:
        where = ("--images", images, "--workspace", workspace)
        return run("deploy", "--pool", "nelbo", "--line", line, *where, *more)

    def on_server() -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in sqlite.ask("deployments/filter")}

    for line, images in lines.items():
        code, _, err = deploy(line, images, workspaces[line])
        assert code == 0
        assert (
            "score/hourly, which has no line's name (it was made by nelbo 0.1, or from prefect.yaml), works on " in err
        )
        assert "prefect deployment delete score/hourly" in err
    # The entrypoint that nelbo 0.1 used.
    sqlite.ask("deployments/", **plain, entrypoint="flows.orchestration.score")
    again = f"nelbo deploy --pool nelbo --workspace {workspaces['caps']} && prefect deployment delete score/hourly"
    assert again in deploy("caps", other, workspaces["caps"])[2]
    assert again in run("doctor")[1]
    first = on_server()
    assert set(first) == {"hourly", *(f"{line}-{name}" for line in lines for name in ("hourly", "on-landing", "daily"))}
    for line in lines:
        mine = [one for name, one in first.items() if name.startswith(line)]
        assert all(one["parameters"]["workspace"] == str(workspaces[line]) for one in mine)
        assert all(f"line:{line}" in one["tags"] for one in mine)

    # The same line again with other settings; then another workspace under its name, which is refused.
    assert deploy("bottles", landed, workspaces["bottles"], "--set", "drift_batches=7", "--keep", "90d")[0] == 0
    code, out, err = deploy("bottles", other, workspaces["caps"])
    assert (code, out) == (2, "")
    assert "another name with --line" in err
    second = on_server()
    assert set(second) == {*first, "bottles-monthly"}
    assert {name: one["id"] for name, one in second.items() if name in first} == {
        name: one["id"] for name, one in first.items()
    }
    assert second["bottles-hourly"]["parameters"]["drift_batches"] == 7
    assert second["caps-hourly"]["parameters"] == first["caps-hourly"]["parameters"]
    # Retention was requested only the first time, so the second says that its deployment stays.
    assert "prune/bottles-monthly stays" in deploy("bottles", landed, workspaces["bottles"])[2]

    def scheduled(name: str) -> bool:
        return any(run["auto_scheduled"] for run in sqlite.runs(f"score/{name}"))

    wait_for(lambda: scheduled("bottles-hourly") and scheduled("caps-hourly"), "both schedules", 300)
    worker = sqlite.worker("nelbo")
    try:
        started = [sqlite.submit(f"score/{line}-hourly") for line in lines]
        assert all(sqlite.ended(run_id)["state_type"] == "COMPLETED" for run_id in started)
        for line, images in lines.items():
            (found,) = rows(workspaces[line]).values()
            assert sorted(row["relative_path"] for row in found) == sorted(
                str(path.relative_to(images)) for path in images.rglob("*.png")
            )
        # nelbo itself emits the event: the batch has landed in one line's workspace.
        assert run("ingest", other, "--workspace", workspaces["caps"])[0] == 0
        (on_landing,) = wait_for(lambda: sqlite.runs("score/caps-on-landing"), "the run that the event starts", 180)
        assert sqlite.ended(on_landing["id"])["state_type"] == "COMPLETED"
        assert sqlite.runs("score/bottles-on-landing") == []
    finally:
        end(worker)


def test_deployments_of_0_1_are_upgraded_in_place(sqlite: Prefect, landed: Path, tmp_path: Path, nelbo: Nelbo) -> None:
    sqlite.add_pool()
    at = ("--workspace", tmp_path / "w")
    with sqlite.here():
        assert nelbo("deploy", "--pool", "nelbo", "--line", "caps", "--images", landed, *at)[0] == 0
        before = {one["name"]: one for one in sqlite.ask("deployments/filter")}
        old = before["caps-hourly"]
        stored = {"parameters": old["parameters"] | {"joint": "fisher"}, "entrypoint": "flows.orchestration.score"}
        sqlite.call("PATCH", f"deployments/{old['id']}", stored).raise_for_status()
        code, out, err = nelbo("upgrade", *at)
        assert code == 0, err
        assert "score/caps-hourly" in out
        assert sqlite.get(f"deployments/{old['id']}")["entrypoint"] == "flows.orchestration.score"
        code, out, err = nelbo("upgrade", *at, "--apply")
        assert (code, out.splitlines()[-3]) == (0, "1 change made."), err
        # Everything else is unchanged: times, pool, tags, and the automations of triggers.
        after = {one["name"]: one for one in sqlite.ask("deployments/filter")}
        changing = {"updated", "updated_by", "version_id", "version_info"}
        for name, one in before.items():
            for key in one.keys() - changing:
                assert after[name][key] == one[key], (name, key)
        assert "Nothing of an older version is left" in nelbo("upgrade", *at, "--apply")[1]


def test_a_server_that_is_down_is_refused(landed: Path, tmp_path: Path, nelbo: Nelbo) -> None:
    with Prefect(tmp_path).here():
        for line in (("score", landed), ("serve", "--images", landed), ("deploy", "--pool", "p", "--images", landed)):
            code, out, err = nelbo(*line, "--workspace", tmp_path / "w")
            assert (code, out) == (2, "")
            assert "does not answer" in err
            assert len(err.splitlines()) == 1
        assert nelbo("ingest", landed, "--workspace", tmp_path / "w", "--no-prefect")[0] == 0
