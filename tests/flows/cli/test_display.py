"""What a command draws on a terminal while it works."""

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from nelbo.flows.cli.display import Display

PROGRAM = [sys.executable, "-c", "from nelbo.flows.cli.main import main; main()"]


def on_a_terminal(*arguments: object) -> tuple[str, str]:
    """What a command prints, and what it draws where stderr is a terminal."""
    ours, theirs = os.openpty()
    drawn: list[bytes] = []

    def read() -> None:
        try:
            while some := os.read(ours, 1 << 16):
                drawn.append(some)
        except OSError:
            # This is how Linux reports that the other end is closed.
            return

    reader = threading.Thread(target=read)
    reader.start()
    done = subprocess.run([*PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=theirs, check=False)
    os.close(theirs)
    reader.join()
    os.close(ours)
    text = b"".join(drawn).decode()
    assert done.returncode == 0, text
    return done.stdout.decode(), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_each_stage_is_named_and_the_display_is_cleared(tmp_path: Path) -> None:
    out, drawn = on_a_terminal("models", "--workspace", tmp_path)
    assert drawn.index("nelbo models") < drawn.index("starting")
    assert "Traceback" not in drawn
    assert len(out.splitlines()) == 3
    done = subprocess.run([*PROGRAM, "models", "--workspace", tmp_path], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (out, "")


@pytest.mark.slow
def test_scoring_says_what_it_is_at_and_how_long_it_takes(images: Path, exported: Path, tmp_path: Path) -> None:
    workspace = shutil.copytree(exported, tmp_path / "workspace")
    out, drawn = on_a_terminal("score", images / "new", "--workspace", workspace, "--no-prefect")
    titles = ["starting", "loading the model", "listing images", "scoring images", "publishing", "writing the page"]
    places = [drawn.index(title) for title in titles]
    assert places == sorted(places)
    assert "28 of 28" in drawn
    assert re.search(r"about \d+ s left", drawn)
    assert len(out.splitlines()) == 3


def test_finished_parts_are_cleared_and_planned_stages_stay() -> None:
    with open(os.devnull, "w", encoding="utf-8") as nothing:  # noqa: PTH123 - no path
        display = Display("train", Console(file=nothing))
        display.begin("learning", None)
        display.begin("decoding", 100)
        display.advance(60)
        console = Console(width=80, record=True, file=nothing)
        console.print(display.bars)
        assert "60 of 100" in console.export_text()
        display.end()
        display.begin("something else", None)
        display.end()
        display.end()
        console.print(display.bars)
    shown = console.export_text()
    assert "something else" not in shown
    for title in ("learning", "decoding"):
        assert re.search(rf"✓ {title} .* 0\.\d s", shown)
