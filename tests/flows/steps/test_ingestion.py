"""The command `ingest`: any source, no file read twice, the look of the images, and files that change meanwhile."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import calibrate, score, train
from faults import shut
from PIL import Image
from synthetic import write_images

from nelbo.data import InputError, iter_images, list_source, read_metadata, read_table
from nelbo.flows.options.options import IngestOptions
from nelbo.flows.orchestration.execution import execute


def ingest(images: Path | str, workspace: Path, **options: Any) -> dict[str, Any]:
    return execute("ingest", IngestOptions(images=str(images), workspace=str(workspace), **options), prefect=False)


def old(folder: Path) -> Path:
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


def test_a_second_ingest_reads_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nelbo.data.sources.files.YOUNG_NS", 0)
    folder, workspace = tmp_path / "in", tmp_path / "workspace"
    write_images(folder, 12, seed=1)
    first = ingest(old(folder), workspace)
    assert (first["n_images"], first["n_known"]) == (12, 0)
    write_images(folder, 3, seed=2)
    Image.new("L", (32, 32), 9).save(folder / "tile_1_005.png")
    second = ingest(folder, workspace)
    assert (second["n_images"], second["n_known"]) == (15, 11)
    # Ingest and training reuse each other's readings; the rows equal those of a fresh workspace.
    assert ingest(folder, workspace)["batch_id"] == second["batch_id"] == ingest(folder, tmp_path / "w")["batch_id"]
    one, other = (
        read_table(place / "manifests" / f"batch_id={second['batch_id']}" / "manifest.parquet")
        for place in (workspace, tmp_path / "w")
    )
    assert one.equals(other)


def test_a_replaced_file_is_scored_with_its_new_contents(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same name, size and time; the row is that of the new contents."""
    monkeypatch.setattr("nelbo.data.sources.files.YOUNG_NS", 0)
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        Image.new("L", (32, 32), i).save(folder / f"{i}.bmp")
    ingest(old(folder), workspace)
    first = score(folder, workspace)
    Image.new("L", (32, 32), 200).save(folder / "1.bmp")
    old(folder)
    again = score(folder, workspace)
    assert (again["n_images"], again["n_waiting"]) == (3, 0)
    assert again["batch_id"] != first["batch_id"]
    rows = read_table(Path(again["scores"])).to_pylist()
    assert rows[1]["image_id"] == hashlib.sha256((folder / "1.bmp").read_bytes()).hexdigest()
    assert [row["reason"] for row in rows] == [None] * 3


@pytest.mark.usefixtures("known_networks")
def test_folders_that_cannot_be_listed_are_counted_by_each_command(
    images: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(images / "normal", tmp_path / "in"))
    (folder / "shut").mkdir()
    shut(monkeypatch, "shut")
    new = write_images(tmp_path / "more", 20, seed=9)[0].parent
    (new / "shut").mkdir()
    results = [
        ingest(folder, workspace),
        score(folder, workspace),
        train(folder, workspace, image_size=(32, 32), epochs=1),
        calibrate(workspace, normal=str(new), statistic="nelbo"),
    ]
    assert [result["n_folders_unlisted"] for result in results] == [1, 1, 1, 1]
    for result in results:
        (row,) = read_table(workspace / "runs" / f"{result['run_id']}.parquet").to_pylist()
        assert row["n_folders_unlisted"] == 1


def test_names_and_output_are_utf_8_under_any_locale(tmp_path: Path) -> None:
    """Names of files, folder and workspace, and all output, are UTF-8 even so."""
    folder = tmp_path / "Ärger"
    write_images(folder / "für", 2, seed=1)
    (folder / "ü.png").write_bytes(next((folder / "für").iterdir()).read_bytes())
    command = [Path(sys.executable).parent / "nelbo", "ingest", folder, "--json", "--no-prefect"]
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [*command, "--workspace", tmp_path / "Ausgänge"], env=os.environ | locale, capture_output=True, check=True
    )
    result = json.loads(done.stdout.decode())
    assert (result["n_images"], result["n_unusable"]) == (3, 0)
    assert read_metadata(Path(result["manifest"]))["nelbo.root"] == str(folder)


