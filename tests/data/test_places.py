"""A published folder is whole for every reader and after every kill, also if it replaces another."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nelbo.data import COMMIT, publish_folder

#: Publishes a folder under one name again and again; all files of a version hold its number.
PUBLISHING = """
import sys
from itertools import count
from pathlib import Path
from nelbo.data import publish_folder
place = Path(sys.argv[1])
for turn in count(1):
    unfinished = place / "_staging" / str(turn)
    unfinished.mkdir(parents=True)
    for name in ("a", "b", "checksums.json"):
        (unfinished / name).write_text(str(turn))
    publish_folder(unfinished, place / "engines" / "onnx")
    print(turn, flush=True)
"""


def versions(folder: Path) -> set[str]:
    return {(folder / name).read_text() for name in ("a", "b", COMMIT)}


def write(folder: Path, version: int) -> Path:
    folder.mkdir(parents=True)
    for name in ("a", "b", COMMIT):
        (folder / name).write_text(str(version))
    return folder


@pytest.fixture
def publishing(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PUBLISHING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("turns", [1, 20])
def test_a_republished_folder_always_exists_and_is_whole_after_a_kill(
    publishing: subprocess.Popen[str], tmp_path: Path, turns: int
) -> None:
    folder = tmp_path / "engines" / "onnx"
    assert publishing.stdout is not None
    assert publishing.stdout.readline() == "1\n"
    seen = 1
    deadline = time.monotonic() + 60
    while seen < turns:
        assert time.monotonic() < deadline
        # The name exists at every moment, though another version may replace the folder before the next line.
        assert folder.is_dir()
        seen = int(publishing.stdout.readline())
    os.kill(publishing.pid, signal.SIGKILL)
    publishing.wait()
    (version,) = versions(folder)
    assert int(version) >= turns


@pytest.mark.parametrize("without", [None, OSError, AttributeError])
def test_a_folder_replaces_another(
    tmp_path: Path, without: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the system cannot exchange two names."""
    if without is not None:

        def refuse(*_: Any, **__: Any) -> None:
            raise without

        monkeypatch.setattr(ctypes, "CDLL", refuse)
    place = tmp_path / "engines" / "onnx"
    for version in (1, 2, 3):
        unfinished = write(tmp_path / "_staging" / str(version), version)
        publish_folder(unfinished, place)
        assert versions(place) == {str(version)}
        assert list((tmp_path / "_staging").iterdir()) == []
    assert [path.name for path in place.parent.iterdir()] == ["onnx"]
    assert json.loads((place / COMMIT).read_text()) == 3
