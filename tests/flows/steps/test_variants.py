"""A folder that mixes products, the whole way: found or named, each with a promise, said wherever verdicts are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from products import write_products

from nelbo.data import read_table
from nelbo.detectors import n_needed
from nelbo.flows.workspace.calibrations.calibration import read_calibration
from nelbo.flows.workspace.layout import Workspace

Nelbo = Callable[..., tuple[int, str, str]]
#: Filters need no weights, and their bundles are small.
SMALL = ("--set", "image_size=64", "--set", "preset=features", "--set", "backbone=filters", "--set", "engines=")


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


@pytest.fixture
def trained(nelbo: Nelbo, normals: Path, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    return train(nelbo, normals, tmp_path / "workspace")


def train(nelbo: Nelbo, normals: Path, workspace: Path, *arguments: object) -> tuple[Path, dict[str, Any]]:
    given = ("--normal", normals, *SMALL, "--workspace", workspace, *arguments, "--json", "--no-prefect")
    code, out, err = nelbo("train", *given)
    assert code == 0, err
    return workspace, json.loads(out) | {"stderr": err}


def scored(nelbo: Nelbo, workspace: Path, images: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    code, out, err = nelbo("score", images, "--workspace", workspace, "--json", "--no-prefect")
    assert code == 0, err
    result = json.loads(out)
    return result, read_table(Path(result["scores"])).to_pylist()


def test_what_the_normals_show_is_said_and_kept(trained: tuple[Path, dict[str, Any]]) -> None:
    workspace, result = trained
    assert "variants: 1 (60 images), 2 (50 images)" in result["stderr"]
    assert [(one["variant"], one["n_calibration"]) for one in result["variants"]] == [("1", 60), ("2", 50)]
    assert all("5 %" in one["promise"] for one in result["variants"])
    assert result["promise"].endswith("kept for each of 2 variants")
    card = (workspace / "cards" / f"{result['model_id']}.md").read_text()
    assert "| variants | 2 | a model, and a threshold, for each: 1 (60 images), 2 (50 images)." in card
    assert f"({result['model_id']}-variants.png)" in card
    with Image.open(workspace / "cards" / f"{result['model_id']}-variants.png") as sheet:
        # Three pictures of each, a row each.
        assert sheet.size == (804, 2 * 266 + 6)


def test_of_each_variant_the_promise_is_kept(trained: tuple[Path, dict[str, Any]]) -> None:
    workspace, result = trained
    calibration = read_calibration(Workspace.at(str(workspace)), result["calibration_id"])
    for one in result["variants"]:
        scores = calibration.normal_scores_of[one["variant"]]
        # As many as a threshold of its own would flag.
        assert (scores > calibration.threshold.value + 1e-9).sum() == int(0.05 * (len(scores) + 1)) - 1
        assert one["threshold"] == calibration.threshold.value + calibration.statistic.levels[one["variant"]]


def test_each_image_is_judged_as_its_variant(trained: tuple[Path, dict[str, Any]], nelbo: Nelbo, new: Path) -> None:
    workspace, result = trained
    found, rows = scored(nelbo, workspace, new)
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


def test_other_shares_of_variants_are_no_drift(
    trained: tuple[Path, dict[str, Any]], nelbo: Nelbo, tmp_path: Path
) -> None:
    workspace, _ = trained
    result, _ = scored(nelbo, workspace, write_products(tmp_path / "dots", "dots", 60, 7))
    assert not result["drift"]["alarm"]
    darker = write_products(tmp_path / "darker", "dots", 60, 8)
    for path in darker.iterdir():
        values = np.asarray(Image.open(path)) * 0.8
        Image.fromarray(values.astype(np.uint8)).save(path)
    result, _ = scored(nelbo, workspace, darker)
    assert result["drift"]["alarm"]
    assert all(finding.startswith("variant ") for finding in result["drift"]["findings"])


def test_variants_are_named_by_folder_or_table(nelbo: Nelbo, normals: Path, new: Path, tmp_path: Path) -> None:
    workspace, result = train(nelbo, normals, tmp_path / "workspace", "--variant-by", "folder")
    assert [(one["variant"], one["n_calibration"]) for one in result["variants"]] == [("left", 60), ("right", 50)]
    _, rows = scored(nelbo, workspace, new)
    assert {row["variant"] for row in rows} == {"left", "right"}
    table = tmp_path / "normals.csv"
    lines = [f"{path.relative_to(normals)},{path.name[:4]}" for path in sorted(normals.rglob("*.png"))]
    table.write_text("\n".join(["path,variant", *lines]))
    _, by_table = train(nelbo, table, tmp_path / "other", "--root", normals)
    assert [one["variant"] for one in by_table["variants"]] == ["dots", "stri"]
    _, one = train(nelbo, table, tmp_path / "one", "--root", normals, "--set", "variants=1")
    assert "variants" not in one
    assert "| variants | 1 | as asked |" in next((tmp_path / "one" / "cards").glob("*.md")).read_text()
    table.write_text("\n".join(["path,variant", *lines[:50], *(line.partition(",")[0] + "," for line in lines[50:])]))
    code, _, err = nelbo("train", "--normal", table, "--root", normals, *SMALL, "--workspace", tmp_path / "no")
    assert code != 0
    assert "60 of 110 usable images have no variant (first: " in err


def test_a_variant_with_few_images_is_judged_with_the_others(
    trained: tuple[Path, dict[str, Any]], nelbo: Nelbo, tmp_path: Path
) -> None:
    workspace, _ = trained
    others = write_products(tmp_path / "others", "stripes", 40, 21)
    write_products(others, "dots", n_needed(0.05) - 1, 22)
    code, out, err = nelbo("calibrate", "--normal", others, "--workspace", workspace, "--json", "--no-prefect")
    assert code == 0, err
    assert "variant 2 has 18 calibration images, and its own promise needs 19" in err
    assert [one["variant"] for one in json.loads(out)["variants"]] == ["1"]


def test_models_that_are_trained_have_one_variant(nelbo: Nelbo, normals: Path, tmp_path: Path) -> None:
    small = ("--set", "image_size=32", "--set", "preset=conv_1x1x16", "--set", "variants=2")
    code, _, err = nelbo("train", "--normal", normals, *small, "--workspace", tmp_path, "--no-prefect")
    assert code != 0
    assert "variants=2 goes with a linear head" in err
    code, _, err = nelbo("train", "--normal", normals, "--set", "variants=none", "--workspace", tmp_path)
    assert code != 0
    assert "variants" in err
