"""The dashboard's server as a process, and as an attacker sees it."""
# ruff: noqa: S104, S105 - addresses and passwords of tests

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import Server, Watched, dashboard
from scored import MODEL, add_batch, add_calibration, make_three
from synthetic import write_images

from nelbo.data import read_table
from nelbo.flows.dashboard.server import serve_dashboard
from nelbo.flows.options.options import DashboardOptions
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace

SECRET = "correct horse <b>"


def test_other_addresses_need_a_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NELBO_DASHBOARD_PASSWORD", raising=False)
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(UsageError, match=r"--host .* needs a password. Set NELBO_DASHBOARD_PASSWORD"):
            serve_dashboard(DashboardOptions(workspace=str(tmp_path), host=host))


def test_a_busy_port_is_an_error_of_one_line(nelbo: Callable[..., Any], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = nelbo("dashboard", "--workspace", tmp_path, "--port", port)
    assert (code, out) == (2, "")
    assert err == (
        f"nelbo: the dashboard cannot listen on 127.0.0.1 port {port} (Address already in use). "
        "Choose another with --port, or end what listens there.\n"
    )


@pytest.fixture(scope="module")
def server(three: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server started in a folder with files that it must not serve."""
    folder = tmp_path_factory.mktemp("dashboard")
    for name in ("static", "templates"):
        (folder / name).mkdir()
        (folder / name / "secret.txt").write_text("secret")
    found = Server(str(three.root), folder)
    try:
        found.start()
        yield found
    finally:
        found.kill()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A dashboard with a password; the workspace in its folder is empty at first."""
    folder = tmp_path_factory.mktemp("guarded")
    found = Server(folder / "workspace", folder, {"NELBO_DASHBOARD_PASSWORD": SECRET})
    try:
        found.start()
        yield found
    finally:
        found.kill()


def sent(server: Server, content: bytes) -> bytes:
    """The answer to raw bytes, because clients normalise paths."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(content)
        return b"".join(iter(partial(connection.recv, 65536), b""))


@pytest.mark.slow
def test_the_server_answers_only_this_machine_under_its_own_name(server: Server) -> None:
    (row,) = [
        line.split()
        for line in Path("/proc/net/tcp").read_text().splitlines()
        if f":{server.port:04X} 00000000:0000" in line
    ]
    assert row[1] == f"0100007F:{server.port:04X}"
    for name, status in (("localhost", 200), ("127.0.0.1", 200), ("[::1]", 200), ("evil.example", 400), ("", 400)):
        for host in (name, f"{name}:{server.port}"):
            answer = httpx.get(f"{server.address}/batch", headers={"Host": host})
            assert (host, answer.status_code) == (host, status)
            assert "nelbo" not in answer.headers.get("server", "")
    upgrade = (
        "GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(upgrade.encode())
        assert b" 403 " in connection.recv(65536).partition(b"\r\n")[0]


@pytest.mark.slow
def test_server_serves_no_files_of_its_machine(server: Server) -> None:
    for path in (
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/static/../../../../etc/passwd",
        "/static/..%2f..%2f..%2fetc/passwd",
        "/static/%2e%2e/app.py",
        "/static//etc/passwd",
        "/static/secret.txt",
        "/templates/secret.txt",
        "/latest.json",
        "//evil.example/..",
    ):
        answer = sent(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert answer.split(b" ", 2)[1] in (b"404", b"400"), path
        assert not re.search(rb"root:|secret|calibrations|import ", answer), path


def memory_mb(server: Server) -> int:
    """The resident memory of the server's process, in MB."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{server.process.pid}/status").read_text())[0]) >> 10


@pytest.mark.slow
def test_uploads_fill_no_memory(server: Server, guarded: Server) -> None:
    """With a password or without, to the route of decisions or any other, or with headers that never end."""
    mb = b"x" * (1 << 20)
    for one in (server, guarded):
        httpx.get(one.address)
        before = memory_mb(one)
        for head in (
            "PUT /static/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n",
            "POST /reviews HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
        ):
            with socket.create_connection(("127.0.0.1", one.port), timeout=20) as connection, suppress(OSError):
                connection.sendall(head.encode())
                for _ in range(200):
                    connection.sendall(mb)
            assert memory_mb(one) < before + 60, head
            assert httpx.get(f"{one.address}/health").status_code == 200


@pytest.mark.slow
def test_the_server_asks_for_the_password(guarded: Server, browser: Any) -> None:
    """Nothing is shown before it; after it, the page says what to run next."""
    at, field, asked = guarded.address, "input[type=password]", list[str]()
    with browser.new_page() as page:
        watched = Watched(page)
        for path in ("/", "/batch", "/image"):
            watched.open(at + path)
            page.wait_for_selector(field)
            assert page.get_by_role("link", name="Home").count() == 0
        assert watched.findings() == []
        for guess in ("wrong", ""):
            page.fill(field, guess)
            page.get_by_role("button", name="Enter").click()
            page.get_by_text("This is not the password.").wait_for()
        watched.open(f"{at}/batch?text=b")
        page.fill(field, SECRET)
        page.press(field, "Enter")
        page.get_by_text("nelbo train --normal good/").wait_for()
        # The login leads to the page that the visitor asked for.
        assert page.url == f"{at}/batch?text=b"
        assert not Path(str(guarded.workspace)).exists()
        workspace, root = Workspace.at(str(guarded.workspace)), guarded.folder / "images"
        names = [path.name for path in write_images(root, 3, seed=1)]
        add_batch(workspace, "b1", names, add_calibration(workspace), root=root, not_scored=0, anomalous=1.0, shift=9)
        image_id = read_table(workspace.scores(MODEL, "b1"))["image_id"][0]
        page.on("request", lambda request: asked.append(request.url))
        watched.open(f"{at}/image?model={MODEL}&batch=b1&image={image_id}")
        page.get_by_alt_text("original of").wait_for()
        (cookie,) = [f"{one['name']}={one['value']}" for one in page.context.cookies()]
        assert {url.partition("?")[0].removeprefix(at) for url in asked if url.startswith("http")} == {
            *("/image", "/image/original", "/image/normals"),
            *("/static/pages.css", "/static/pages.js", "/static/htmx.min.js"),
        }
        for url in [url for url in asked if url.startswith("http")]:
            assert httpx.get(url, headers={"Cookie": cookie}).status_code == 200
            for headers in ({}, {"Cookie": f"{cookie}x"}, {"Accept": "text/html"}):
                assert httpx.get(url, headers=headers).status_code == 401
        assert watched.problems == []
    # Another visitor needs the password, too.
    with browser.new_page() as page:
        Watched(page).open(at)
        page.wait_for_selector(field)
    assert SECRET not in guarded.log.read_text()


@pytest.mark.slow
def test_pages_show_whole_batches_during_publishing(tmp_path: Path) -> None:
    """Each page shows whole batches, and calls none damaged."""
    workspace = make_three(tmp_path / "workspace")
    code = "import scored, sys; scored.publish_for_ever(sys.argv[1])"
    path = os.pathsep.join([str(Path(__file__).parents[2] / "support"), os.environ.get("PYTHONPATH", "")])
    with dashboard(workspace.root, tmp_path) as at:
        writer = subprocess.Popen([sys.executable, "-c", code, workspace.root], env=os.environ | {"PYTHONPATH": path})
        try:
            before, turn = workspace.scores(MODEL, "b2").stat().st_mtime_ns, 0
            while turn < 12 or workspace.scores(MODEL, "b2").stat().st_mtime_ns == before:
                turn += 1
                for place in ("/", f"/batch?model={MODEL}&batch=b{turn % 3}", "/review?of=all", "/files.csv?batch=b1"):
                    answer = httpx.get(f"{at}{place}{f'&model={MODEL}' if 'csv' in place else ''}", timeout=60)
                    assert answer.status_code == 200, answer.text
                    assert "left out" not in answer.text
                    if place.startswith("/batch"):
                        assert re.search(r"<p>(300|310) of (300|310) images\.</p>", answer.text)
                    if "csv" in place:
                        assert answer.text.count("\n") == 301
                assert writer.poll() is None
        finally:
            writer.kill()
            writer.wait()
