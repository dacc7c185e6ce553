"""Cross-fitting trains on every normal image: each fold in turn stands in for new images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import calibrate, score, train
from PIL import Image

from nelbo.data import read_table
from nelbo.detectors import conformal_threshold
from nelbo.flows.workspace.calibrations.calibration import read_calibration
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace

#: The filters backbone needs no weights, and its bundles are small.
SMALL: dict[str, Any] = {"image_size": (64, 64), "preset": "features", "backbone": "filters", "engines": ()}


def write_parts(folder: Path, n: int, seed: int, spot: bool = False) -> Path:
    """Write images of a bright bar on a dark ground, with grain, and with a hole if `spot`."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(n):
        pixels = 50 + random.normal(0, 5, (64, 64))
        pixels[24:40] += 120 + random.normal(0, 8)
        if spot:
            pixels[28:36, 30:38] -= 100
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"part_{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def normals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parts(tmp_path_factory.mktemp("parts") / "normal", 60, 1)


@pytest.fixture(scope="module")
def trained(normals: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    workspace = tmp_path_factory.mktemp("crossed") / "workspace"
    return workspace, train(normals, workspace, **SMALL)


def test_every_normal_image_trains_the_model_and_sets_the_threshold(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    workspace, result = trained
    assert (result["calibrate_on"], result["approximate"]) == ("cross", True)
    assert (result["n_train"], result["n_validation"], result["n_calibration"]) == (60, 0, 60)
    assert "approximate" in result["promise"]
    rows = read_table(workspace / "calibrations" / result["calibration_id"] / "scores.parquet")
    parts = ("peak_z", "worst_z", "mean_z")
    scores = np.sum([rows[name].to_numpy() for name in parts], axis=0)
    np.testing.assert_allclose(rows["anomaly_score"].to_numpy(), scores)
    assert result["threshold"] == conformal_threshold(scores, 0.05)
    card = next((workspace / "cards").glob("*.md")).read_text()
    assert "each by its score under a model that has not seen it. The rate is approximate" in card
    # Of new parts most are called normal, and each with a hole is found.
    for name, spot, flagged in (("new", False, range(8)), ("holes", True, range(20, 21))):
        batch = write_parts(tmp_path / name, 20, 7 + spot, spot)
        assert score(batch, workspace, calibration=result["calibration_id"])["n_anomalous"] in flagged


def test_another_rate_uses_the_kept_scores_of_the_same_images(
    trained: tuple[Path, dict[str, Any]], normals: Path
) -> None:
    """The model has seen all of them, but their scores by models of the other folds are kept."""
    workspace, result = trained
    other = calibrate(workspace, normal=str(normals), fpr=0.1)
    assert (other["fpr"], other["approximate"], other["n_calibration"], other["n_left_out"]) == (0.1, True, 60, 0)
    first = read_calibration(Workspace(workspace), result["calibration_id"])
    assert other["threshold"] == conformal_threshold(first.normal_scores, 0.1)
    with pytest.raises(UsageError, match="cross-fitted scores make the rate approximate"):
        calibrate(workspace, normal=str(normals), fpr=0.1, confidence=0.9)


def test_groups_of_crossed_images_count_once(normals: Path, tmp_path: Path) -> None:
    """File names tell two views of each part; a later calibration on the same images knows the groups."""
    pairs = {"group_by": r"part_(\d\d)"}
    result = train(normals, tmp_path / "workspace", fpr=0.2, **pairs, **SMALL)
    assert (result["n_groups"], result["n_calibration"], result["calibrate_on"]) == (6, 6, "cross")
    assert "with 6 groups (approximate" in result["promise"]
    highest = calibrate(tmp_path / "workspace", normal=str(normals), fpr=0.2, promise_per="group")
    assert (highest["n_calibration"], highest["approximate"]) == (6, True)
    rows = read_table(
        tmp_path / "workspace" / "calibrations" / highest["calibration_id"] / "scores.parquet"
    ).to_pylist()
    scores = [[row["anomaly_score"] for row in rows if f"part_{k:02d}" in row["relative_path"]] for k in range(6)]
    drawn = sorted(row["anomaly_score"] for row in rows if row["split"] == "calibration")
    assert drawn == sorted(map(max, scores))
    assert highest["threshold"] == conformal_threshold(drawn, 0.2)


def test_held_out_images_promise_exactly(normals: Path, tmp_path: Path) -> None:
    result = train(normals, tmp_path / "workspace", calibrate_on="held_out", **SMALL)
    assert (result["calibrate_on"], result["approximate"]) == ("held_out", False)
    assert (result["n_train"], result["n_validation"], result["n_calibration"]) == (41, 0, 19)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"image_size": (32, 32)}, "calibrate_on=cross goes with the heads linear and linear_image"),
        ({**SMALL, "confidence": 0.95}, "confidence=0.95 does not go with calibrate_on=cross"),
    ],
)
def test_settings_that_exclude_cross_fitting_are_refused(
    asked: dict[str, Any], says: str, normals: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says):
        train(normals, tmp_path / "workspace", calibrate_on="cross", **asked)
