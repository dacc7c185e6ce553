"""Parts in any position, end to end: `locate` finds them, and verdicts, maps, card and drift refer to them."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import score, train
from parts import Pose, Scene, drawn, picture
from PIL import Image

from nelbo.data import Preprocessing, read_scores, read_table
from nelbo.flows.options.options import TrainOptions
from nelbo.flows.steps.settle import settle
from nelbo.flows.steps.train import freeze_normals
from nelbo.flows.workspace.runs import Run

KEY = Scene("key", width=240, height=180, length=0.4, noise=0.02)


def write(folder: Path, values: np.ndarray, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(values[..., 0] * 255).astype(np.uint8)).save(folder / f"{name}.png")


def write_keys(folder: Path, n: int, seed: int, scene: Scene = KEY, defect: str | None = None) -> Path:
    random = np.random.default_rng(seed)
    for i in range(n):
        write(folder, picture(scene, drawn(random, scene), random, defect), f"{defect or 'key'}_{i:03d}")
    return folder


@pytest.fixture(scope="module")
def normals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_keys(tmp_path_factory.mktemp("keys") / "normal", 60, 1)


@pytest.fixture(scope="module")
def trained(normals: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    workspace = tmp_path_factory.mktemp("located") / "workspace"
    # The filters backbone needs no weights, and its bundles are small.
    small: dict[str, Any] = {"image_size": (160, 160), "preset": "features", "backbone": "filters", "engines": []}
    return workspace, train(normals, workspace, **small)


def test_findings_in_the_normal_images_are_reported_and_stored(trained: tuple[Path, dict[str, Any]]) -> None:
    workspace, result = trained
    assert result["settled"]["locate"].startswith("one rigid part before a plain background: of 60 pictures 100% show")
    described = json.loads((workspace / "models" / result["model_id"] / "model.json").read_text())
    how = Preprocessing(**described["preprocessing"])
    assert how.frame is not None
    assert how.frame.has_axis
    # The crop has as many pixels as requested, in the shape of the part.
    assert (how.height, how.width) == (96, 256)
    assert (described["config"]["height"], described["config"]["width"]) == (96, 256)
    card = (workspace / "cards" / f"{result['model_id']}.md").read_text()
    assert "| parts | looked for | one rigid part before a plain background" in card
    assert f"({result['model_id']}-parts.png)" in card
    with Image.open(workspace / "cards" / f"{result['model_id']}-parts.png") as sheet:
        assert sheet.width == 804
    # The rows behind the threshold have sizes of parts, too.
    rows = read_table(workspace / "calibrations" / result["calibration_id"] / "scores.parquet")
    assert rows["size_z"].null_count == 0
    assert rows.num_rows == 60


def test_each_row_describes_the_part_that_was_found(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    workspace, _ = trained
    random = np.random.default_rng(5)
    batch = write_keys(tmp_path / "new", 20, 7)
    empty = np.full((180, 240, 1), 0.25) + random.normal(0, 0.02, (180, 240, 1))
    one, other = (picture(KEY, Pose(x, 90, angle), random) for x, angle in ((60, 80), (180, 100)))
    write(batch, empty.clip(0, 1), "empty")
    write(batch, np.maximum(one, other), "two")
    write(batch, picture(replace(KEY, length=0.5), Pose(120, 90, 10), random), "large")
    write_keys(batch, 10, 9, defect="missing")
    write_keys(batch, 10, 9, defect="dent")
    result = score(batch, workspace)
    rows = {row["relative_path"].removesuffix(".png"): row for row in read_scores(Path(result["scores"])).to_pylist()}
    for name, part in (("empty", "missing"), ("two", "several"), ("large", "size")):
        assert (rows[name]["part"], rows[name]["verdict"]) == (part, "anomalous")
        assert rows[name]["size_z"] > 5
    of_keys = [row for name, row in rows.items() if name.startswith("key_")]
    assert {row["part"] for row in of_keys} == {"found"}
    assert sum(row["verdict"] == "anomalous" for row in of_keys) <= 5
    for defect in ("missing", "dent"):
        assert sum(row["verdict"] == "anomalous" for name, row in rows.items() if name.startswith(defect)) >= 8
    for row in rows.values():
        total = row["peak_z"] + row["worst_z"] + row["mean_z"] + row["size_z"]
        assert row["anomaly_score"] == pytest.approx(total)


def test_a_map_lies_on_the_part(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """The map is highest on the dent, at one place of the upright crop, however the part lies."""
    workspace, _ = trained
    random = np.random.default_rng(3)
    for i, pose in enumerate([Pose(100, 90, angle) for angle in (20, 140, 260)]):
        write(tmp_path / "in", picture(replace(KEY, noise=0.005), pose, random, "dent"), str(i))
    flagged = read_table(Path(score(tmp_path / "in", workspace)["flagged"])).to_pylist()
    assert len(flagged) == 3
    shapes = [Image.open(io.BytesIO(row["thumbnail"])).size for row in flagged]
    places = []
    for row, (width, height) in zip(flagged, shapes, strict=True):
        values = np.array(row["map"], np.float32)
        row_, column = np.unravel_index(values.argmax(), values.shape)
        places.append(((column + 0.5) / values.shape[1] * width, (row_ + 0.5) / values.shape[0] * height))
    # Within one place of the grid, 32 pixels wide.
    assert (np.ptp(places, axis=0) <= 32).all(), places
    # Like the dent, the place is off the middle.
    assert np.linalg.norm(np.mean(places, axis=0) - np.array(shapes[0]) / 2) > 0.04 * max(shapes[0])


def test_a_camera_that_moved_is_drift(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    workspace, _ = trained
    random = np.random.default_rng(11)
    for i in range(40):
        pose = drawn(random, KEY)
        # All parts lie in the left half.
        write(tmp_path / "in", picture(KEY, replace(pose, x=50 + pose.x / 10), random), str(i))
    found = score(tmp_path / "in", workspace)
    assert found["drift"]["alarm"]
    said = {one["name"]: one["sentence"] for one in found["differs"]}
    assert said["part_x"].startswith("the parts lie farther left than in the normal ones (part_x 0.")


def options(normal: Path, folder: Path, **more: Any) -> TrainOptions:
    small = {"image_size": (96, 96), "channels": 1, "float_range": (0, 1)}
    return TrainOptions(normal=str(normal), workspace=str(folder / "w"), **{**small, **more})


def test_the_images_decide_and_always_in_the_same_way(normals: Path, tmp_path: Path) -> None:
    asked = options(normals, tmp_path)
    batch_id = freeze_normals(asked, Run("train", asked))
    settled = settle(asked, batch_id)
    assert settled == settle(asked, batch_id)
    assert settled.options.locate == "on"
    assert settled.options.frame is not None
    # With an explicit setting the images are not examined.
    off = settle(options(normals, tmp_path, locate="off"), batch_id)
    assert (off.options.frame, off.options.input_size, off.why) == (None, (96, 96), {})


def test_parts_that_all_lie_at_one_place_are_not_located(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    for i in range(20):
        write(tmp_path / "in", picture(KEY, Pose(120, 90, 0), random), str(i))
    asked = options(tmp_path / "in", tmp_path)
    settled = settle(asked, freeze_normals(asked, Run("train", asked)))
    assert settled.options.locate == "off"
    assert "all lie alike" in settled.why["locate"]
