"""How training splits normal images, and what it refuses."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import commands
import pytest
from commands import calibrate
from synthetic import write_images, write_list

from nelbo.data import InputError, read_table
from nelbo.detectors import n_needed, part_sizes
from nelbo.flows.options.options import IngestOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.workspace import catalog, pointers
from nelbo.flows.workspace.layout import Workspace

pytestmark = pytest.mark.usefixtures("known_networks")

train = partial(commands.train, image_size=(16, 16), epochs=1)


def sizes(result: dict[str, Any]) -> tuple[int, int, int]:
    return result["n_train"], result["n_validation"], result["n_calibration"]


def parts(workspace: Path) -> dict[str | None, list[str]]:
    """Part -> paths, as in the training manifest."""
    (manifest,) = workspace.glob("manifests/batch_id=t*/manifest.parquet")
    found: dict[str | None, list[str]] = {}
    for row in read_table(manifest).to_pylist():
        found.setdefault(row["split"], []).append(row["relative_path"])
    return {part: sorted(paths) for part, paths in found.items()}


def splits(folder: Path, paths: Iterable[Path], names: Iterable[str]) -> Path:
    return write_list(folder / "list.csv", "path,split", zip((path.name for path in paths), names, strict=True))


def copied(paths: Iterable[Path], prefix: str) -> list[Path]:
    copies = {path.with_name(prefix + path.name): path.read_bytes() for path in paths}
    return [copy for copy, content in copies.items() if copy.write_bytes(content)]


@pytest.mark.parametrize(
    ("n", "fpr", "calibration"),
    [
        (454, 0.05, 91),
        (50, 0.05, 19),
        (38, 0.05, 19),
        (37, 0.05, 0),
        (1000, 0.01, 200),
        (200, 0.01, 99),
        (197, 0.01, 0),
    ],
)
def test_calibration_gets_what_the_promise_needs_or_nothing(n: int, fpr: float, calibration: int) -> None:
    assert part_sizes(n, n_needed(fpr))["calibration"] == calibration


def test_parts_are_disjoint_by_content(tmp_path: Path) -> None:
    folder, workspace = tmp_path / "in", tmp_path / "w"
    paths = write_images(folder, 60, seed=0)
    copied(paths[:10], "copy_of_")
    (folder / "half.png").write_bytes(paths[0].read_bytes()[:200])
    (folder / "notes.txt").write_text("x")
    result = train(folder, workspace)
    assert sizes(result) == (32, 9, 19)
    found = parts(workspace)
    assert found.pop(None) == ["half.png", "notes.txt"]
    contents = {part: {(folder / path).read_bytes() for path in names} for part, names in found.items()}
    assert {part: len(unique) for part, unique in contents.items()} == {"train": 32, "validation": 9, "calibration": 19}
    assert len(set.union(*contents.values())) == 60


def test_named_parts_are_kept(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "in", 70, seed=0)
    names = ["calibration"] * 25 + ["test"] * 5 + ["train"] * 20 + [""] * 20
    assert sizes(train(splits(tmp_path / "in", paths, names), tmp_path / "w")) == (34, 6, 25)
    found = parts(tmp_path / "w")
    assert found["calibration"] == [path.name for path in paths[:25]]
    assert not {path.name for path in paths[25:30]} & {name for names in found.values() for name in names}


def test_copies_of_test_images_are_not_trained_on(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "in", 45, seed=0)
    paths += copied(paths[:1], "copy_of_")
    train(splits(tmp_path / "in", paths, ["test"] + [""] * 45), tmp_path / "w")
    names = [name for names in parts(tmp_path / "w").values() for name in names]
    assert sorted(names) == sorted(path.name for path in paths[1:-1])


def test_what_a_model_has_seen_outlives_its_manifest_and_other_trainings(tmp_path: Path) -> None:
    folder, workspace = tmp_path / "in", tmp_path / "w"
    write_images(folder, 60, seed=0)
    trained = train(folder, workspace)
    asked = {"model": trained["model_id"], "normal": str(folder), "fpr": 0.05}
    before = calibrate(workspace, **asked)
    assert (before["n_calibration"], before["n_left_out"]) == (19, 41)
    # The same images with another split.
    assert train(folder, workspace, seed=1)["model_id"] != trained["model_id"]
    for manifest in workspace.glob("manifests/batch_id=t*"):
        ingest = IngestOptions(images=str(folder), workspace=str(workspace), batch_id=manifest.name[9:])
        execute("ingest", ingest, prefect=False)
    after = calibrate(workspace, **asked)
    assert {name: after[name] for name in ("n_calibration", "n_left_out", "calibration_id")} == {
        name: before[name] for name in ("n_calibration", "n_left_out", "calibration_id")
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["calibration"] * 40, "0 usable images for train"),
        (["validation"] * 20 + ["calibration"] * 20, "0 usable images for train"),
        (["calibration"] * 5 + [""] * 35, "5 usable images for calibration, and at least 19"),
    ],
)
def test_splits_without_enough_images_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    assert_refused(tmp_path, splits(tmp_path / "in", write_images(tmp_path / "in", 40, seed=0), names), message)


def test_two_images_without_a_named_part_are_enough_for_training(tmp_path: Path) -> None:
    table = splits(tmp_path / "in", write_images(tmp_path / "in", 40, seed=0), ["calibration"] * 38 + [""] * 2)
    assert sizes(train(table, tmp_path / "w")) == (1, 1, 38)


def test_a_part_named_for_one_copy_holds_for_all(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "in", 50, seed=0)
    copies = copied(paths[:20], "z_")
    train(splits(tmp_path / "in", [*copies, *paths], ["calibration"] * 20 + [""] * 50), tmp_path / "w")
    assert parts(tmp_path / "w")["calibration"] == sorted(path.name for path in [*paths[:20], *copies])


def test_few_normals_make_an_uncalibrated_model(tmp_path: Path) -> None:
    """A missing test image does not matter."""
    paths = write_images(tmp_path / "in", 24, seed=0)
    rows = [("gone.png", 1, "test"), *((path.name, 0, "") for path in paths)]
    result = train(write_list(tmp_path / "in" / "list.csv", "path,label,split", rows), tmp_path / "w")
    assert (result["calibration_id"], result["threshold"], result["n_calibration"]) == (None, None, 0)
    workspace = Workspace.at(str(tmp_path / "w"))
    assert pointers.current_calibration(workspace, catalog.find_model(workspace, "latest")) is None


def test_a_model_can_be_trained_without_promotion(tmp_path: Path) -> None:
    write_images(tmp_path / "in", 40, seed=0)
    result = train(tmp_path / "in", tmp_path / "w", promote=False)
    workspace = Workspace.at(str(tmp_path / "w"))
    assert pointers.promoted(workspace) is None
    assert pointers.current_calibration(workspace, result["model_id"]) == result["calibration_id"]


def assert_refused(tmp_path: Path, source: Path, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(source, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_refusals_leave_nothing_behind(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "in", 19, seed=0)
    assert_refused(tmp_path, tmp_path / "in", "holds 19 different usable normal images among 19 files.*at least 20")
    copies = copied(paths, "copy_of_")
    assert_refused(tmp_path, tmp_path / "in", "19 different usable normal images among 38 files")
    table = write_list(tmp_path / "in" / "list.csv", "path,label", ((path.name, i % 2) for i, path in enumerate(paths)))
    assert_refused(tmp_path, table, "9 images are labelled anomalous")
    splits(tmp_path / "in", [paths[0], copies[0]], ["train", "test"])
    assert_refused(tmp_path, table, "in part 'train', and the same image in part 'test'")


def test_truncated_normals_count_as_missing(tmp_path: Path) -> None:
    for path in write_images(tmp_path / "in", 22, seed=0)[:5]:
        path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(InputError, match="17 different usable"):
        train(tmp_path / "in", tmp_path / "w")
    assert not (tmp_path / "w" / "models").exists()
