"""Drift as the commands report it: on real images in another light, over several batches, and in the files."""

import json
import os
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import calibrate, score, train
from PIL import Image
from synthetic import write_images

from nelbo.data import read_table
from nelbo.flows.options.options import ReportOptions
from nelbo.flows.orchestration.execution import execute


def drift_of(scored: dict[str, Any]) -> dict[str, Any]:
    return json.loads(read_table(Path(scored["scores"])).schema.metadata[b"nelbo.drift"])


def fired(scored: dict[str, Any]) -> set[str]:
    return {test["name"] for test in drift_of(scored)["tests"] if test["fired"]}


@pytest.mark.slow
def test_real_cells_in_another_light_raise_the_alarm(tmp_path: Path) -> None:
    """120 unchanged solar cells raise no alarm; the same cells a tenth darker or brighter do."""
    pytest.importorskip("elpv_dataset")
    root = Path(str(files("elpv_dataset") / "data"))
    table = pd.read_csv(root / "labels.csv", sep=r"\s+", names=["path", "probability", "type"])
    normals = table["path"][table["probability"] == 0].sample(360, random_state=0)
    light = {"same": 1.0, "darker": 0.9, "brighter": 1.1}
    for name in ("good", *light):
        (tmp_path / name).mkdir()
    for path in normals[:240]:
        shutil.copy(root / path, tmp_path / "good")
    for path in normals[240:]:
        pixels = np.asarray(Image.open(root / path), np.float64)
        for name, factor in light.items():
            changed = np.clip(factor * pixels, 0, 255).round().astype(np.uint8)
            Image.fromarray(changed).save(tmp_path / name / Path(path).name, compress_level=1)
    workspace = tmp_path / "workspace"
    train(tmp_path / "good", workspace, image_size=(32, 32), epochs=3)
    found = {name: score(tmp_path / name, workspace, drift_batches=0) for name in light}
    assert found["same"]["drift"] == {"alarm": False, "findings": []}
    assert found["same"]["differs"] == []
    for name, direction in (("darker", "lower"), ("brighter", "higher")):
        assert found[name]["drift"]["alarm"]
        assert "brightness" in fired(found[name])
        said = f"the images are {name} than the normal ones (brightness 0."
        assert found[name]["differs"][0]["sentence"].startswith(said)
        # The alarm concerns the batch, apart from the verdicts on its images.
        page = Path(found[name]["report"]).read_text()
        # The difference comes first on the page.
        assert 0 < page.index(f"T{said[1:]}") < page.index("<h1>")
        assert "Alarm: this batch as a whole is unlike the calibration." in page
        assert "What is flagged may be the light and not the parts." in page
        assert f"brightness is {direction} than in the calibration" in page
    assert "No sign that this batch" in Path(found["same"]["report"]).read_text()


def test_drift_is_written_to_the_report_and_the_row_of_the_run(images: Path, workspace: Path) -> None:
    scored = score(images / "new", workspace)
    drift = drift_of(scored)
    assert drift["alpha"] == 0.01
    assert [test["name"] for test in drift["tests"]] == [
        *("scores", "flagged", "martingale", "brightness", "contrast", "sharpness", "size")
    ]
    (row,) = read_table(workspace / "runs" / f"{scored['run_id']}.parquet").to_pylist()
    assert row["drift"] is drift["alarm"] is scored["drift"]["alarm"]
    assert row["drift_p_value"] == min(test["adjusted_p_value"] for test in drift["tests"])
    assert row["drift_tests"] == ",".join(test["name"] for test in drift["tests"] if test["fired"])


def test_images_of_another_size_are_named_as_drift(workspace: Path, tmp_path: Path) -> None:
    for path in write_images(tmp_path / "in", 40, seed=5):
        picture = Image.open(path)
        picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(path)
    scored = score(tmp_path / "in", workspace)
    assert "size" in fired(scored)
    said = {one["name"]: one["sentence"] for one in scored["differs"]}
    assert said["size"] == "the files have more pixels than the normal ones (most 64 x 64, usually 32 x 32)"
    assert next(iter(said)) == "size"


