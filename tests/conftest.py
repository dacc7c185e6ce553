"""Fixtures for all tests."""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image
from synthetic import write_images

# Before anything imports them: no network, no chatter.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# A busy machine is no failure.
settings.register_profile("nelbo", deadline=None)
settings.load_profile("nelbo")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Below everything else: what was skipped for want of Debian packages, and the command that gets them."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    # Processes of pytest-xdist have none.
    reports = reporter.stats.get("skipped", []) if reporter else []
    packages = [
        found[1] for report in reports if (found := re.search(r"\(Debian package (\w+)\)", str(report.longrepr)))
    ]
    if packages:
        names = " ".join(sorted(set(packages)))
        reporter.write_line(f"Skipped tests: {len(packages)}. What they need, as root: apt-get install {names}")


@pytest.fixture
def seed() -> int:
    """One seed for all that is random; NELBO's own tests pass for others too."""
    return int(os.environ.get("TEST_SEED", "42"))


@pytest.fixture
def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``normal`` of 80 images, and ``new`` of 20 normal ones, 6 with a blot and what else lies around."""
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
    """Train step by step: for a few steps that takes TensorFlow less time than compiling them."""
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
    """Playwright's; a test of it is skipped where Chromium is not installed."""
    from browser import chromium

    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def visitor(browser: Any) -> Iterator[Any]:
    """A context of the browser: what its pages share is fetched once."""
    with browser.new_context(viewport={"width": 1280, "height": 1400}) as context:
        yield context


@pytest.fixture
def nelbo(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run the command line in this process; (exit code, stdout, stderr)."""
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
            # It has this process to itself; another test may capture what is logged.
            logger = logging.getLogger("nelbo")
            logger.handlers, logger.propagate = [], True
            logger.setLevel(logging.NOTSET)
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def known_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what surrounds a training is the point: the same settings give the same network, trained once a process."""
    from commands import train_once

    from nelbo import vae_core

    monkeypatch.setattr(vae_core, "train", partial(train_once, vae_core.train))


@pytest.fixture(scope="session")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A workspace with one trained and calibrated model, and what training said."""
    from commands import train

    workspace = tmp_path_factory.mktemp("trained") / "workspace"
    return workspace, train(images / "normal", workspace, image_size=(32, 32), epochs=12)


@pytest.fixture(scope="session")
def exported(trained: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained workspace with an engine: for processes, to which TensorFlow costs ten seconds each."""
    from faults import remake

    from nelbo.flows.options.options import ExportOptions
    from nelbo.flows.orchestration.execution import execute

    workspace = Path(shutil.copytree(trained[0], tmp_path_factory.mktemp("exported") / "workspace"))
    execute("export", ExportOptions(engine="onnx", workspace=str(workspace)), prefect=False)
    # The fastest, however busy this machine was.
    remake(workspace, "onnx", images_per_s={"keras": 1.0, "onnx": 9.0})
    return workspace


@pytest.fixture
def workspace(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of the trained workspace, to write to."""
    return Path(shutil.copytree(trained[0], tmp_path / "workspace"))
