"""Time in which nelbo was suspended does not count for an image; a decoder that hangs is stopped even so."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from servers import state, wait_for

from nelbo.data import Limits, Preprocessing, read_images
from nelbo.data.decoder import workers

#: The real decoder, but the beginning of a file's name says what happens before the file is read.
ODD = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
from nelbo.data.sources import reading

read_checked = reading.read_checked
def odd(root, path, *arguments):
    if path.startswith("stopped"):
        os.kill(os.getpid(), signal.SIGSTOP)
    if path.startswith("slow"):
        time.sleep(0.2)
    while path.startswith("busy"):
        pass
    if path.startswith("asleep"):
        time.sleep(3600)
    return read_checked(root, path, *arguments)
reading.read_checked = odd
from nelbo.data.decoder import process
process.serve(0, process._confine())
"""
SCRIPT = ODD.format(root=str(Path(workers.__file__).parents[3]))

#: Reads all images of a folder; prints the id of the decoding process, and the reason for each image.
READER = """
import json, sys
from pathlib import Path
from nelbo.data import Limits, Preprocessing, iter_images
from nelbo.data.decoder import workers
script, folder, seconds = sys.argv[1:]
workers.COMMAND = (sys.executable, "-c", script)
with workers.borrowed() as worker:
    print(worker.pid, flush=True)
files = sorted(Path(folder).iterdir())
reasons = []
for images in iter_images(files, Preprocessing(2, 2), 1, limits=Limits(seconds=float(seconds)), workers=1):
    reasons += images.reasons
print(json.dumps(reasons), flush=True)
"""


def put(folder: Path, *names: str) -> list[Path]:
    for name in names:
        Image.new("L", (20, 10), 7).save(folder / name)
    return [folder / name for name in names]


def let_pass(seconds: float) -> None:
    since = time.monotonic()
    wait_for(lambda: time.monotonic() - since > seconds, "time to pass")


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    workers.close_all()
    monkeypatch.setattr(workers, "COMMAND", (sys.executable, "-c", SCRIPT))
    yield
    workers.close_all()


@pytest.mark.usefixtures("odd")
@pytest.mark.parametrize("name", ["busy", "asleep"])
def test_a_decoder_that_hangs_is_stopped(name: str, tmp_path: Path) -> None:
    files = put(tmp_path, "a.png", f"{name}.png", "b.png")
    assert read_images(files, Preprocessing(2, 2), limits=Limits(seconds=2), workers=1).reasons == [
        None,
        "timeout",
        None,
    ]


@pytest.mark.usefixtures("odd")
def test_a_stopped_decoder_is_no_timeout(tmp_path: Path) -> None:
    files = put(tmp_path, "a.png", "stopped.png", "b.png")

    def go_on() -> None:
        wait_for(lambda: any(state(worker.pid) == "T" for worker in list(workers._open)), "a decoder to stop")
        let_pass(3)
        for worker in list(workers._open):
            os.kill(worker.pid, signal.SIGCONT)

    helper = threading.Thread(target=go_on)
    helper.start()
    reasons = read_images(files, Preprocessing(2, 2), limits=Limits(seconds=2), workers=1).reasons
    helper.join()
    assert reasons == [None, None, None]


def reader(folder: Path, seconds: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", READER, SCRIPT, str(folder), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def test_a_suspended_machine_loses_no_image(tmp_path: Path) -> None:
    """All processes of nelbo are stopped twice, for longer than an image may take."""
    put(tmp_path, *(f"slow{i:02}.png" for i in range(12)))
    with reader(tmp_path, 1.5) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        for _ in range(2):
            # The decoder is at work on an image.
            wait_for(lambda: state(pid) == "S" and _opened(pid), "a file to be decoded")
            os.killpg(process.pid, signal.SIGSTOP)
            wait_for(lambda: state(pid) == "T", "all to stop")
            let_pass(2)
            os.killpg(process.pid, signal.SIGCONT)
        assert json.loads(process.stdout.readline()) == [None] * 12


def _opened(pid: int) -> bool:
    """Whether a decoder is at work on a file: it sleeps, but not on the pipe that brings its requests."""
    wchan = Path(f"/proc/{pid}/wchan").read_text()
    return "pipe" not in wchan


def test_a_decoder_that_hangs_ends_after_its_parent(tmp_path: Path) -> None:
    put(tmp_path, "busy.png")
    with reader(tmp_path, 1) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        wait_for(lambda: state(pid) == "R", "a decoder to be busy")
        process.kill()
    wait_for(lambda: state(pid) in ("", "Z"), "a decoder without a parent to end")
