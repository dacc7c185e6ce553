"""How normals are parted, and what training refuses."""

from pathlib import Path

import pyarrow as pa
import pytest
from synthetic import write_images

from nelbo.data import InputError, read_table
from nelbo.detectors import n_needed, part_sizes
from nelbo.flows.options.options import CalibrateOptions, IngestOptions, TrainOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.workspace import catalog, pointers
from nelbo.flows.workspace.layout import Workspace

SMALL = {"image_size": (16, 16), "epochs": 1}


def options(normal: Path, workspace: Path, **more: object) -> TrainOptions:
    return TrainOptions(normal=str(normal), workspace=str(workspace), **{**SMALL, **more})  # type: ignore[arg-type]


def parts(workspace: Path) -> dict[str, list[str]]:
    """Part -> paths, as the training manifest has them."""
    (manifest,) = (workspace / "manifests").glob("batch_id=t*/manifest.parquet")
    found: dict[str, list[str]] = {}
    for row in read_table(manifest).to_pylist():
        found.setdefault(row["split"], []).append(row["relative_path"])
    return found


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
    paths = write_images(tmp_path / "in", 60, seed=0)
    for path in paths[:10]:
        (path.parent / f"copy_of_{path.name}").write_bytes(path.read_bytes())
    (tmp_path / "in" / "half.png").write_bytes(paths[0].read_bytes()[:200])
    (tmp_path / "in" / "notes.txt").write_text("x")
    result = execute("train", options(tmp_path / "in", tmp_path / "w"), prefect=False)
    assert (result["n_train"], result["n_validation"], result["n_calibration"]) == (32, 9, 19)
    found = parts(tmp_path / "w")
    assert sorted(found.pop(None)) == ["half.png", "notes.txt"]
    contents = {part: {(tmp_path / "in" / path).read_bytes() for path in names} for part, names in found.items()}
    assert {part: len(unique) for part, unique in contents.items()} == {"train": 32, "validation": 9, "calibration": 19}
    assert len(set.union(*contents.values())) == 60


def test_named_parts_are_kept(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "in", 70, seed=0)
    names = ["calibration"] * 25 + ["test"] * 5 + ["train"] * 20 + [""] * 20
    rows = "".join(f"{path.name},{name}\n" for path, name in zip(paths, names, strict=True))
    (tmp_path / "in" / "list.csv").write_text("path,split\n" + rows)
    result = execute("train", options(tmp_path / "in" / "list.csv", tmp_path / "w"), prefect=False)
    assert (result["n_train"], result["n_validation"], result["n_calibration"]) == (34, 6, 25)
    found = parts(tmp_path / "w")
    assert sorted(found["calibration"]) == [path.name for path in paths[:25]]
    assert not {path.name for path in paths[25:30]} & {name for names in found.values() for name in names}


def test_copies_of_test_images_are_not_trained_on(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "in", 45, seed=0)
    copy = tmp_path / "in" / "copy.png"
    copy.write_bytes(paths[0].read_bytes())
    rows = "".join(f"{path.name},\n" for path in [*paths[1:], copy])
    (tmp_path / "in" / "list.csv").write_text(f"path,split\n{paths[0].name},test\n" + rows)
    execute("train", options(tmp_path / "in" / "list.csv", tmp_path / "w"), prefect=False)
    found = parts(tmp_path / "w")
    assert len([name for names in found.values() for name in names]) == 44
    assert "copy.png" not in {name for names in found.values() for name in names}


def test_each_model_remembers_its_own_parts(tmp_path: Path) -> None:
    """Training again on the same folder with another seed must not change what the first model has seen."""
    write_images(tmp_path / "in", 60, seed=0)
    first = execute("train", options(tmp_path / "in", tmp_path / "w"), prefect=False)
    calibrate = CalibrateOptions(
        model=first["model_id"], normal=str(tmp_path / "in"), workspace=str(tmp_path / "w"), fpr=0.05
    )
    before = execute("calibrate", calibrate, prefect=False)
    execute("train", options(tmp_path / "in", tmp_path / "w", seed=1), prefect=False)
    after = execute("calibrate", calibrate, prefect=False)
    assert (before["n_left_out"], after["n_left_out"]) == (41, 41)
    assert after["calibration_id"] == before["calibration_id"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["calibration"] * 40, "0 usable images for train"),
        (["calibration"] * 38 + [""] * 2, "named"),
        (["validation"] * 20 + ["calibration"] * 20, "0 usable images for train"),
        (["calibration"] * 5 + [""] * 35, "5 usable images for calibration, and at least 19"),
    ],
)
def test_splits_that_cannot_be_trained_on(tmp_path: Path, names: list[str], message: str) -> None:
    paths = write_images(tmp_path / "in", 40, seed=0)
    rows = "".join(f"{path.name},{name}\n" for path, name in zip(paths, names, strict=True))
    (tmp_path / "in" / "list.csv").write_text("path,split\n" + rows)
    if message == "named":
        result = execute("train", options(tmp_path / "in" / "list.csv", tmp_path / "w"), prefect=False)
        assert (result["n_train"], result["n_validation"], result["n_calibration"]) == (1, 1, 38)
    else:
        assert_refused(tmp_path, tmp_path / "in" / "list.csv", message)


