"""The benchmark of quality runs, and its computations are right; how well nelbo detects is for people to judge."""

import doctest
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import ROOT, rows
from PIL import Image

from nelbo.detectors.interval import Interval


@pytest.fixture
def quality() -> ModuleType:
    from benchmarks.detection import quality

    return quality


@pytest.fixture
def results() -> ModuleType:
    from benchmarks.detection import results

    return results


@pytest.mark.slow
def test_the_benchmark_of_quality_runs() -> None:
    pytest.importorskip("elpv_dataset", reason="needs real images: pip install 'nelbo[demo]'")
    # One detector of each sort: heads have a test below, and trained detectors take long.
    few = ("nelbo, filters", "nelbo, conv_1x1x16", "darkest pixel", "1-NN on pixels", "size")
    found = rows("detection.quality", "--sets", "ELPV", "--detectors", *few)
    names = [row[0] for row in found]
    assert names[:3] == [f"nelbo, filters, {of} (1)" for of in ("joint", "peak", "nelbo")]
    assert {f"nelbo, conv_1x1x16, {statistic} (1)" for statistic in ("peak", "nelbo")} <= set(names)
    assert {"darkest pixel (1)", "1-NN on pixels (1)", "size (1)"} <= set(names)
    assert [row for row in found if not all(row)] == []


@pytest.mark.slow
def test_the_benchmark_of_mistakes_runs(tmp_path: Path) -> None:
    pytest.importorskip("elpv_dataset", reason="needs real images: pip install 'nelbo[demo]'")
    found = rows("detection.mistakes", "--pictures", str(tmp_path))
    assert [row[0] for row in found] == ["all", "mono", "poly"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ELPV, nelbo, features, flagged.png",
        "ELPV, nelbo, features, missed.png",
    ]


def test_the_examples_in_docstrings_are_right(results: ModuleType, quality: ModuleType) -> None:
    assert doctest.testmod(results) == (0, 5)
    assert doctest.testmod(quality) == (0, 1)


def test_seeds_widen_an_interval(results: ModuleType) -> None:
    one = Interval(0.8, 0.7, 0.875)
    same = results.over_seeds([one, one, one])
    assert same == pytest.approx(results.over_seeds([one]))
    apart = results.over_seeds([one, Interval(0.9, 0.84, 0.94), Interval(0.7, 0.58, 0.8)])
    assert apart.high - apart.low > same.high - same.low
    # The extremes: every comparison is right, or every one is wrong.
    assert results.over_seeds([Interval(1.0, 1.0, 1.0)] * 2) == pytest.approx((1, 1, 1), abs=2e-4)
    assert results.over_seeds([Interval(0.0, 0.0, 0.0)]) == pytest.approx((0, 0, 0), abs=2e-4)


def test_kinds_are_compared_with_their_own_or_all_normal_images(quality: ModuleType) -> None:
    labels, groups = np.array([0, 0, 1, 1]), np.array(["mono", "poly", "mono", "poly"])
    data = quality.Dataset(*[np.zeros(0)] * 3, labels, groups)
    assert {name: rows.tolist() for name, rows in quality.kinds(data)} == {
        "all": [True] * 4,
        "mono": [True, False, True, False],
        "poly": [False, True, False, True],
    }
    data = data._replace(groups=np.array(["normal", "normal", "crack", "fray"]))
    assert dict(quality.kinds(data))["crack"].tolist() == [True, True, True, False]
    # There is only one kind.
    data = data._replace(groups=np.array(["normal", "normal", "crack", "crack"]))
    assert list(dict(quality.kinds(data))) == ["all"]


