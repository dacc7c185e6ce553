"""Dask schedulers and workers on this machine for tests, in processes that other machines cannot reach."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from servers import free_port, wait_for


class DaskCluster:
    """A scheduler on a free port of the loopback interface, and workers that can be added and killed."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.address = f"tcp://127.0.0.1:{port}"
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start("scheduler", "--port", str(port))

    def add_workers(self, n: int, *arguments: str, path: Path | None = None) -> None:
        """Start workers of one thread each, which import from `path` first, and wait for the scheduler to know them."""
        before = len(self.workers())
        for _ in range(n):
            place = ["--local-directory", str(self._folder)]
            self._start("worker", self.address, "--nthreads", "1", *place, *arguments, path=path)

        def all_known() -> bool:
            assert all(process.poll() is None for process in self._processes)
            return len(self.workers()) == before + n

        wait_for(all_known, "the new workers")

    def remove_worker(self) -> None:
        """End the worker that was started last, and wait for the scheduler to know that."""
        before = len(self.workers())
        process = self._processes.pop()
        process.terminate()
        process.wait(30)
        wait_for(lambda: len(self.workers()) < before, "the end of a worker")

    def workers(self) -> dict[str, Any]:
        """What the scheduler knows of its workers."""
        with self.client() as client:
            return dict(client.scheduler_info()["workers"])

    def client(self) -> Any:
        """A client for the test."""
        from distributed import Client

        return Client(self.address, timeout=30, set_as_default=False)

    def pids(self) -> dict[str, int]:
        """Process ids of the workers, by address."""
        with self.client() as client:
            return dict(client.run(os.getpid))

    def close(self) -> None:
        """End all processes."""
        for process in reversed(self._processes):
            # A nanny ends its worker on SIGTERM, but not when it is killed.
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, kind: str, *arguments: str, path: Path | None = None) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "dask", kind, "--host", "127.0.0.1", *arguments]
        paths = [path, os.environ.get("PYTHONPATH"), Path(__file__).parent]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(one) for one in paths if one)}
        with (self._folder / f"{kind}.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--no-dashboard"], stdout=log, stderr=log, cwd=self._folder, env=environment
            )
        self._processes.append(process)
        return process


def loads() -> int:
    """How often this process has loaded a model."""
    from nelbo.flows.inference.models import _load

    return _load.cache_info().misses


def double(number: int) -> int:
    """A step that refuses 3."""
    from nelbo.flows.workspace.errors import UsageError

    if number == 3:
        raise UsageError(f"twice {number} is refused")
    return 2 * number


def nothing(number: int) -> int:
    """A step that does nothing."""
    return number
