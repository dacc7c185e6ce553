"""The Python interface gives the same results as the commands."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

import nelbo
from nelbo.data import InputError
from nelbo.flows.options.options import CalibrateOptions, ScoreOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.workspace.errors import NotYetError, UsageError

Trained = tuple[Path, dict[str, Any]]


@pytest.fixture
def ws(trained: Trained, tmp_path: Path) -> nelbo.Workspace:
    """A `Workspace` over a copy of the trained workspace, to write to."""
    return nelbo.Workspace(shutil.copytree(trained[0], tmp_path / "workspace"))


@pytest.fixture(scope="module")
def scorer(trained: Trained) -> nelbo.Scorer:
    return nelbo.Workspace(trained[0]).scorer()


def test_scores_are_those_of_the_command(images: Path, ws: nelbo.Workspace, trained: Trained, tmp_path: Path) -> None:
    batch = ws.score(images / "new", batch_id="monday")
    other = shutil.copytree(trained[0], tmp_path / "other")
    said = execute(
        "score", ScoreOptions(images=str(images / "new"), workspace=str(other), batch_id="monday"), prefect=False
    )
    of_the_run = ["run_id", "scored_at_utc"]
    pd.testing.assert_frame_equal(
        batch.scores.drop(columns=of_the_run),
        pd.read_parquet(said["scores"]).drop(columns=of_the_run),
        check_exact=True,
    )
    assert set(batch.flagged["verdict"]) == {"anomalous"}
    assert batch.flagged["anomaly_score"].is_monotonic_decreasing
    assert len(batch.flagged) == said["n_anomalous"] > 0
    assert set(batch.audit["verdict"]) == {"normal"}
    assert len(batch.audit) == 10
    assert batch.audit["thumbnail"].notna().all()
    assert batch.report.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert ws.batch() == ws.batch("monday") == batch
    assert ws.batches["n_images"].tolist() == [28]


def test_flagged_images_are_shown_with_their_maps(images: Path, ws: nelbo.Workspace, tmp_path: Path) -> None:
    batch = ws.score(shutil.copytree(images / "new" / "b", tmp_path / "new"))
    # The pictures are drawn from the rows, without the files.
    shutil.rmtree(tmp_path / "new")
    assert len(batch.flagged) == 6
    # Each has the nearest normal image at its right, and six lines of text below.
    assert batch.show().size == (3 * 600 + 8, 2 * 296 + 8)
    assert batch.flagged["why"].str.contains(" normal images? scores? as high").all()
    shown = np.asarray(batch.show(n=1))
    original, overlaid = shown[8:200, 8:200], shown[8:200, 208:400]
    # The map has colours, the image has none.
    assert not np.ptp(original.astype(int), axis=2).any()
    assert np.ptp(overlaid.astype(int), axis=2).any()
    nearest, lines = shown[8:200, 408:600], shown[216:290]
    assert nearest.min() < 200
    assert lines.min() < 50
    batch.workspace.normals(batch.model_id).unlink()
    assert batch.show(n=1).width == 400 + 8


def test_a_scorer_gives_the_numbers_of_the_command(images: Path, ws: nelbo.Workspace) -> None:
    scorer = ws.scorer()
    for _, row in ws.score(images / "new").scores.iterrows():
        found = scorer(images / "new" / row["relative_path"])
        assert {"anomaly_score", "nelbo_nats", "threshold", "p_value", "verdict", "reason"} <= set(found.index)
        pd.testing.assert_series_equal(found, row[found.index], check_exact=True, check_names=False)


def test_threads_share_a_scorer(images: Path, scorer: nelbo.Scorer) -> None:
    paths = sorted((images / "new").rglob("*.png"))
    alone = [scorer(path).anomaly_score for path in paths]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda path: scorer(path).anomaly_score, paths)) == alone
        assert list(threads.map(lambda path: scorer(np.asarray(Image.open(path))).anomaly_score, paths)) == alone


def picture(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(5).random(shape)


@pytest.mark.parametrize(
    "values",
    [
        (255 * picture((40, 50))).astype(np.uint8),
        (255 * picture((40, 50, 1))).astype(np.uint8),
        (255 * picture((40, 50, 3))).astype(np.uint8),
        (65_535 * picture((40, 50))).astype(np.uint16),
        (65_535 * picture((40, 50, 3))).astype(np.uint16),
        (32_767 * picture((40, 50))).astype(np.int16),
        picture((40, 50)).astype(np.float32),
        900 * picture((40, 50, 3)).astype(np.float32) - 20,
        np.full((40, 50), np.nan, np.float32),
    ],
    ids=lambda values: f"{values.dtype}{values.shape}",
)
def test_an_array_is_scored_as_its_file(values: np.ndarray, scorer: nelbo.Scorer, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", values, photometric="rgb" if values.shape[2:] == (3,) else "minisblack")
    pd.testing.assert_series_equal(scorer(values), scorer(tmp_path / "image.tif"), check_exact=True)


def test_an_uncalibrated_scorer_gives_numbers_without_verdicts(
    images: Path, ws: nelbo.Workspace, scorer: nelbo.Scorer
) -> None:
    image = np.asarray(Image.open(next((images / "new").rglob("*.png"))))
    found = ws.scorer(uncalibrated=True)(image)
    assert pd.isna(found[["threshold", "p_value", "verdict"]]).all()
    assert found.anomaly_score == scorer(image).anomaly_score


def test_an_argument_that_is_no_image_is_refused(images: Path, scorer: nelbo.Scorer) -> None:
    with pytest.raises(InputError, match="does not exist"):
        scorer("missing.png")
    with pytest.raises(InputError, match="expected one image"):
        scorer(images)
    with pytest.raises(ValueError, match="shape"):
        scorer(np.zeros((3, 4, 5)))
    with pytest.raises(ValueError, match="type bool"):
        scorer(np.zeros((3, 4), bool))


def test_a_model_is_loaded_listed_and_calibrated(
    images: Path, ws: nelbo.Workspace, trained: Trained, tmp_path: Path
) -> None:
    (model_id, threshold) = (trained[1][name] for name in ("model_id", "threshold"))
    model = ws.model()
    assert (model.model_id, model.threshold) == (model_id, threshold)
    assert model.card.startswith("# ")
    assert ws.models[["model_id", "latest"]].to_dict("records") == [{"model_id": model_id, "latest": True}]
    assert nelbo.load(trained[0], model_id).model_id == model_id

    again = model.calibrate(fpr=0.1)
    other = shutil.copytree(trained[0], tmp_path / "other")
    options = CalibrateOptions(normal=str(images / "normal"), fpr=0.1, workspace=str(other))
    assert again.threshold == execute("calibrate", options, prefect=False)["threshold"] < threshold
    assert model.calibrate(use=trained[1]["calibration_id"]).threshold == threshold
    assert model.calibrate(images / "normal", fpr=0.1).threshold == again.threshold


def test_examples_of_the_page_run(
    images: Path, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training in them is that of the command."""
    (tmp_path / "good").symlink_to(images / "normal")
    (tmp_path / "new").symlink_to(images / "new")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "python.md").read_text(encoding="utf-8")
    scope: dict[str, Any] = {}
    exec("".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), scope)  # noqa: S102 - our own document
    assert scope["model"].model_id == trained[1]["model_id"]
    assert scope["ws"].model().calibrate(use=trained[1]["calibration_id"]).threshold == trained[1]["threshold"]
    assert scope["found"].verdict == "anomalous"


