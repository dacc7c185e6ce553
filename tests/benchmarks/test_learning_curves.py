"""What learning curves are made of: the images that are learnt from, and those that are judged."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tables import BENCHMARKS, rows


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import learning_curves

    return learning_curves


@pytest.fixture
def data(curves: ModuleType) -> object:
    """100 normal images to learn from, 20 normal and 30 defective ones to judge; each has a number, from 0."""
    numbers = np.arange(150, dtype=np.float32).reshape(-1, 1, 1, 1)
    labels = np.repeat([0, 1], [20, 30])
    return curves.Dataset(numbers[:85], numbers[85:100], numbers[100:], labels, labels.astype(str))


def numbers(data: object) -> set[int]:
    """Of the images that are learnt from, each once."""
    found = np.concatenate([data.train, data.validation]).ravel().astype(int).tolist()  # type: ignore[attr-defined]
    assert len(set(found)) == len(found)
    return set(found)


def test_fewer_images_are_some_of_those_of_a_larger_number(curves: ModuleType, data: object) -> None:
    few, more = curves.fewer(data, 20), curves.fewer(data, 50)
    assert (len(few.train), len(few.validation), len(more.train)) == (17, 3, 42)
    assert numbers(few) < numbers(more) < set(range(100))
    assert few.test is data.test  # type: ignore[attr-defined]


def test_defects_that_are_learnt_from_are_not_judged(curves: ModuleType, data: object) -> None:
    some, most = curves.noisy(data, 0.05), curves.noisy(data, 0.1)
    learnt = numbers(most)
    defects = {number for number in learnt if number >= 120}
    assert (len(learnt), len(defects), len([number for number in numbers(some) if number >= 120])) == (100, 10, 5)
    assert learnt - defects < set(range(100))
    judged = most.test.ravel().astype(int).tolist()
    assert sorted({*judged, *defects}) == list(range(100, 150))
    assert len(judged) == 40 == len(most.labels) == len(most.groups)
    # The same for each share, without any, too.
    assert np.array_equal(some.test, most.test)
    assert np.array_equal(curves.judged(data).test, most.test)


@pytest.mark.slow
def test_learning_curves(tmp_path: Path) -> None:
    pytest.importorskip("elpv_dataset", reason="needs real images: pip install 'nelbo[demo]'")
    line = ("learning_curves.py", "--results", tmp_path, "--detectors", "nelbo, conv")
    found = rows(*line)
    assert [row[:2] for row in found] == [["ELPV", "nelbo, conv_1x1x16"]] * 2
    assert [bool(cell) for cell in found[0]] == [True, True, True, False, False, False, False, True]
    assert all(found[1])
    kept = (tmp_path / "quality.csv").read_text()
    # Nothing is found out twice.
    models = set((tmp_path / "models").iterdir())
    assert rows(*line) == found
    assert (tmp_path / "quality.csv").read_text() == kept
    assert set((tmp_path / "models").iterdir()) == models