def test_known_results_are_not_computed_again(results: ModuleType, tmp_path: Path) -> None:
    known = results.Results(tmp_path / "kept")
    asked: list[Path] = []

    def find(models: Path) -> Any:
        asked.append(models)
        figures = {("", "all"): Interval(0.5, 0.4, 0.61234), ("AUPRO", "all"): Interval(0.1, 0.05, 0.2)}
        return results.Outcome(figures, 3.25, math.inf)

    first = known.of(find, "MTD", "size", 64, 0)
    again = results.Results(tmp_path / "kept").of(find, "MTD", "size", 64, 0)
    assert first.equals(again)
    assert asked == [known.models]
    assert first["high"].tolist() == [0.6123, 0.2]
    assert first["statistic"].tolist() == ["", "AUPRO"]
    assert first["images_per_s"].tolist() == [math.inf] * 2
    known.of(find, "MTD", "size", 64, 1)
    assert len(asked) == 2
    lines = results.tables("MTD", results.read_figures(known.path))
    assert [line for line in lines if line.startswith("| size")] == [
        "| size (2) | 0.500 [0.394, 0.606] | 3 | inf |",
        "| size | 0.100 [0.049, 0.195] |",
    ]


def test_classes_have_a_row_for_each_detector_that_saw_all(results: ModuleType) -> None:
    keys = [("Cloth 0", "A", 0, 0.9), ("Cloth 0", "A", 1, 0.9), ("Cloth 1", "A", 0, 0.7), ("Cloth 0", "B", 0, 0.8)]
    figures = pd.DataFrame(keys, columns=["set", "detector", "seed", "value"])
    figures = figures.assign(statistic="peak", low=figures["value"] - 0.03, high=figures["value"] + 0.03)
    (only,) = (line for line in results.classes_table(figures) if line.startswith(("| A", "| B")))
    assert only.startswith("| A, peak (1) | 0.800 [0.7")
    assert only.endswith(" | 0.900 | 0.700 |")


def test_the_published_tables_agree_with_the_published_figures(results: ModuleType) -> None:
    docs = ROOT / "docs" / "evidence"
    published = (docs / "benchmarks.md").read_text(encoding="utf-8")
    figures = results.read_figures(docs / "quality.csv")
    of_classes = figures["set"].str.startswith("Fashion-MNIST")
    # For learning curves, a comma separates the name of a set from what was learnt from instead.
    whole = figures[~of_classes & ~figures["set"].str.contains(",")]
    lines = [line for name, found in whole.groupby("set") for line in results.tables(name, found)]
    lines += results.classes_table(figures[of_classes]) if of_classes.any() else []
    rows = [line for line in lines if line.startswith("|")]
    assert rows
    assert [row for row in rows if row not in published] == []


def test_magnetic_tiles_are_split_by_their_names(
    quality: ModuleType, tmp_path: Path, random: np.random.Generator
) -> None:
    """In a folder like the real one, the named normals train; other normals and all defects are judged, with masks."""
    for folder in ("normal", "defect/crack", "masks/crack"):
        (tmp_path / folder).mkdir(parents=True)
    for name in "abcdefgh":
        level = random.integers(0, 256, (20, 30), np.uint8)
        Image.fromarray(level).save(tmp_path / "normal" / f"{name}.jpg")
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "defect" / "crack" / "z.jpg")
    mask = np.zeros((20, 30), np.uint8)
    mask[:10] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "crack" / "z.png")
    (tmp_path / "train_normals.txt").write_text("a.jpg\nb.jpg\nc.jpg\nd.jpg\ne.jpg\nf.jpg\n")
    data = quality.mtd(tmp_path, 16)
    assert len(data.train) + len(data.validation) == 6
    assert data.labels.tolist() == [0, 0, 1]
    assert data.groups.tolist() == ["normal", "normal", "crack"]
    assert data.masks[2, :8].all()
    assert not data.masks[2, 8:].any()
    assert not data.masks[:2].any()
    assert not data.test[2].any()
    assert data.areas.tolist() == [600] * 3