def test_the_example_of_the_readme_runs(
    images: Path, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a trained model of too few images for a rate of 1 %."""
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    (example,) = (text for text in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "import nelbo" in text)
    changed = example.replace('ws.train("good/")', "ws.model()").replace("fpr=0.01", "fpr=0.05")
    assert changed.count("ws.model()") == changed.count("fpr=0.05") == 1
    shutil.copytree(trained[0], tmp_path / "ws")
    (tmp_path / "new").mkdir()
    shutil.copy(next(images.glob("new/**/blot*.png")), tmp_path / "new" / "image.png")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(changed, scope)  # noqa: S102 - our own document
    assert scope["batch"].scores["verdict"].tolist() == ["anomalous"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda ws: ws.train("good", epoch=3), "unknown key 'epoch'"),
        (lambda ws: ws.score("new", fpr=0.1), "unknown key 'fpr'"),
        (lambda ws: ws.scorer(shard_size=3), "unknown key 'shard_size'"),
        (lambda ws: ws.model().calibrate(rate=0.1), "unknown key 'rate'"),
        (lambda ws: ws.train("good", fpr=2), "fpr=2: "),
        (lambda ws: ws.score("new", runner="dask", dask_address="tcp://h:1"), "scores images in this process"),
        (lambda ws: ws.model("m1"), "model 'm1' is not in workspace"),
        (lambda ws: ws.batch("b1"), "batch 'b1' is not scored"),
    ],
)
def test_bad_calls_are_refused(call: Callable[[nelbo.Workspace], Any], said: str, trained: Trained) -> None:
    with pytest.raises(UsageError, match=said):
        call(nelbo.Workspace(trained[0]))


def test_an_empty_workspace_has_nothing_yet(tmp_path: Path) -> None:
    ws = nelbo.Workspace(tmp_path / "new")
    assert ws.models.empty
    assert ws.batches.empty
    for call in (ws.batch, ws.model, ws.scorer):
        with pytest.raises(NotYetError):
            call()
    assert not (tmp_path / "new").exists()


def test_neither_importing_nor_scoring_starts_a_server(images: Path, exported: Path, tmp_path: Path) -> None:
    """Neither importing nor scoring starts one, and importing loads no slow package."""
    workspace = shutil.copytree(exported, tmp_path / "workspace")
    code = f"""
import json, sys
import nelbo
first = set(sys.modules)
ws = nelbo.Workspace({str(workspace)!r})
assert "keras" not in sys.modules
batch = ws.score({str(images / "new" / "b")!r})
print(json.dumps([sorted(first), sorted(set(sys.modules)), len(batch.scores)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, then, n = json.loads(done.stdout)
    assert n == 6
    assert not {"numpy", "pandas", "pyarrow", "pydantic", "keras"} & set(first)
    assert not {"prefect", "distributed"} & set(then)
