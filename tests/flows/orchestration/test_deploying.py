"""docs/how-to/deploying.md works as written: each command and each automation."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers import Prefect, wait_for
from synthetic import write_images

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "deploying.md").read_text(encoding="utf-8")
(COMMANDS,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
AUTOMATIONS = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]

#: Commands whose work is done before the test: an environment with nelbo installed.
INSTALLATION = ["python3.11 -m venv .venv && . .venv/bin/activate", "pip install -c constraints.txt -e '.[cpu]'"]

#: A flow that stays alive for a long time.
SLEEPER = """
import time

from prefect import flow

@flow
def sleeper():
    time.sleep(600)

sleeper()
"""


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prefect, str]]:
    """The server that the commands have set up, and what they printed."""
    home = tmp_path_factory.mktemp("srv")
    write_images(home / "normal", 60, seed=41)
    write_images(home / "held-out", 30, seed=42)
    for path in write_images(home / "landing", 12, seed=43):
        os.utime(path, (1e9, 1e9))
    server = Prefect(home / "prefect")
    server.prepare()
    lines = COMMANDS.replace("/srv/nelbo", str(home)).replace("4200", str(server.port)).splitlines()
    assert lines[:2] == INSTALLATION
    script = "\n".join(["set -ex", *lines[2:]])
    # Small and quick enough for a test; `deploy` also writes nelbo's variables into the deployments.
    small = {"NELBO_BACKBONE": "filters", "NELBO_IMAGE_SIZE": "64", "PREFECT_WORKER_QUERY_SECONDS": "1"}
    environment = server.environment | small | {"PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S"}
    # The commands set this variable themselves.
    del environment["PREFECT_API_URL"]
    # A file instead of a pipe, which the server and the worker would hold open.
    log = home / "log"
    try:
        with log.open("w") as printed:
            done = subprocess.run(
                ["/bin/bash", "-c", script],
                env=environment,
                cwd=server.folder,
                stdout=printed,
                stderr=printed,
                check=False,
            )
        assert done.returncode == 0, log.read_text()
        yield server, log.read_text()
    finally:
        server.clean_up()


def test_every_command_of_the_page_works(newcomer: tuple[Prefect, str]) -> None:
    server, printed = newcomer
    assert "Flow run finished successfully" in printed
    (first,) = (run for run in server.runs("score/cells-hourly") if not run["auto_scheduled"])
    assert (first["state_type"], first["name"].partition(" with ")[1]) == ("COMPLETED", " with ")
    (started,) = wait_for(lambda: server.runs("score/cells-on-landing"), "the run that the event starts", 60)
    # The first run has scored everything.
    assert server.ended(started["id"])["state_name"] == "Skipped"
    assert re.search(r"^b\w{7,16} +m\w{7,16} +12 ", printed, re.MULTILINE)


def test_the_automations_do_what_they_say(newcomer: tuple[Prefect, str], tmp_path: Path) -> None:
    server, _ = newcomer
    drift, silent = AUTOMATIONS
    weekly = server.get("deployments/name/train/cells-weekly")["id"]
    drift["actions"][0]["deployment_id"] = weekly
    workspace = drift["trigger"]["match"]["nelbo.workspace"]
    # A crash is reported after 90 seconds without a heartbeat; here after the fewest that Prefect accepts.
    silent["within"] = 10
    path = tmp_path / "automations.yaml"
    path.write_text(yaml.safe_dump({"automations": [drift, silent]}))
    server.command("prefect", "automation", "create", "--from-file", path)
    # It is enough that a training is requested.
    server.call("PATCH", "work_pools/nelbo", {"is_paused": True}).raise_for_status()
    script = tmp_path / "sleeper.py"
    script.write_text(SLEEPER)
    environment = server.environment | {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    killed = subprocess.Popen([sys.executable, script], env=environment, stderr=subprocess.DEVNULL)
    sleeping = wait_for(lambda: of_flow(server, "sleeper"), "the flow that sleeps", 60)

    def beats() -> Any:
        events = {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{sleeping['id']}"]},
        }
        return server.ask("events/filter", filter=events)["events"]

    wait_for(beats, "its heartbeat", 60)
    killed.kill()
    killed.wait()
    about = ("--resource-id", "nelbo.batch.b1", "--resource", f"nelbo.workspace={workspace}")
    server.command("prefect", "event", "emit", "nelbo.drift.detected", *about)
    wait_for(lambda: [run for run in server.runs("train/cells-weekly") if not run["auto_scheduled"]], "a candidate", 60)
    wait_for(lambda: of_flow(server, "sleeper")["state_type"] == "CRASHED", "the crash to be seen", 150)


def of_flow(server: Prefect, name: str) -> Any:
    found = server.ask("flow_runs/filter", flows={"name": {"any_": [name]}})
    return found[0] if found else None