def test_a_damaged_manifest_is_not_reused(tmp_path: Path) -> None:
    write_images(tmp_path / "in", 3, seed=1)
    first = ingest(old(tmp_path / "in"), tmp_path / "workspace")
    Path(first["manifest"]).write_bytes(b"PAR1")
    again = ingest(tmp_path / "in", tmp_path / "workspace")
    assert (again["n_known"], again["batch_id"]) == (0, first["batch_id"])


def test_ingest_measures_the_look_of_the_images(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    bright, whole, _ = write_images(folder, 3, seed=1)
    Image.fromarray(np.full((32, 32), 204, np.uint8)).save(bright)
    shutil.copy(bright, folder / "z_copy.png")
    (folder / "cut.png").write_bytes(whole.read_bytes()[:300])
    result = ingest(folder, tmp_path / "workspace")
    rows = {row["relative_path"]: row for row in read_table(Path(result["manifest"])).to_pylist()}
    assert rows[bright.name]["brightness"] == pytest.approx(0.8)
    assert rows[bright.name]["contrast"] == pytest.approx(0, abs=1e-6)
    assert rows["z_copy.png"]["duplicate_of"] == bright.name
    assert rows["cut.png"]["reason"] == "truncated"
    assert rows["cut.png"]["brightness"] is None
    assert (result["n_unusable"], result["n_duplicates"]) == (1, 1)
    assert {row["mode"] for row in rows.values()} == {"L"}


@pytest.mark.parametrize("kind", ["zip", "pattern"])
def test_a_batch_from_another_source_has_the_same_verdicts(
    kind: str, images: Path, workspace: Path, tmp_path: Path
) -> None:
    source = str(images / "new" / "*" / "*.png")
    if kind == "zip":
        source = str(tmp_path / "new.zip")
        with zipfile.ZipFile(source, "w") as archive:
            for path in sorted((images / "new").rglob("*.png")):
                archive.write(path, path.relative_to(images / "new"))
    scored = score(source, workspace)
    assert scored["n_images"] == 26
    assert "data:image/jpeg" in Path(scored["report"]).read_text()
    folder = score(images / "new", workspace)
    columns = ["relative_path", "image_id", "anomaly_score", "p_value", "verdict"]
    tables = [read_table(Path(result["scores"])).select(columns).to_pylist() for result in (scored, folder)]
    assert tables[0] == [row for row in tables[1] if row["relative_path"].endswith(".png")]


@pytest.mark.parametrize("moment", ["flows.inference.pipeline.iter_images", "flows.steps.ingest.list_source"])
def test_a_file_that_changes_meanwhile_waits(
    moment: str, images: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During the listing or after it: its row would have the hash of one image and the score of another."""
    folder = Path(shutil.copytree(images / "new" / "a", tmp_path / "in"))
    changing = sorted(folder.iterdir())[3]

    real: Callable[..., Any] = iter_images if moment.endswith("iter_images") else list_source

    def late(*arguments: Any, **options: Any) -> Any:
        found = real(*arguments, **options)
        if real is list_source:
            found = replace(found, entries=iter(list(found.entries)))
        Image.new("L", (32, 32), 7).save(changing)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(f"nelbo.{moment}", late)
        scored = score(folder, workspace)
    assert (scored["n_images"], scored["n_waiting"]) == (19, 1)
    assert changing.name not in read_table(Path(scored["scores"]))["relative_path"].to_pylist()
    (row,) = read_table(workspace / "runs" / f"{scored['run_id']}.parquet").to_pylist()
    assert row["n_waiting"] == 1
    again = score(folder, workspace)
    assert (again["n_images"], again["n_waiting"]) == (20, 0)


@pytest.mark.usefixtures("known_networks")
def test_training_reads_an_archive(images: Path, tmp_path: Path) -> None:
    source = shutil.make_archive(str(tmp_path / "normal"), "gztar", images / "normal")
    result = train(source, tmp_path / "workspace", image_size=(32, 32), epochs=1)
    assert result["n_train"] + result["n_validation"] + result["n_calibration"] == 80


def mvtec(root: Path) -> Path:
    """A category of MVTec AD: 22 normal images to train on; to test on, 4 normal and 3 with a blot, with masks."""
    write_images(root / "train" / "good", 22, seed=1)
    write_images(root / "test" / "good", 4, seed=2)
    for path in write_images(root / "test" / "blot", 3, seed=3, blot=True):
        mask = root / "ground_truth" / "blot" / f"{path.stem}_mask.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32)).save(mask)
    (root / "license.txt").write_text("CC BY-NC-SA")
    return root


@pytest.mark.usefixtures("known_networks")
def test_a_category_of_mvtec_needs_no_preparation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root, workspace = mvtec(tmp_path / "bottle"), tmp_path / "workspace"
    with caplog.at_level("INFO", logger="nelbo"):
        trained = train(root, workspace, image_size=(16, 16), epochs=1, fpr=0.2)
        scored = score(root, workspace)
    assert f"Took train/good/ alone as the normal images of {root} (all below: folder_labels=false)" in caplog.text
    assert "image_size=16x16 brings the preset conv_1x1x16; preset=... asks for another" in caplog.text
    assert "Took folders as labels: good/ normal; blot/ anomalous (none: folder_labels=false)." in caplog.text
    assert "Nothing outside test/ is read." in caplog.text
    assert sum(trained[name] for name in ("n_train", "n_validation", "n_calibration")) == 22
    rows = read_table(Path(scored["scores"]), ["relative_path", "label"]).to_pylist()
    assert {row["relative_path"].partition("/")[0]: row["label"] for row in rows} == {"good": 0, "blot": 1}
    assert (scored["n_images"], scored["n_not_scored"]) == (7, 0)
    assert scored["metrics"]
    # The result is the same as with the folders named explicitly.
    assert (
        train(root / "train" / "good", workspace, image_size=(16, 16), epochs=1, fpr=0.2)["model_id"]
        == (trained["model_id"])
    )
    # Labels from folders can choose a threshold, too.
    chosen = calibrate(workspace, labels=str(root), objective="youden")
    assert chosen["n_calibration"] > 0


def test_folders_give_no_labels_if_these_are_switched_off_or_doubtful(
    workspace: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "in"
    write_images(folder / "good", 4, seed=2)
    write_images(folder / "blot", 3, seed=3, blot=True)
    assert labels(score(folder, workspace, folder_labels=False)) == {"good": -1, "blot": -1}
    assert "Took" not in caplog.text
    assert labels(score(folder, workspace)) == {"good": 0, "blot": 1}
    # An image beside the folders stays unknown; so do all images if a folder is named like a part of a data set.
    write_images(folder, 1, seed=4)
    assert labels(score(folder, workspace)) == {"good": 0, "blot": 1, "tile_4_000.png": -1}
    write_images(folder / "train", 1, seed=5)
    assert set(labels(score(folder, workspace)).values()) == {-1}
    assert f"{folder}: good/ lies beside train/. Folders are therefore not taken as labels" in caplog.text
    # Folders give no labels while images still land.
    (folder / "train" / "tile_5_000.png").unlink()
    (folder / "train").rmdir()
    assert set(labels(score(folder, workspace, new=True, min_age_s=0)).values()) == {-1}


def labels(scored: dict[str, Any]) -> dict[str, int]:
    rows = read_table(Path(scored["scores"]), ["relative_path", "label"]).to_pylist()
    return {row["relative_path"].partition("/")[0]: row["label"] for row in rows}


def test_training_takes_every_image_below_if_it_is_unclear_which_are_normal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_images(tmp_path / "in" / "good", 5, seed=0)
    write_images(tmp_path / "in", 3, seed=1)
    with pytest.raises(InputError, match="holds 8 different usable normal images"):
        train(tmp_path / "in", tmp_path / "w")
    assert "images lie beside good/" in caplog.text
    with pytest.raises(InputError, match="holds 8 different usable normal images"):
        train(tmp_path / "in", tmp_path / "w", folder_labels=False)
    for path in (tmp_path / "in").glob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match="holds 5 different usable normal images"):
        train(tmp_path / "in", tmp_path / "w")
