"""Commands on small tasks: nelbo's own, and those of the benchmarks."""

import importlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from nelbo.flows.options.options import CalibrateOptions, ScoreOptions, TrainOptions
from nelbo.flows.orchestration.execution import execute

ROOT = Path(__file__).parents[2]
_known: dict[str, Any] = {}


def train_once(train: Callable[..., Any], *images: Any, preprocessing: Any, names: Any = None, **_: Any) -> Any:
    """Like `vae_core.train`, but each process trains only one network for the same settings, whatever the images."""
    *pixels, config, settings = images
    key = json.dumps([config.to_dict(), settings.to_dict(), preprocessing])
    if key not in _known:
        _known[key] = train(*pixels, config, settings, preprocessing=preprocessing, names=names)
    return _known[key]


def train(normal: Path | str, workspace: Path, **options: Any) -> dict[str, Any]:
    """The result of ``train``, which must be serialisable as JSON."""
    return _answer("train", TrainOptions(normal=str(normal), workspace=str(workspace), **options))


def score(images: Path | str, workspace: Path, **options: Any) -> dict[str, Any]:
    """The result of ``score``, which must be serialisable as JSON."""
    return _answer("score", ScoreOptions(images=str(images), workspace=str(workspace), **options))


def calibrate(workspace: Path, **options: Any) -> dict[str, Any]:
    """The result of ``calibrate``, which must be serialisable as JSON."""
    return _answer("calibrate", CalibrateOptions(workspace=str(workspace), **options))


def _answer(name: str, options: Any) -> dict[str, Any]:
    result = execute(name, options, prefect=False)
    assert json.dumps(result)
    return result


def assert_refused(answer: tuple[int, str, str], *parts: str) -> None:
    """Check for exit code 2, nothing on stdout, and one line on stderr that holds all of `parts`."""
    code, out, err = answer
    assert (code, out) == (2, ""), err
    (line,) = err.strip().splitlines()
    assert line.startswith("nelbo: ")
    for part in parts:
        assert part in line


def rows(module: str, *arguments: object) -> list[list[str]]:
    """The cells of all rows, without headings, that a smoke run of a benchmark module prints."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr("sys.argv", [module, "--smoke", *map(str, arguments)])
        importlib.import_module(f"benchmarks.{module}").main()
    return _cells(printed.getvalue())


def rows_of_process(module: str, *arguments: object) -> list[list[str]]:
    """Like `rows`, in a process of its own, for a module that changes global state."""
    command = [sys.executable, "-m", f"benchmarks.{module}", "--smoke", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return _cells(done.stdout)


def _cells(printed: str) -> list[list[str]]:
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    headings = {i + below for i, line in enumerate(lines) if line.startswith("|---") for below in (-1, 0)}
    kept = [line for i, line in enumerate(lines) if i not in headings]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in kept]