def test_a_set_with_the_same_normal_images_trains_no_model_of_its_own(
    quality: ModuleType, tmp_path: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = random.uniform(size=(24, 16, 16, 1)).astype(np.float32)
    one = quality.Dataset(images[:16], images[16:], images[:4], np.array([0, 0, 1, 1]), np.repeat("a", 4))
    config, settings = quality.VAEConfig(height=16, width=16), quality.TrainConfig(epochs=1)
    model, seconds = quality.trained(one, config, settings, tmp_path)
    monkeypatch.delattr(quality, "train")
    again, same = quality.trained(one._replace(test=images[4:8]), config, settings, tmp_path)
    assert same == seconds > 0
    np.testing.assert_array_equal(quality.score(again, images).nelbo, quality.score(model, images).nelbo)
    with pytest.raises(NameError):
        quality.trained(one, config, quality.TrainConfig(epochs=1, seed=1), tmp_path)


def test_mistakes_are_on_the_wrong_side_of_the_threshold(random: np.random.Generator) -> None:
    from benchmarks.detection import mistakes

    labels = np.repeat([0, 1], [20, 5])
    peaks = np.concatenate([np.arange(20.0), [30.0, 3.0, 18.0, 1.0, 19.5]])
    data = mistakes.Dataset(
        *[random.random((25, 16, 16, 1))] * 3, labels, np.repeat("a", 25), np.ones((25, 16, 16), bool)
    )
    found = mistakes.Found(peaks, random.random((25, 16, 16)), float(np.quantile(np.arange(20.0), 0.95)))
    assert found.threshold == pytest.approx(18.05)
    assert mistakes.flagged(data, found).tolist() == [19]
    assert mistakes.missed(data, found).tolist() == [23, 21, 22]
    assert mistakes.table(data, found)[2:] == ["| all | 3 of 5 | 60% |"]
    picture = np.asarray(mistakes.sheet(data, found, mistakes.missed(data, found)))
    assert picture.shape == (272, 2048, 3)
    # The outline of the mask is green; the sheet is blank beyond the three pairs.
    assert ((picture == (0, 255, 0)).all(axis=2)).any()
    assert (picture[:, 1536:] == 255).all()


@pytest.mark.slow
def test_the_benchmark_of_heads_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("elpv_dataset", reason="needs real images: pip install 'nelbo[demo]'")
    from benchmarks.detection import heads

    monkeypatch.setattr(heads, "DRAWS", 1)
    found = rows("detection.heads", "--results", tmp_path, "--sets", "ELPV", "--backbones", "filters", "--splits", 2)
    assert [row[1] for row in found[:8]] == [
        *(
            f"{head}, {of}"
            for head in ("linear", "linear, of the distortion", "linear_image")
            for of in ("joint", "peak")
        ),
        "nearest neighbour of each place",
        "Gaussian of each place, 100 features",
    ]
    # The other tables: learning curves, defects among the normals, one model or variants, and rates.
    assert [row[:2] for row in found[8:]] == [["ELPV", "filters"]] * 5
    assert [row[2] for row in found[10:12]] == ["1", "auto"]
    assert found[-1][2:4] == ["2", "5%"]


@pytest.mark.slow
def test_the_benchmark_of_precision_runs(tmp_path: Path) -> None:
    pytest.importorskip("elpv_dataset", reason="needs real images: pip install 'nelbo[demo]'")
    found = rows("detection.precision", "--results", tmp_path, "--sets", "ELPV")
    assert [row[:2] for row in found[:2]] == [["ELPV", "float32"], ["ELPV", "int8"]]
    # Then come differences and speeds.
    assert found[2][-1] in ("float32", "int8")
    assert [row[0] for row in found[3:]] == ["float32", "int8"]


def test_other_heads_equal_those_of_libraries(random: np.random.Generator) -> None:
    from scipy.spatial.distance import mahalanobis
    from sklearn.neighbors import NearestNeighbors

    from benchmarks.detection import fits, heads

    normals, test = random.normal(size=(40, 1, 6)), random.normal(size=(5, 1, 6))
    bank = NearestNeighbors(n_neighbors=1).fit(normals[:, 0])
    np.testing.assert_allclose(np.sqrt(fits.nearest(normals, test, 0)), bank.kneighbors(test[:, 0])[0][:, 0])
    inverse = np.linalg.inv(np.cov(normals[:, 0].T) + 0.01 * np.eye(6))
    expected = [mahalanobis(one, normals[:, 0].mean(axis=0), inverse) ** 2 for one in test[:, 0]]
    np.testing.assert_allclose(fits.gaussian_of_each_place(normals, test, 0), expected)
    views = np.repeat(["a", "b", "c", "d"], 5)
    rows_of_some = heads._some(views, 10, 0)
    # Parts are taken whole.
    assert sorted(np.unique(views[rows_of_some], return_counts=True)[1]) == [5, 5]
    assert heads._some(views, 21, 0) is None
