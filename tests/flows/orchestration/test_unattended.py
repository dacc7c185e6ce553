"""Deployments on real servers: scheduled and started by events, while flows, workers and servers are killed."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import PASSWORD, Prefect, end, free_port, postgresql, prefect_server, wait_for
from synthetic import write_images

from nelbo.data import read_table
from nelbo.flows.options.options import ScoreOptions
from nelbo.flows.orchestration.execution import execute

# Servers, workers and flows of their own processes: on a slow machine each takes a minute to start.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

Trained = tuple[Path, dict[str, Any]]
PROJECT = Path(__file__).parents[3] / "prefect.yaml"
N = 24


def rows(workspace: Path) -> dict[str, list[dict[str, Any]]]:
    """Batch -> its rows, but for when and by which run they were made."""
    paths = sorted(workspace.glob("scores/*/*/scores.parquet"))
    own = ("run_id", "scored_at_utc")
    return {path.parent.name.partition("=")[2]: read_table(path).drop_columns(own).to_pylist() for path in paths}


def copy_of(trained: Trained, folder: Path) -> Path:
    """A workspace with the same model and nothing scored."""
    shutil.copytree(trained[0], folder)
    clear(folder)
    return folder


def clear(workspace: Path) -> None:
    for name in ("scores", "flagged", "landing", "_staging"):
        shutil.rmtree(workspace / name, ignore_errors=True)
    # Not those of what the model was made from.
    for path in workspace.glob("manifests/batch_id=[!tk]*"):
        shutil.rmtree(path)


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A landing folder that nobody writes to any more."""
    folder = tmp_path_factory.mktemp("landing")
    write_images(folder / "a", N - 6, seed=31)
    write_images(folder / "b", 6, seed=32, blot=True)
    for path in folder.rglob("*.png"):
        os.utime(path, (1e9, 1e9))
    return folder


@pytest.fixture(scope="module")
def direct(trained: Trained, landed: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of a run without Prefect."""
    workspace = copy_of(trained, tmp_path_factory.mktemp("direct") / "w")
    execute("score", ScoreOptions(images=str(landed), workspace=str(workspace)), prefect=False)
    (found,) = rows(workspace).values()
    assert len(found) == N
    return found


def project(server: Prefect, trained: Trained, landed: Path, hourly: str) -> Path:
    """The deployments of prefect.yaml, with places of this test, registered by Prefect's own command; the workspace."""
    home = server.folder / "srv"
    home.mkdir(exist_ok=True)
    workspace = copy_of(trained, home / "workspace")
    text = PROJECT.read_text().replace("/srv/nelbo/landing", str(landed)).replace("/srv/nelbo", str(home))
    text = text.replace("5 * * * *", hourly)
    (server.folder / "prefect.yaml").write_text(text)
    server.command("prefect", "work-pool", "create", "nelbo", "--type", "process")
    server.command("prefect", "--no-prompt", "deploy", "--all")
    return workspace


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Prefect]:
    """On PostgreSQL; the other tests here are on SQLite."""
    with postgresql() as database, prefect_server(tmp_path / "prefect", database=database) as found:
        yield found


def test_a_scheduled_and_an_event_triggered_run(
    server: Prefect, trained: Trained, landed: Path, direct: list[dict[str, Any]]
) -> None:
    workspace = project(server, trained, landed, hourly="* * * * *")
    worker = server.worker("nelbo")
    try:
        scheduled = wait_for(
            lambda: [run for run in server.runs("score/hourly") if run["state_type"] == "COMPLETED"],
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
        deployment = server.get("deployments/name/score/hourly")
        server.call("PATCH", f"deployments/{deployment['id']}", {"paused": True}).raise_for_status()
        payload = f'{{"images": "{landed}"}}'
        server.command(
            "prefect", "event", "emit", "nelbo.batch.landed", "--resource-id", "camera", "--payload", payload
        )
        (started,) = wait_for(lambda: server.runs("score/on-landing"), "the run that the event starts", 180)
        assert server.ended(started["id"])["state_type"] == "COMPLETED"
        every = [row["relative_path"] for batch in rows(workspace).values() for row in batch]
        assert sorted(every) == sorted(str(path.relative_to(landed)) for path in landed.rglob("*.png"))

        # Nothing new: a run that says so.
        idle = server.ended(server.submit("score/hourly"))
        assert (idle["state_type"], idle["state_name"]) == ("COMPLETED", "Skipped")
        # A parameter of the wrong type is refused when it is submitted.
        refused = server.call(
            "POST", f"deployments/{deployment['id']}/create_flow_run", {"parameters": {"fdr": "high"}}
        )
        assert refused.status_code in (409, 422)
        events = server.ask("events/filter", filter={"event": {"prefix": ["nelbo."]}})["events"]
        assert {event["event"] for event in events} >= {"nelbo.batch.landed", "nelbo.scores.ready"}
    finally:
        end(worker)
        for path in (landed / "c").glob("*"):
            path.unlink()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Prefect]:
    with prefect_server(tmp_path / "prefect") as found:
        yield found


