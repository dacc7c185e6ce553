"""A folder that mixes products, end to end: variants are found or named, each has a promise, verdicts name them."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import calibrate, score, train
from PIL import Image
from products import write_products
from synthetic import write_list

from nelbo.data import InputError, read_table
from nelbo.detectors import n_needed
from nelbo.flows.options.options import TrainOptions
from nelbo.flows.steps.train import freeze_normals
from nelbo.flows.workspace.calibrations.calibration import read_calibration
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run

#: The filters backbone needs no weights, and its bundles are small.
SMALL: dict[str, Any] = {"image_size": (64, 64), "preset": "features", "backbone": "filters", "engines": ()}


@pytest.fixture(scope="module")
def normals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed") / "normal"
    write_products(folder / "left", "stripes", 60, 1)
    write_products(folder / "right", "dots", 50, 2)
    return folder


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed") / "new"
    for kind, seed in (("stripes", 3), ("dots", 4)):
        write_products(folder, kind, 20, seed)
        write_products(folder, kind, 5, seed + 10, spot=True)
    return write_products(folder, "wedge", 3, 5)


@pytest.fixture(scope="module")
def trained(normals: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    workspace = tmp_path_factory.mktemp("variants") / "workspace"
    return workspace, train(normals, workspace, **SMALL)


def scored(images: Path, workspace: Path, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    result = score(images, workspace, **options)
    return result, read_table(Path(result["scores"])).to_pylist()


def test_findings_in_the_normal_images_are_reported_and_stored(trained: tuple[Path, dict[str, Any]]) -> None:
    workspace, result = trained
    assert [(one["variant"], one["n_calibration"]) for one in result["variants"]] == [("1", 60), ("2", 50)]
    assert all("5 %" in one["promise"] for one in result["variants"])
    assert result["promise"].endswith("kept for each of 2 variants")
    card = (workspace / "cards" / f"{result['model_id']}.md").read_text()
    assert "| variants | 2 | a model, and a threshold, for each: 1 (60 images), 2 (50 images)." in card
    assert f"({result['model_id']}-variants.png)" in card
    with Image.open(workspace / "cards" / f"{result['model_id']}-variants.png") as sheet:
        # The sheet has a row of three pictures for each variant.
        assert sheet.size == (804, 2 * 266 + 6)
    kinds = next(one for one in result["data"] if one["name"] == "kinds")
    assert kinds["sentence"].startswith("2 kinds of images seem mixed: 60 and 50 (of the rarest: right/dots_")
    assert "Each has a model of its own" in kinds["sentence"]


def test_the_promise_is_kept_for_each_variant(trained: tuple[Path, dict[str, Any]]) -> None:
    workspace, result = trained
    calibration = read_calibration(Workspace.at(str(workspace)), result["calibration_id"])
    for one in result["variants"]:
        scores = calibration.normal_scores_of[one["variant"]]
        # A threshold of its own would flag as many.
        assert (scores > calibration.threshold.value + 1e-9).sum() == int(0.05 * (len(scores) + 1)) - 1
        assert one["threshold"] == calibration.threshold.value + calibration.statistic.levels[one["variant"]]


def test_each_image_is_judged_as_its_variant(trained: tuple[Path, dict[str, Any]], new: Path) -> None:
    workspace, result = trained
    found, rows = scored(new, workspace, calibration=result["calibration_id"])
    for row in rows:
        kind = row["relative_path"].removeprefix("spot_").partition("_")[0]
        if kind == "wedge":
            assert row["variant_z"] > 1
        elif not row["relative_path"].startswith("spot"):
            assert row["variant"] == {"stripes": "1", "dots": "2"}[kind]
        assert (row["verdict"] == "anomalous") == (row["p_value"] <= 0.05)
        level = {one["variant"]: one["threshold"] - row["threshold"] for one in result["variants"]}[row["variant"]]
        total = sum(row[name] for name in ("peak_z", "worst_z", "mean_z", "variant_z")) - level
        assert row["anomaly_score"] == pytest.approx(total, rel=1e-6, abs=1e-6)
    flagged = {row["relative_path"] for row in rows if row["verdict"] == "anomalous"}
    odd = {row["relative_path"] for row in rows if row["relative_path"].startswith(("spot", "wedge"))}
    assert odd <= flagged
    assert len(flagged - odd) <= 6
    page = Path(found["report"]).read_text()
    assert "no known variant (the nearest is" in page
    assert "<th>variant</th>" in page


def test_other_shares_of_variants_are_no_drift(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    workspace, trained_as = trained
    calibration = {"calibration": trained_as["calibration_id"], "drift_batches": 0}
    result = score(write_products(tmp_path / "dots", "dots", 60, 7), workspace, **calibration)
    assert not result["drift"]["alarm"]
    darker = write_products(tmp_path / "darker", "dots", 60, 8)
    for path in darker.iterdir():
        values = np.asarray(Image.open(path)) * 0.8
        Image.fromarray(values.astype(np.uint8)).save(path)
    result = score(darker, workspace, **calibration)
    assert result["drift"]["alarm"]
    assert all(finding.startswith("variant ") for finding in result["drift"]["findings"])
    assert result["differs"][0]["sentence"].startswith("variant 2: the images are darker than the normal ones (bright")


def test_variants_are_named_by_folder_or_table(
    normals: Path, new: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    result = train(normals, tmp_path / "workspace", variant_by="folder", **SMALL)
    assert "variants: left (60 images), right (50 images)" in caplog.text
    assert [(one["variant"], one["n_calibration"]) for one in result["variants"]] == [("left", 60), ("right", 50)]
    _, rows = scored(new, tmp_path / "workspace")
    assert {row["variant"] for row in rows} == {"left", "right"}
    named = [(path.relative_to(normals), path.name[:4]) for path in sorted(normals.rglob("*.png"))]
    table = write_list(tmp_path / "normals.csv", "path,variant", named)
    asked = {"normal": str(table), "root": str(normals), "workspace": str(tmp_path / "table"), **SMALL}
    options = TrainOptions(**asked)
    manifest = read_table(Workspace.at(options.workspace).manifest(freeze_normals(options, Run("train", options))))
    assert set(manifest["variant"].to_pylist()) == {"dots", "stri"}
    one = train(table, tmp_path / "one", root=str(normals), variants=1, **SMALL)
    assert "variants" not in one
    assert "| variants | 1 | as asked |" in next((tmp_path / "one" / "cards").glob("*.md")).read_text()
    write_list(table, "path,variant", [*named[:50], *((path, "") for path, _ in named[50:])])
    with pytest.raises(InputError, match=r"60 of 110 usable images have no variant \(first: "):
        train(table, tmp_path / "no", root=str(normals), **SMALL)


def test_a_variant_with_few_images_is_judged_with_the_others(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    others = write_products(tmp_path / "others", "stripes", 40, 21)
    write_products(others, "dots", n_needed(0.05) - 1, 22)
    result = calibrate(trained[0], normal=str(others))
    assert "variant 2 has 18 calibration images, and its own promise needs 19" in caplog.text
    assert [one["variant"] for one in result["variants"]] == ["1"]


def test_models_that_are_trained_have_one_variant(normals: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="variants=2 goes with a linear head"):
        train(normals, tmp_path, image_size=(32, 32), preset="conv_1x1x16", variants=2)
    with pytest.raises(ValueError, match="variants"):
        TrainOptions(normal=str(normals), variants="none")