def test_a_name_counts_on_any_copy(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "in", 50, seed=0)
    rows = ""
    for path in paths[:20]:
        (path.parent / f"z_{path.name}").write_bytes(path.read_bytes())
        rows += f"z_{path.name},calibration\n"
    rows += "".join(f"{path.name},\n" for path in paths)
    (tmp_path / "in" / "list.csv").write_text("path,split\n" + rows)
    execute("train", options(tmp_path / "in" / "list.csv", tmp_path / "w"), prefect=False)
    found = parts(tmp_path / "w")
    assert sorted(found["calibration"]) == sorted(
        [*(path.name for path in paths[:20]), *(f"z_{p.name}" for p in paths[:20])]
    )


def test_a_missing_test_image_is_no_matter(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "in", 25, seed=0)
    rows = "".join(f"{path.name},0,\n" for path in paths)
    (tmp_path / "in" / "list.csv").write_text("path,label,split\ngone.png,1,test\n" + rows)
    assert execute("train", options(tmp_path / "in" / "list.csv", tmp_path / "w"), prefect=False)["n_train"] > 0


def test_what_a_model_has_seen_outlives_its_manifest(tmp_path: Path) -> None:
    write_images(tmp_path / "in", 60, seed=0)
    trained = execute("train", options(tmp_path / "in", tmp_path / "w"), prefect=False)
    (manifest,) = (tmp_path / "w" / "manifests").glob("batch_id=t*")
    ingest = IngestOptions(images=str(tmp_path / "in"), workspace=str(tmp_path / "w"), batch_id=manifest.name[9:])
    execute("ingest", ingest, prefect=False)
    calibrate = CalibrateOptions(
        model=trained["model_id"], normal=str(tmp_path / "in"), workspace=str(tmp_path / "w"), fpr=0.05
    )
    result = execute("calibrate", calibrate, prefect=False)
    assert (result["n_calibration"], result["n_left_out"]) == (19, 41)


def test_few_normals_make_an_uncalibrated_model(tmp_path: Path) -> None:
    write_images(tmp_path / "in", 24, seed=0)
    result = execute("train", options(tmp_path / "in", tmp_path / "w"), prefect=False)
    assert result["calibration_id"] is None
    assert result["threshold"] is None
    assert result["n_calibration"] == 0
    workspace = Workspace.at(str(tmp_path / "w"))
    assert pointers.current_calibration(workspace, catalog.find_model(workspace, "latest")) is None


def test_promotion_can_wait(tmp_path: Path) -> None:
    write_images(tmp_path / "in", 40, seed=0)
    result = execute("train", options(tmp_path / "in", tmp_path / "w", promote=False), prefect=False)
    workspace = Workspace.at(str(tmp_path / "w"))
    assert pointers.promoted(workspace) is None
    assert pointers.current_calibration(workspace, result["model_id"]) == result["calibration_id"]


def assert_refused(tmp_path: Path, source: Path, message: str) -> None:
    with pytest.raises(InputError, match=message):
        execute("train", options(source, tmp_path / "w"), prefect=False)
    assert not (tmp_path / "w").exists()


def test_refusals_leave_nothing_behind(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "in", 19, seed=0)
    assert_refused(tmp_path, tmp_path / "in", "holds 19 different usable normal images among 19 files.*at least 20")
    for path in paths:
        (path.parent / f"copy_of_{path.name}").write_bytes(path.read_bytes())
    assert_refused(tmp_path, tmp_path / "in", "19 different usable normal images among 38 files")
    table = tmp_path / "in" / "list.csv"
    table.write_text("path,label\n" + "".join(f"{path.name},{i % 2}\n" for i, path in enumerate(paths)))
    assert_refused(tmp_path, table, "9 images are labelled anomalous")
    copy = f"copy_of_{paths[0].name}"
    table.write_text(f"path,split\n{paths[0].name},train\n{copy},test\n")
    assert_refused(tmp_path, table, "in part 'train', and the same image in part 'test'")


def test_truncated_normals_count_as_missing(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "in", 22, seed=0)
    for path in paths[:5]:
        path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(InputError, match="17 different usable"):
        execute("train", options(tmp_path / "in", tmp_path / "w"), prefect=False)
    assert not (tmp_path / "w" / "models").exists()


def test_history_has_a_row_an_epoch(trained: tuple[Path, dict[str, object]]) -> None:
    workspace, result = trained
    history = read_table(workspace / "history" / f"{result['model_id']}.parquet")
    assert history["epoch"].to_pylist() == list(range(1, 13))
    assert {"nelbo", "distortion", "rate", "val_nelbo"} <= set(history.column_names)
    assert history.schema.field("nelbo").type == pa.float64()