def in_the_middle(workspace: Path) -> None:
    """Wait until some shards are finished and others are not."""
    wait_for(lambda: len(list(workspace.glob("_staging/shards.*/*.parquet"))) >= 3, "three shards", 180)


def assert_published_once(server: Prefect, workspace: Path, direct: list[dict[str, Any]]) -> None:
    (found,) = rows(workspace).values()
    assert found == direct
    # A run that Prefect took for crashed may still be at work on the same rows. It may leave shards behind, which
    # `nelbo prune` removes: Prefect ends the tasks of a flow that it knows to have completed.
    wait_for(lambda: not server.is_working(), "the end of all work", 300)
    assert list(rows(workspace).values()) == [direct]


def test_flows_workers_and_servers_are_killed(
    sqlite: Prefect, trained: Trained, landed: Path, direct: list[dict[str, Any]]
) -> None:
    workspace = project(sqlite, trained, landed, hourly="0 0 1 1 *")
    worker = sqlite.worker("nelbo")
    try:
        # The flow's own process.
        run_id = sqlite.submit("score/hourly", batch_id="flow", shard_size=1)
        in_the_middle(workspace)
        pid = int(str(sqlite.run(run_id)["infrastructure_pid"]).rpartition(":")[2])
        os.kill(pid, signal.SIGKILL)
        assert sqlite.ended(run_id)["state_type"] == "CRASHED"
        assert not rows(workspace)
        retry(sqlite, run_id)
        assert_published_once(sqlite, workspace, direct)
        clear(workspace)

        # The worker: its flow goes on alone, or a new worker's retry ends it.
        run_id = sqlite.submit("score/hourly", batch_id="worker", shard_size=1)
        in_the_middle(workspace)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        worker = sqlite.worker("nelbo")
        if sqlite.ended(run_id)["state_type"] != "COMPLETED":
            retry(sqlite, run_id)
        assert_published_once(sqlite, workspace, direct)
        clear(workspace)

        # The server, for 20 seconds.
        run_id = sqlite.submit("score/hourly", batch_id="server", shard_size=1)
        in_the_middle(workspace)
        sqlite.stop()
        with pytest.raises(AssertionError):
            wait_for(lambda: rows(workspace), "nothing", 20)
        sqlite.start()
        if sqlite.ended(run_id)["state_type"] != "COMPLETED":
            retry(sqlite, run_id)
        assert_published_once(sqlite, workspace, direct)
    finally:
        end(worker)


def retry(server: Prefect, run_id: str) -> None:
    """As an operator does: Prefect reports a crash twice, seconds apart, and the second takes a quick retry back.

    A run whose retry has begun meanwhile cannot be retried, and is waited for.
    """

    def again() -> bool:
        server.command("prefect", "flow-run", "retry", run_id, check=False)
        return bool(server.ended(run_id)["state_type"] == "COMPLETED")

    wait_for(again, "a retry that completes", 300)


def test_passwords(trained: Trained, landed: Path, tmp_path: Path) -> None:
    workspace = copy_of(trained, tmp_path / "w")
    line = ("nelbo", "score", landed, "--workspace", workspace)
    with prefect_server(tmp_path / "prefect", password=PASSWORD) as server:
        for given in ("ada:byron", ""):
            bad = server.command(*line, check=False, PREFECT_API_AUTH_STRING=given)
            assert bad.returncode == 2
            assert re.search(r"refuses the password. Set PREFECT_API_AUTH_STRING", bad.stderr)
            assert "byron" not in bad.stderr
            assert len(bad.stderr.splitlines()) == 1
        server.command(*line)
        assert len(server.ask("flow_runs/filter")) == 1
    assert len(rows(workspace)) == 1


def test_served_without_a_pool(trained: Trained, landed: Path, direct: list[dict[str, Any]], sqlite: Prefect) -> None:
    workspace = copy_of(trained, sqlite.folder / "w")
    line = ["nelbo", "serve", "--images", str(landed), "--workspace", str(workspace)]
    serving = subprocess.Popen(
        line, env=sqlite.environment, cwd=sqlite.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: sqlite.ask("deployments/filter"), "the deployments")
        wait_for(lambda: len(sqlite.ask("deployments/filter")) == 3, "all of them")
        # Nothing to report yet: said, and no failure.
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


