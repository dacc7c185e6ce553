"""Fixtures for all tests."""

import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import absl.logging
import numpy as np
import pytest
from hypothesis import settings
from PIL import Image
from synthetic import write_images

# Set before anything imports these libraries: no network, no chatter.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# When Prefect sets up logging, absl closes the stream that it found in sys.stderr, which may be pytest's own; it leaves
# that of the process open.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

# A slow machine must not fail a test.
settings.register_profile("nelbo", deadline=None)
settings.load_profile("nelbo")


#: Files whose slow tests take longest. They start before others with slow tests, in this order: if one of them started
#: last, one process would be busy while the other one had nothing to do. Files that wait for servers run beside files
#: that compute.
LONGEST = (
    *("test_unattended", "test_benchmarks", "test_deploying", "test_estimator", "test_cluster", "test_quality"),
    *("test_tutorial", "test_export", "test_exactly_once", "test_browser", "test_fuzz"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files of fast tests first, then the others: each begins with its fast tests, and the longest files are first.

    A file stays together, for the sake of its fixtures.
    """
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}

    def place(item: pytest.Item) -> tuple[bool, int, bool]:
        longest = LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)
        return item.path in slow_files, longest, item.get_closest_marker("slow") is not None

    items.sort(key=place)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Print last how many tests were skipped for lack of Debian packages, and the command that installs them."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    # Workers of pytest-xdist have no terminal reporter.
    reports = reporter.stats.get("skipped", []) if reporter else []
    packages = [
        found[1] for report in reports if (found := re.search(r"\(Debian package (\w+)\)", str(report.longrepr)))
    ]
    if packages:
        names = " ".join(sorted(set(packages)))
        reporter.write_line(f"Skipped tests: {len(packages)}. What they need, as root: apt-get install {names}")


@pytest.fixture(scope="session", autouse=True)
def no_power_cut() -> Iterator[None]:
    """Make `os.fsync` return at once. Tests kill processes but cut no power, so no test can see the difference."""

    def be_open(file: Any) -> None:
        # A closed file is an error, as it is for the real function.
        os.fstat(file if isinstance(file, int) else file.fileno())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", be_open)
        yield


@pytest.fixture(scope="session", autouse=True)
def short_races() -> Iterator[None]:
    """Time each engine for one batch a turn instead of 0.2 s, in this process only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nelbo.vae_core.engines.speed._SECONDS", 0)
        yield


@pytest.fixture
def seed() -> int:
    """The seed of everything random, from TEST_SEED; the tests must pass with any seed."""
    return int(os.environ.get("TEST_SEED", "42"))


@pytest.fixture
def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``normal`` of 80 images, and ``new`` of 20 normal images, 6 with a blot, and files of other kinds."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder / "normal", 80, seed=1)
    new = folder / "new"
    write_images(new / "a", 20, seed=2)
    paths = write_images(new / "b", 6, seed=3, blot=True)
    Image.open(paths[0]).save(new / "cut.jpg", quality=90)
    (new / "cut.jpg").write_bytes((new / "cut.jpg").read_bytes()[:400])
    (new / "notes.txt").write_text("not an image")
    (new / ".DS_Store").write_bytes(b"hidden")
    return folder


@pytest.fixture(scope="module")
def eager() -> Iterator[None]:
    """Run TensorFlow eagerly: for a few steps of training, that takes less time than compiling them."""
    import keras

    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Playwright's browser; the test is skipped where Chromium is not installed."""
    from browser import chromium

    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def visitor(browser: Any) -> Iterator[Any]:
    """A browser context: files that its pages share are fetched once."""
    with browser.new_context(viewport={"width": 1280, "height": 1400}) as context:
        yield context


@pytest.fixture
def nelbo(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A function that runs the command line in this process: (exit code, stdout, stderr)."""
    from nelbo.flows.cli.main import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["nelbo", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            # The command line configures logging for a whole process; another test may need to capture log records.
            logger = logging.getLogger("nelbo")
            logger.handlers, logger.propagate = [], True
            logger.setLevel(logging.NOTSET)
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def known_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what surrounds training: each process trains only one network for the same settings."""
    from commands import train_once

    from nelbo import vae_core

    monkeypatch.setattr(vae_core, "train", partial(train_once, vae_core.train))


@pytest.fixture(scope="session")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A workspace with one trained and calibrated model, and the result of `train`."""
    from commands import train

    workspace = tmp_path_factory.mktemp("trained") / "workspace"
    return workspace, train(images / "normal", workspace, image_size=(32, 32), epochs=12)


@pytest.fixture(scope="session")
def exported(trained: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained workspace with an engine, for tests that start processes: TensorFlow would cost each ten seconds."""
    from faults import remake

    from nelbo.flows.options.options import ExportOptions
    from nelbo.flows.orchestration.execution import execute

    workspace = Path(shutil.copytree(trained[0], tmp_path_factory.mktemp("exported") / "workspace"))
    execute("export", ExportOptions(engine="onnx", workspace=str(workspace)), prefect=False)
    # Recorded as the fastest engine, however busy this machine was.
    remake(workspace, "onnx", images_per_s={"keras": 1.0, "onnx": 9.0})
    return workspace


@pytest.fixture
def workspace(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of the trained workspace, to write to."""
    return Path(shutil.copytree(trained[0], tmp_path / "workspace"))
