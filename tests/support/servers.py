"""Real servers for tests, in processes of their own on loopback: Prefect, its workers, PostgreSQL."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

PASSWORD = "ada:lovelace"  # noqa: S105 - of a server that lives for a test
_BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 120, every: float = 0.1) -> Any:
    """The value of the condition once it is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(every)
    return found


def state(pid: int) -> str:
    """The letter by which Linux gives the state of a process; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


@dataclass
class Prefect:
    """A ``prefect server``, and the commands and workers that use it."""

    folder: Path
    database: str | None = None
    password: str | None = None
    port: int = field(default_factory=free_port)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of clients and workers."""
        quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
        own = {"PREFECT_HOME": str(self.folder / "home"), "PREFECT_API_URL": self.api}
        secret = {"PREFECT_API_AUTH_STRING": self.password} if self.password else {}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "NELBO_"))}
        return kept | quiet | own | secret | {"PATH": f"{_BIN}:{os.environ['PATH']}"}

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        settings = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "3"}
        settings |= {"PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S", "PREFECT_UI_ENABLED": "false"}
        if self.database:
            settings["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = self.database
        else:
            self.prepare()
        if self.password:
            settings["PREFECT_SERVER_API_AUTH_STRING"] = self.password
        command = [_BIN / "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self.environment | settings, stdout=log, stderr=log, start_new_session=True
            )
        wait_for(self._answers, f"the server, see {self.folder / 'server.log'}", 300)

    def prepare(self) -> None:
        """Copy a database into place, unless there is one: a new server takes ten seconds to make its own."""
        database = self.folder / "home" / "prefect.db"
        database.parent.mkdir(parents=True, exist_ok=True)
        if not database.exists():
            shutil.copy(empty_database(), database)

    @contextmanager
    def here(self) -> Iterator[None]:
        """Make this process a client of the server."""
        from prefect import settings
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        own = {
            settings.PREFECT_API_URL: self.api,
            settings.PREFECT_API_AUTH_STRING: self.password,
            settings.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
            settings.PREFECT_RESULTS_LOCAL_STORAGE_PATH: self.folder / "results",
        }
        with settings.temporary_settings(own):
            try:
                yield
            finally:
                # Their threads would talk to this server for ever; there may be no thread for logs.
                with suppress(RuntimeError):
                    APILogWorker.instance().drain()
                EventsWorker.drain_all()

    def stop(self) -> None:
        end(self.process)

    def clean_up(self) -> None:
        """End every process of this environment, including flows that their workers left behind."""
        for pid in self._processes():
            # It has ended meanwhile.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def is_working(self) -> bool:
        """Whether a process of this environment runs a flow."""
        return any(self._processes(b"PREFECT__FLOW_RUN_ID="))

    def _processes(self, mark: bytes = b"") -> Iterator[int]:
        """Ids of the processes of this environment whose variables contain `mark`."""
        for process in Path("/proc").glob("[0-9]*"):
            # The process is another user's, or has ended.
            with suppress(OSError):
                environment = (process / "environ").read_bytes()
                if f"PREFECT_HOME={self.folder / 'home'}".encode() in environment and mark in environment:
                    yield int(process.name)

    def command(self, *line: object, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in this environment, ``nelbo`` or ``prefect``, to its end."""
        done = subprocess.run(
            [str(part) for part in line],
            env=self.environment | environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def worker(self, pool: str) -> subprocess.Popen[bytes]:
        """Start a worker of a pool; the caller ends it."""
        settings = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_WORKER_PREFETCH_SECONDS": "1"}
        with (self.folder / "worker.log").open("ab") as log:
            return subprocess.Popen(
                [_BIN / "prefect", "worker", "start", "--pool", pool],
                env=self.environment | settings,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ask(self, path: str, **body: Any) -> Any:
        """The API's answer to a POST request, such as a filter."""
        return self.call("POST", path, body).raise_for_status().json()

    def get(self, path: str) -> Any:
        return self.call("GET", path).raise_for_status().json()

    def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """An answer of the API; repeats the request while SQLite is busy, as Prefect's own client does."""
        for left in reversed(range(30)):
            try:
                answer = httpx.request(method, f"{self.api}/{path}", json=body, timeout=30, auth=self._auth)
            except httpx.TransportError:
                if not left:
                    raise
            else:
                if answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                    break
            time.sleep(1)
        return answer

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """Flow runs of a deployment, the oldest first."""
        flow, name = deployment.split("/")
        found = self.ask(
            "flow_runs/filter", flows={"name": {"any_": [flow]}}, deployments={"name": {"any_": [name]}}, limit=200
        )
        return sorted(found, key=lambda run: run["created"])

    def delete_deployments(self) -> None:
        """Delete what the test added, so that the next test finds the server as this one did."""
        for kind, name in (("deployments", "id"), ("work_pools", "name")):
            for one in self.ask(f"{kind}/filter"):
                self.call("DELETE", f"{kind}/{one[name]}")

    def add_pool(self) -> None:
        """The pool of processes that prefect.yaml names."""
        self.ask("work_pools/", name="nelbo", type="process")

    def submit(self, deployment: str, **parameters: Any) -> str:
        """Start a run of a deployment now; its id."""
        found = self.get(f"deployments/name/{deployment}")
        return str(self.ask(f"deployments/{found['id']}/create_flow_run", parameters=parameters)["id"])

    def run(self, run_id: str) -> dict[str, Any]:
        return self.get(f"flow_runs/{run_id}")

    def ended(self, run_id: str, seconds: float = 480) -> dict[str, Any]:
        """A flow run once it is in a final state."""

        def final() -> Any:
            try:
                run = self.run(run_id)
            except httpx.HTTPError:
                return None
            return run if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

        return wait_for(final, f"the end of run {run_id}, see {self.folder / 'worker.log'}", seconds)

    @property
    def _auth(self) -> tuple[str, str] | None:
        if self.password is None:
            return None
        user, _, secret = self.password.partition(":")
        return user, secret

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "server.log").read_text()
        try:
            return httpx.get(f"{self.api}/ready", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False


def empty_database() -> Path:
    """An empty SQLite database of Prefect's: made once for this environment, and kept in it."""
    kept = Path(sys.prefix) / f"prefect-{version('prefect')}.db"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=sys.prefix) as home:
            environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
            command = [_BIN / "prefect", "server", "database", "upgrade", "--yes"]
            subprocess.run(command, env=environment | {"PREFECT_HOME": home}, check=True, capture_output=True)
            whole = Path(home) / "whole.db"
            with closing(sqlite3.connect(Path(home) / "prefect.db")) as made:
                made.execute("VACUUM INTO ?", (str(whole),))
            whole.replace(kept)
    return kept


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that has a session of its own, with all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def prefect_server(folder: Path, **options: Any) -> Iterator[Prefect]:
    server = Prefect(folder, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        server.clean_up()


@contextmanager
def postgresql() -> Iterator[str]:
    """The address, in Prefect's form, of a fresh PostgreSQL server that listens on loopback only."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    programs = found[-1].parent if found else Path(shutil.which("initdb") or "initdb").parent
    # PostgreSQL refuses to run as root, and another user may not enter pytest's folders.
    user = "postgres" if os.getuid() == 0 else None
    port = free_port()

    with tempfile.TemporaryDirectory(prefix="nelbo-postgresql-") as scratch:
        if user:
            shutil.chown(scratch, user)
        data = f"{scratch}/data"

        def call(program: str, *arguments: str) -> None:
            command = [programs / program, "-D", data, *arguments]
            subprocess.run(command, check=True, user=user, cwd=scratch, stdout=subprocess.DEVNULL)

        call("initdb", "-U", "nelbo", "--auth=trust", "--no-sync")
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories= -c fsync=off"
        call("pg_ctl", "-w", "-l", f"{scratch}/log", "-o", options, "start")
        try:
            yield f"postgresql+asyncpg://nelbo@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-m", "immediate", "stop")
