"""Commands that are told to end by SIGTERM or Ctrl-C, at any moment, also as process 1 of a container."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from servers import free_port, wait_for

from nelbo.flows.inference import signals
from nelbo.flows.inference.signals import asked_to_end

pytestmark = pytest.mark.slow

#: The command line, with Ctrl-C handled as in the foreground of a terminal.
LINE = [
    sys.executable,
    "-c",
    (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from nelbo.flows.cli.main import main; main()"
    ),
]
AGAIN = r"\. It is safe to run the same command again\."
UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that takes a while to decode."""
    folder = tmp_path_factory.mktemp("many")
    values = np.random.default_rng(0).integers(0, 255, (1500, 1500), np.uint8)
    Image.fromarray(values).save(folder / "0.png")
    for i in range(1, 80):
        shutil.copy(folder / "0.png", folder / f"{i}.png")
    return folder


def start(tmp: Path, *arguments: object, init: bool = False) -> subprocess.Popen[str]:
    tmp.mkdir(exist_ok=True)
    line = [*(UNSHARE if init else ()), *LINE, *map(str, arguments)]
    environment = os.environ | {"TMPDIR": str(tmp)}
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def descendants(pid: int) -> dict[int, str]:
    """The descendants of a process, with their command lines."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            try:
                found[int(child)] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
                found |= descendants(int(child))
            except OSError:
                continue
    return found


def decoders(pid: int) -> list[int]:
    return [child for child, line in descendants(pid).items() if "decoder/process.py" in line]


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists() or ") Z " in Path(f"/proc/{pid}/stat").read_text()


def assert_ends(
    process: subprocess.Popen[str], number: signal.Signals, told: int, tmp: Path, children: list[int], says: str = AGAIN
) -> str | None:
    os.kill(told, number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err
    found = re.fullmatch(rf"nelbo: (?:interrupted|told to end \(SIGTERM\)){says}", err.splitlines()[-1])
    assert found, err
    assert list(tmp.iterdir()) == []
    wait_for(lambda: all(map(is_gone, children)), "the end of the decoders")
    return found[1] if found.groups() else None


def has_failed(process: subprocess.Popen[str]) -> bool:
    """False; fails with what the process said if it has ended."""
    assert process.poll() is None, process.communicate()
    return False


def n_shards(workspace: Path) -> int:
    """The number of complete shards."""
    return len(list(workspace.glob("_staging/shards.*/*.parquet")))


def test_a_command_told_to_end_says_what_is_kept_and_resumes(
    many: Path, exported: Path, images: Path, tmp_path: Path
) -> None:
    tmp, workspace = tmp_path / "tmp", tmp_path / "w"
    shutil.copytree(exported, workspace)
    at = ["--workspace", workspace, "--no-prefect", "--json"]

    ingesting = start(tmp, "ingest", many, *at)
    wait_for(lambda: decoders(ingesting.pid) and list(tmp.glob("nelbo-*")), "decoders")
    assert_ends(ingesting, signal.SIGTERM, ingesting.pid, tmp, decoders(ingesting.pid))

    small = ["--set", "image_size=16", "--set", "epochs=100000", "--set", "patience=100000"]
    training = start(tmp, "train", "--normal", images / "normal", *small, *at)
    wait_for(lambda: list(workspace.glob("checkpoints/*/*.safetensors")), "an epoch", 300)
    # Ctrl-C must pass through Keras's own loops, too.
    says = "; the decoded images and the epochs that are over are kept. The same command goes on from there."
    assert_ends(training, signal.SIGINT, training.pid, tmp, decoders(training.pid), says)

    # So many that no run ends before it is told to.
    shards = ["--set", "shard_size=2"]
    for number in (signal.SIGTERM, signal.SIGINT):
        n_before = n_shards(workspace)
        scoring = start(tmp, "score", many, *shards, *at)
        wait_for(lambda n=n_before, run=scoring: n_shards(workspace) > n or has_failed(run), "a shard", 300)
        says = r"; (\d+) of 40 shards are scored and kept. The same command goes on from there."
        n_said = assert_ends(scoring, number, scoring.pid, tmp, decoders(scoring.pid), says)
        assert int(n_said) == n_shards(workspace) > n_before
    again = start(tmp, "score", many, *shards, *at)
    out, err = again.communicate(timeout=500)
    assert again.returncode == 0, err
    assert json.loads(out)["n_scored"] == 80


def can_be_init() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


needs_unshare = pytest.mark.skipif(not can_be_init(), reason="needs unshare, and the right to be process 1")


@needs_unshare
def test_process_1_of_a_container_ends_with_all_that_it_has_started(many: Path, tmp_path: Path) -> None:
    tmp = tmp_path / "tmp"
    process = start(tmp, "ingest", many, "--workspace", tmp_path / "w", "--no-prefect", init=True)
    wait_for(lambda: decoders(process.pid), "decoders")
    (init,) = [pid for pid in descendants(process.pid) if f"\nPPid:\t{process.pid}\n" in status(pid)]
    assert status(init).split("NSpid:")[1].split()[:2] == [str(init), "1"]
    assert_ends(process, signal.SIGTERM, init, tmp, list(descendants(init)))


@needs_unshare
def test_process_1_reaps_orphans(tmp_path: Path) -> None:
    """The grandchild ends after its parent."""
    code = f"""
import os, signal, sys, time
from pathlib import Path
from nelbo.flows.inference.signals import leave_init
leave_init()
assert os.getpid() != 1
child = os.fork()
if not child:
    if orphan := os.fork():
        Path({str(tmp_path / "orphan")!r}).write_text(str(orphan))
        os._exit(0)
    while os.getppid() != 1:
        time.sleep(0.01)
    os._exit(0)
os.waitpid(child, 0)
orphan = Path({str(tmp_path / "orphan")!r}).read_text()
while Path(f"/proc/{{orphan}}").exists():
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([*UNSHARE, sys.executable, "-c", code], timeout=120, check=False)
    assert done.returncode == 128 + signal.SIGKILL


@needs_unshare
def test_a_dashboard_as_process_1_ends(tmp_path: Path) -> None:
    tmp, port = tmp_path / "tmp", free_port()
    process = start(tmp, "dashboard", "--workspace", tmp_path / "w", "--port", port, init=True)
    (init,) = wait_for(lambda: [pid for pid in descendants(process.pid) if "NSpid" in status(pid)][:1], "process 1")
    wait_for(lambda: _listens(port), "the server")
    children = list(descendants(init))
    os.kill(init, signal.SIGTERM)
    process.communicate(timeout=120)
    assert all(map(is_gone, children))
    assert list(tmp.iterdir()) == []


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def test_the_first_signal_asks_work_to_end_and_the_second_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, told = [100.0], []
    monkeypatch.setattr(signals, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    # The test installs its own handler, because SIGINT would end a worker of pytest.
    before = signal.signal(signal.SIGINT, ender := lambda number, _frame: told.append(number))
    try:
        _interrupt_three_times(now_s, told)
        assert signal.getsignal(signal.SIGINT) is ender
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt_three_times(now_s: list[float], told: list[int]) -> None:
    with asked_to_end() as asked:
        assert not asked.is_set()
        signal.raise_signal(signal.SIGINT)
        # A second signal at once is the same request: `timeout` and others signal the process and its group.
        now_s[0] += 0.5
        signal.raise_signal(signal.SIGINT)
        assert asked.is_set()
        assert told == []
        now_s[0] += 0.1
        signal.raise_signal(signal.SIGINT)
        assert told == [signal.SIGINT]
