"""Nothing is sent from this machine, by nelbo or by packages that would otherwise send telemetry."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from browser import Watched, chromium, dashboard
from network import loud, outgoing, run_watched, watching
from servers import prefect_server
from synthetic import write_images

_BIN = Path(sys.executable).parent
#: The password of a dashboard that lives for one test.
PASSWORD = "correct horse"  # noqa: S105


def test_telemetry_is_off_before_anything_is_imported(tmp_path: Path) -> None:
    code = "import os; from nelbo import flows, vae_core; print(*(os.environ.get(name) for name in {!r}.split()))"
    names = "DO_NOT_TRACK PREFECT_SERVER_ANALYTICS_ENABLED ORT_DISABLE_TELEMETRY"
    line = [sys.executable, "-c", code.format(names)]

    def found(**said: str) -> list[str]:
        environment = loud() | said
        return subprocess.run(
            line, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.split()

    assert found() == ["1", "false", "1"]
    # Explicit values of the user stay.
    assert found(DO_NOT_TRACK="0", PREFECT_SERVER_ANALYTICS_ENABLED="true") == ["0", "true", "1"]


@pytest.mark.slow
def test_the_system_call_watch_detects_outgoing_traffic(tmp_path: Path) -> None:
    """Also what child processes send; without this the tests below would prove nothing."""
    code = """
import socket, subprocess, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as some:
    some.sendto(b"x", (sys.argv[1], 9))
if len(sys.argv) > 2:
    subprocess.run([sys.executable, "-c", sys.argv[2], "192.0.2.2"])
"""
    run_watched(tmp_path / "log", sys.executable, "-c", code, "192.0.2.1", code, cwd=tmp_path)
    found = "".join(outgoing(tmp_path / "log"))
    assert "192.0.2.1" in found
    assert "192.0.2.2" in found


@pytest.mark.slow
def test_commands_send_nothing_to_the_network(tmp_path: Path) -> None:
    write_images(tmp_path / "normal", 60, seed=1)
    write_images(tmp_path / "new", 5, seed=2)
    log = tmp_path / "log"
    # Training exports engines, too.
    small = ["--set", "image_size=16", "--set", "epochs=1", "--set", "engines=onnx,openvino", "--no-prefect"]
    for line in (
        ["train", "--normal", "normal", *small],
        *(["score", "new", "--engine", engine, "--no-prefect"] for engine in ("onnx", "openvino")),
        ["doctor"],
    ):
        done = run_watched(log, _BIN / "nelbo", *line, cwd=tmp_path, HOME=str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert outgoing(log) == [], line


@pytest.mark.slow
def test_flows_connect_only_to_their_server(tmp_path: Path) -> None:
    write_images(tmp_path / "new", 5, seed=2)
    log = tmp_path / "log"
    with prefect_server(tmp_path / "prefect") as server:
        home = {"HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "home"), "PREFECT_API_URL": server.api}
        done = run_watched(log, _BIN / "nelbo", "ingest", "new", "--prefect", cwd=tmp_path, **home)
    assert done.returncode == 0, done.stderr
    assert f"htons({server.port})" in log.read_text()
    assert outgoing(log) == []


@pytest.mark.slow
def test_the_dashboard_sends_nothing_to_the_network(tmp_path: Path) -> None:
    """It listens on every address, and a page of another site sends it requests."""
    log, asked = tmp_path / "log", list[str]()
    environment = {"NELBO_DASHBOARD_PASSWORD": PASSWORD, "HOME": str(tmp_path)}
    command = {"before": watching(log), "more": ["--host", "0.0.0.0"]}  # noqa: S104
    with dashboard(tmp_path / "empty", tmp_path, loud() | environment, **command) as at, chromium() as browser:
        page = Watched(browser.new_page())
        page.page.on("request", lambda request: asked.append(request.url))
        page.page.goto(at)
        page.page.fill("input[type=password]", PASSWORD)
        page.page.get_by_role("button", name="Enter").click()
        page.page.get_by_text("No batch is scored yet").wait_for()
        page.settle()
        assert httpx.post(f"{at}/reviews", headers={"Origin": "http://evil.example"}).status_code == 401
    assert asked
    assert [url for url in asked if not url.startswith((at, "data:", "blob:", at.replace("http", "ws")))] == []
    assert outgoing(log) == []
    assert os.path.getsize(log) > 0  # noqa: PTH202