def test_two_lines_on_one_server(trained: Trained, landed: Path, sqlite: Prefect, tmp_path: Path) -> None:
    """The second deploys beside the first; each is scheduled, scores its own folder, and hears its own events."""
    other = tmp_path / "other"
    for path in write_images(other, 5, seed=34):
        os.utime(path, (1e9, 1e9))
    lines = {"bottles": landed, "caps": other}
    workspaces = {line: copy_of(trained, sqlite.folder / line / "workspace") for line in lines}
    sqlite.command("prefect", "work-pool", "create", "nelbo", "--type", "process")
    # Named without a line.
    text = PROJECT.read_text().replace("/srv/nelbo/workspace", str(workspaces["caps"]))
    (sqlite.folder / "prefect.yaml").write_text(text)
    sqlite.command("prefect", "--no-prompt", "deploy", "--name", "hourly")

    def deploy(line: str, images: Path, workspace: Path, *more: object, check: bool = True) -> Any:
        where = ("--images", images, "--workspace", workspace)
        return sqlite.command("nelbo", "deploy", "--pool", "nelbo", "--line", line, *where, *more, check=check)

    def on_server() -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in sqlite.ask("deployments/filter")}

    said = [deploy(line, images, workspaces[line]).stderr for line, images in lines.items()]
    for text in said:
        assert (
            "score/hourly, which has no line's name (it was made by nelbo 0.1, or from prefect.yaml), works on " in text
        )
        assert "prefect deployment delete score/hourly" in text
    # As nelbo 0.1 named it, and its code.
    plain = sqlite.get("deployments/name/score/hourly")
    kept = {name: plain[name] for name in ("name", "flow_id", "parameters", "work_pool_name", "tags")}
    sqlite.ask("deployments/", **kept, entrypoint="flows.orchestration.score")
    again = f"nelbo deploy --pool nelbo --workspace {workspaces['caps']} && prefect deployment delete score/hourly"
    assert again in deploy("caps", other, workspaces["caps"]).stderr
    assert again in sqlite.command("nelbo", "doctor").stdout
    first = on_server()
    assert set(first) == {"hourly", *(f"{line}-{name}" for line in lines for name in ("hourly", "on-landing", "daily"))}
    for line in lines:
        mine = [one for name, one in first.items() if name.startswith(line)]
        assert all(one["parameters"]["workspace"] == str(workspaces[line]) for one in mine)
        assert all(f"line:{line}" in one["tags"] for one in mine)

    # The same line again, in another folder of its own; and another one under its name, which is refused.
    deploy("bottles", landed, workspaces["bottles"], "--set", "drift_batches=7", "--keep", "90d")
    refused = deploy("bottles", other, workspaces["caps"], check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "another name with --line" in refused.stderr
    second = on_server()
    assert set(second) == {*first, "bottles-monthly"}
    assert {name: one["id"] for name, one in second.items() if name in first} == {
        name: one["id"] for name, one in first.items()
    }
    assert second["bottles-hourly"]["parameters"]["drift_batches"] == 7
    assert second["caps-hourly"]["parameters"] == first["caps-hourly"]["parameters"]
    # Asked for once, and not a second time: it is said.
    assert "prune/bottles-monthly stays" in deploy("bottles", landed, workspaces["bottles"]).stderr

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
        # By nelbo itself: the batch has landed in one line's workspace.
        sqlite.command("nelbo", "ingest", other, "--workspace", workspaces["caps"])
        (run,) = wait_for(lambda: sqlite.runs("score/caps-on-landing"), "the run that the event starts", 180)
        assert sqlite.ended(run["id"])["state_type"] == "COMPLETED"
        assert sqlite.runs("score/bottles-on-landing") == []
    finally:
        end(worker)


def test_a_server_that_is_down(trained: Trained, landed: Path, tmp_path: Path) -> None:
    workspace = copy_of(trained, tmp_path / "w")
    server = Prefect(tmp_path, port=free_port())
    for line in (("score", landed), ("serve", "--images", landed), ("deploy", "--pool", "p", "--images", landed)):
        down = server.command("nelbo", *line, "--workspace", workspace, check=False)
        assert (down.returncode, down.stdout) == (2, "")
        assert "does not answer" in down.stderr
        assert len(down.stderr.splitlines()) == 1
    server.command("nelbo", "score", landed, "--workspace", workspace, "--no-prefect")
    assert len(rows(workspace)) == 1
