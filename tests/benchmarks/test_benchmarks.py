"""Benchmarks run: their tables come out whole on a small task. How fast is for people to read."""

import doctest
import importlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from commands import ROOT, rows, rows_of_process

from nelbo.detectors import Interval, auroc, average_precision

Script = Callable[[str], ModuleType]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Import a module of the folder, as its scripts do."""
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module


# The longest, so first.
@pytest.mark.slow
def test_scale() -> None:
    found = rows_of_process("speed.scale")
    assert [row[0] for row in found] == [
        *("a Dask worker starts", "a client connects", "here, a decoder a core"),
        *("1 Dask worker, a decoder a core", "2 Dask workers, one decoder each"),
        *("scores", "flagged", "manifests", "1", "2"),
    ]
    assert [row for row in found if not all(row)] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "column", "expected"),
    [
        (["speed.scoring"], 2, ["predict", "keras", "openvino", "onnx"]),
        (["speed.end_to_end", "--side", 16], 0, ["40"]),
        (["speed.eta"], 0, ["train", "score"]),
        (["peers.compare"], 0, ["nelbo, one epoch", "scikit-learn PCA", "scikit-learn IsolationForest"]),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else "",
)
def test_tables(line: list[str], column: int, expected: list[str]) -> None:
    found = rows(*line)
    assert [row[column] for row in found] == expected
    assert [row for row in found if not all(row)] == []


@pytest.mark.slow
def test_limits() -> None:
    found = rows("speed.limits")
    assert [row for row in found if not all(row)] == []
    assert [row[0] for row in found if not row[0].startswith("matrix")] == [
        *("memory copy", "decoding", "writing Parquet")
    ]
    libraries = [row[2] for row in found if row[0] == "matrix product, float32"]
    assert libraries[:2] == ["NumPy, 64 x 64", "TensorFlow, 64 x 64"]


def test_a_ceiling_is_that_of_the_fastest_library(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = script("benchmarks.speed.limits")
    products = {
        "slow": lambda precision, side: limits.numpy_product(precision, 4 * side),
        "fast": limits.numpy_product,
        "missing": lambda _precision, _side: importlib.import_module("not_installed"),
    }
    monkeypatch.setattr(limits, "PRODUCTS", products)
    ceiling = limits.matrix_ceiling("float32", sides=(128, 256))
    assert ceiling.library == "fast"
    assert ceiling.flops.low <= ceiling.flops.median <= ceiling.flops.high
    monkeypatch.setattr(limits, "PRODUCTS", {"fast": limits.numpy_product})
    assert limits.matrix_ceiling("bfloat16") is None


def test_a_peer_that_fails_says_why(script: Script, tmp_path: Path) -> None:
    for part in ("train", "test"):
        np.save(tmp_path / f"{part}.npy", np.zeros((1, 16, 16, 1), np.float32))
    peers = script("benchmarks.peers.compare")
    absent = peers.Peer("absent", "no_such_module", "Detector")
    row = peers.cells(absent, tmp_path, tmp_path, data=None, rounds=1, minutes=1)
    assert row == ["absent", "could not be installed or run: ModuleNotFoundError: No module named 'no_such_module'"]
    killed = subprocess.CalledProcessError(-9, "python", stderr="a warning")
    assert peers.reason(killed) == "killed by signal 9"


def test_rates(script: Script) -> None:
    assert doctest.testmod(script("benchmarks.rates")) == (0, 2)


def test_coverage(script: Script) -> None:
    coverage = script("benchmarks.coverage")
    random = np.random.default_rng(0)
    for law in coverage.LAWS.values():
        normal, anomalous = law(random, 0.9, 3000, 3000)
        labels, scores = np.repeat([0, 1], 3000), np.concatenate([normal, anomalous])
        assert auroc(labels, scores).value == pytest.approx(0.9, abs=0.02)
        truth = coverage.true_precision(law, 0.9, 3000, 3000)
        assert average_precision(labels, scores, n_resamples=1).value == pytest.approx(truth, abs=0.02)
    always = coverage.covered(lambda *_: Interval(0.5, 0.4, 0.7), 0.6, lambda: (normal, anomalous), 3)
    never = coverage.covered(lambda *_: Interval(0.5, 0.4, 0.7), 0.8, lambda: (normal, anomalous), 3)
    assert (always, never) == (pytest.approx((1, 0.3)), pytest.approx((0, 0.3)))


@pytest.mark.slow
def test_locating() -> None:
    found = rows("detection.locating")
    assert [row[:2] for row in found[2:]] == [["screw", "on"]]
    assert [row for row in found if not all(row)] == []