def test_slow_change_adds_up_over_batches(workspace: Path, tmp_path: Path) -> None:
    """A third of each batch is strange; a batch scored again counts one time, and a damaged one is left out."""
    p_values = []
    for i in range(5):
        folder = tmp_path / str(i)
        write_images(folder, 10, seed=30 + i)
        write_images(folder, 6, seed=60 + i, blot=True)
        # With so small an alpha no batch raises an alarm by itself, which would leave it out.
        scored = score(folder, workspace, drift_alpha=1e-12)
        p_values.append({test["name"]: test["p_value"] for test in drift_of(scored)["tests"]}["martingale"])
    again = score(folder, workspace, drift_alpha=1e-12)
    assert drift_of(again)["tests"] == drift_of(scored)["tests"]
    assert p_values[-1] < p_values[0]
    damaged = workspace / "scores" / f"model_id={scored['model_id']}" / f"batch_id={scored['batch_id']}"
    (damaged / "scores.parquet").write_bytes(b"PAR1")
    write_images(tmp_path / "last", 10, seed=90)
    assert drift_of(score(tmp_path / "last", workspace))["tests"][2]["name"] == "martingale"


def test_an_odd_batch_has_no_effect_on_later_batches(workspace: Path, tmp_path: Path) -> None:
    """A batch that raised the alarm has no effect on later batches, however odd it was."""
    write_images(tmp_path / "odd", 60, seed=40, blot=True)
    assert score(tmp_path / "odd", workspace)["drift"]["alarm"]
    for i in range(4):
        write_images(tmp_path / str(i), 30, seed=41 + i)
        assert not score(tmp_path / str(i), workspace)["drift"]["alarm"]


def test_batches_older_than_the_calibration_do_not_count(workspace: Path, tmp_path: Path) -> None:
    for i in range(3):
        write_images(tmp_path / str(i), 40, seed=50 + i, blot=True)
        # With this alpha no batch is left out for its own alarm.
        scored = score(tmp_path / str(i), workspace, drift_alpha=1e-12)
        os.utime(scored["scores"], (1, 1))
    write_images(tmp_path / "accepted", 60, seed=60, blot=True)
    calibrate(workspace, normal=str(tmp_path / "accepted"))
    write_images(tmp_path / "next", 40, seed=61, blot=True)
    found = drift_of(score(tmp_path / "next", workspace))
    (finding,) = (test["finding"] for test in found["tests"] if test["name"] == "martingale")
    assert "within this batch" in finding
    assert "martingale" not in {test["name"] for test in found["tests"] if test["fired"]}


def test_looks_are_compared_with_those_behind_the_calibration(
    workspace: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A darker process is drift, until it is calibrated as normal."""
    for kind, n, seed in (("accepted", 60, 70), ("next", 40, 71)):
        for path in write_images(tmp_path / kind, n, seed=seed):
            pixels = np.asarray(Image.open(path), np.float64)
            Image.fromarray((0.7 * pixels).astype(np.uint8)).save(path)
    caplog.clear()
    scored = score(tmp_path / "next", workspace)
    assert "brightness" in fired(scored)
    # This is the first finding about the batch, separate from the findings by scores.
    assert "The images are darker than the normal ones (brightness 0." in caplog.text
    assert not any("brightness" in finding for finding in scored["drift"]["findings"])
    calibrate(workspace, normal=str(tmp_path / "accepted"))
    assert "brightness" not in fired(score(tmp_path / "next", workspace))
    # A workspace that holds the bundle but not the manifest behind it still scores.
    shutil.rmtree(workspace / "manifests")
    scored = score(tmp_path / "next", workspace, batch_id="alone")
    assert {"brightness", "size"}.isdisjoint(test["name"] for test in drift_of(scored)["tests"])
    page = execute("report", ReportOptions(batch="alone", workspace=str(workspace)), prefect=False)
    assert "<h2>Drift" in Path(page["report"]).read_text()
