"""Benchmarks run on a small task and print complete tables; how fast things are is for people to judge."""

import doctest
import importlib
import subprocess
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, rows, rows_of_process

from nelbo.detectors import Interval, auroc, average_precision

Capture = pytest.CaptureFixture[str]


# The longest test comes first.
@pytest.mark.slow
def test_the_benchmark_of_scale_runs(exported: Path) -> None:
    """The given model's engine starts quickly. The benchmark of end_to_end tests the training without a workspace."""
    found = rows_of_process("speed.scale", "--workspace", exported)
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
        (["cold"], 0, ["nelbo --help", "nelbo score, openvino"]),
        (["peers.folders"], 0, ["nelbo"]),
        (["peers.compare"], 0, ["nelbo, one epoch", "scikit-learn PCA", "scikit-learn IsolationForest"]),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else "",
)
def test_benchmarks_print_complete_tables(line: list[str], column: int, expected: list[str]) -> None:
    found = rows(*line)
    assert [row[column] for row in found] == expected
    assert [row for row in found if not all(row)] == []


@pytest.mark.slow
def test_the_benchmark_of_watching_runs(exported: Path) -> None:
    """The workspace is given. The benchmark of cold starts tests the training without one."""
    found = rows("speed.watch", "--workspace", exported)
    assert [row[0] for row in found] == ["renamed", "written"]
    assert [row for row in found if not all(row)] == []


@pytest.mark.slow
def test_the_benchmark_of_gpu_runs() -> None:
    """The scores of the last rows equal those of a process without an accelerator."""
    found = rows_of_process("gpu")
    pixels, features = ["conv_1x1x16", "conv_spatial", "resnet"], ["linear", "deep"]
    assert [row[0] for row in found] == pixels + [f"{head} on efficientnet_lite0" for head in features]
    assert max(float(row[5]) for row in found[3:]) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("speed.decoders", ["PNG", "JPEG", "TIFF", "BMP"]),
        ("speed.rows", ["calibrate --compare", "drift", "report", "compact"]),
    ],
)
def test_benchmarks_in_processes_print_complete_tables(module: str, expected: list[str]) -> None:
    found = rows_of_process(module)
    assert [row[0] for row in found] == expected
    assert [row for row in found if not all(row)] == []


@pytest.mark.slow
def test_the_cost_of_flagged_images_is_compared_with_the_first_rate() -> None:
    """The table compares the second and the third rate with the first."""
    first, *others = rows("speed.flagged")
    assert (first[2], len(others)) == ("1.00", 2)


@pytest.mark.slow
def test_the_benchmark_of_limits_runs() -> None:
    found = rows("speed.limits")
    assert [row for row in found if not all(row)] == []
    assert [row[0] for row in found if not row[0].startswith("matrix")] == [
        *("memory copy", "decoding", "writing Parquet")
    ]
    libraries = [row[2] for row in found if row[0] == "matrix product, float32"]
    assert libraries[:2] == ["NumPy, 64 x 64", "TensorFlow, 64 x 64"]


def test_a_ceiling_is_that_of_the_fastest_library(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = importlib.import_module("benchmarks.speed.limits")
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


def test_a_peer_that_fails_says_why(tmp_path: Path) -> None:
    for part in ("train", "test"):
        np.save(tmp_path / f"{part}.npy", np.zeros((1, 16, 16, 1), np.float32))
    peers = importlib.import_module("benchmarks.peers.compare")
    absent = peers.Peer("absent", "no_such_module", "Detector")
    row = peers.cells(absent, tmp_path, tmp_path, data=None, rounds=1, minutes=1)
    assert row == ["absent", "could not be installed or run: ModuleNotFoundError: No module named 'no_such_module'"]
    killed = subprocess.CalledProcessError(-9, "python", stderr="a warning")
    assert peers.reason(killed) == "killed by signal 9"


def test_the_examples_of_rates_are_right() -> None:
    assert doctest.testmod(importlib.import_module("benchmarks.rates")) == (0, 2)


def test_the_laws_of_the_coverage_benchmark_have_their_truth() -> None:
    coverage = importlib.import_module("benchmarks.coverage")
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


def test_two_commits_are_compared_round_by_round(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """They run in turn, each first equally often; only figures of every round of both are compared."""
    compare = importlib.import_module("benchmarks.compare")
    assert doctest.testmod(compare) == (0, 2)
    trees, ran = iter([Path("a"), Path("b")]), []

    def figures(place: Path, line: list[str]) -> list[tuple[str, dict[str, float]]]:
        ran.append((str(place), *line))
        return [("40", {"s": 2.0 if place == Path("a") else 3.0, "load": 0.0, **({"new": 1.0} if ran[1:] else {})})]

    monkeypatch.setattr(compare, "tree", lambda _: nullcontext(next(trees)))
    monkeypatch.setattr(compare, "figures", figures)
    monkeypatch.setattr("sys.argv", ["compare", "v1", "v2", "--rounds", "2", "--side", "16"])
    compare.main()
    assert ran == [(place, "speed.end_to_end", "--side", "16") for place in "abba"]
    assert capsys.readouterr().out.splitlines()[2:] == [
        *("|  |  | v1 | v2 | ratio |", "|---|---|---|---|---|", "| 40 | s | 2 | 3 | 1.50 (1.50-1.50) |")
    ]


def test_a_commit_has_a_folder_while_it_is_measured() -> None:
    compare = importlib.import_module("benchmarks.compare")
    with compare.tree("HEAD") as place:
        assert (place / "benchmarks" / "rates.py").exists()
        (place / "left").touch()
    assert not place.exists()
    with compare.tree(".") as place:
        assert place == ROOT
    assert place.exists()


@pytest.mark.slow
def test_the_benchmark_of_locating_runs() -> None:
    found = rows("detection.locating")
    assert [row[:2] for row in found[2:]] == [["screw", "on"]]
    assert [row for row in found if not all(row)] == []
