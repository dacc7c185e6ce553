"""``masks`` writes regions as pictures, COCO annotations and a table that other tools read, or nothing at all."""

import csv
import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import assert_refused
from PIL import Image
from pycocotools.coco import COCO
from scored import ATTACKS, MODEL, OTHER, make_two_models

from nelbo import Workspace
from nelbo.data import find_masks, read_table
from nelbo.data.regions.run_length import decode
from nelbo.flows.cli.masks.formats import WRITERS, mask_names

Nelbo = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    make_two_models(folder)
    return folder


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of the workspace, to write to."""
    return Path(shutil.copytree(made / "workspace", tmp_path / "workspace"))


def regions(root: Path, batch: str = "shift") -> list[dict[str, Any]]:
    found = read_table(root / f"regions/model_id={MODEL}/batch_id={batch}/regions.parquet").to_pylist()
    assert len(found) > 5
    return found


def paths_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_each_flagged_image_has_a_mask_of_its_size(nelbo: Nelbo, root: Path, tmp_path: Path) -> None:
    code, out, err = nelbo("masks", "--batch", "shift", "--workspace", root, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    said = json.loads(out)
    flagged = read_table(root / f"flagged/model_id={MODEL}/batch_id=shift/flagged.parquet")["relative_path"].to_pylist()
    found = regions(root)
    assert said | {"masks": str(tmp_path / "out")} == said
    assert (said["format"], said["n_flagged"], said["n_regions"]) == ("png", len(flagged), len(found))
    assert said["n_without_region"] == len(flagged) - len({one["relative_path"] for one in found})
    assert paths_of(tmp_path / "out") == sorted(mask_names(flagged))
    for path, name in zip(flagged, mask_names(flagged), strict=True):
        mask = np.asarray(Image.open(tmp_path / "out" / name))
        expected = np.zeros((64, 64), bool)
        for one in found:
            if one["relative_path"] == path:
                expected |= decode(one["mask"], (64, 64))
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 255}
        assert ((mask == 255) == expected).all()
    # `evaluate` matches each mask to its image.
    matched = find_masks(str(tmp_path / "out"), flagged)
    assert [file is not None for file in matched.files] == [True] * len(flagged)
    assert not matched.unused


def test_coco_tools_read_the_annotations(nelbo: Nelbo, root: Path, tmp_path: Path) -> None:
    code, out, err = nelbo(
        "masks", "--batch", "shift", "--workspace", root, "--format", "coco", "--out", tmp_path / "o"
    )
    assert code == 0, err
    assert out.splitlines()[-1].startswith("nelbo report --batch shift")
    with redirect_stdout(StringIO()):
        coco = COCO(str(tmp_path / "o" / "coco.json"))
    found = regions(root)
    assert len(coco.anns) == len(found)
    assert [one["name"] for one in coco.cats.values()] == ["anomaly"]
    assert ATTACKS[0] in {one["file_name"] for one in coco.imgs.values()}
    for one, annotation in zip(found, coco.anns.values(), strict=True):
        image = coco.imgs[annotation["image_id"]]
        assert (image["file_name"], image["width"], image["height"]) == (one["relative_path"], 64, 64)
        mask = coco.annToMask(annotation)
        assert (mask == decode(one["mask"], (64, 64))).all()
        assert annotation["area"] == mask.sum() == one["area_px"]
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation["bbox"] == box == [one[name] for name in ("x_px", "y_px", "width_px", "height_px")]
        assert annotation["score"] == one["peak"]


def test_a_table_for_spreadsheets_calculates_nothing(nelbo: Nelbo, root: Path, tmp_path: Path) -> None:
    place = root / f"regions/model_id={MODEL}/batch_id=shift/regions.parquet"
    table = pq.read_table(place, partitioning=None)
    names = pa.array(["=1+1.png", *table["relative_path"].to_pylist()[1:]])
    pq.write_table(table.set_column(0, "relative_path", names), place)
    code, _, err = nelbo("masks", "--batch", "shift", "--workspace", root, "--format", "csv", "--out", tmp_path / "o")
    assert code == 0, err
    with (tmp_path / "o" / "regions.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == [name for name in table.column_names if name != "mask"]
    assert rows[0]["relative_path"] == "'=1+1.png"
    assert [float(row["peak"]) for row in rows] == table["peak"].to_pylist()


@pytest.mark.parametrize(
    "path", ["../../out.png", "/etc/passwd", "a/../../b.png", "..", ".", "a//b", "C:\\x.png", "a\0b.png", *ATTACKS]
)
def test_no_path_leads_out_of_the_folder(path: str, tmp_path: Path) -> None:
    (name,) = mask_names([path])
    parts = name.split("/")
    assert not {"", ".", ".."} & set(parts)
    assert "\0" not in name
    assert (tmp_path / name).resolve().is_relative_to(tmp_path)
    sizes = {"upright_width_px": [2], "upright_height_px": [1]}
    images = pa.table({"relative_path": [path], **sizes})
    of_image = pa.table({"relative_path": [path], "mask": ["011"]})
    (tmp_path / "in").mkdir()
    WRITERS["png"](tmp_path / "in", images, of_image, {})
    assert paths_of(tmp_path) == [f"in/{name}"]


def test_no_two_masks_have_one_name() -> None:
    paths = ["a.png", "a.jpg", "A.PNG.png", "b/c", "b/c.png", "e.jpg", "e.png/f.jpg", "d.png", "d.png"]
    names = mask_names(paths)
    assert len({name.casefold() for name in names}) == len(paths)
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
    assert not folders & set(names)
    assert mask_names(["x/d.png"]) == ["x/d.png"]


def test_names_that_are_too_long_for_a_disk_are_cut(tmp_path: Path) -> None:
    longest = "ü" * 125 + "n"
    paths = [f"{longest}.jpg", f"{longest}.png", f"{'o' * 300}/a.png", f"{'o' * 301}/a.png", f"{'.' * 200}/b.png"]
    names = mask_names(paths)
    assert names[0].startswith("üüü")
    assert names[2].endswith("/a.png")
    assert len(set(names)) == len(paths)
    images = pa.table({"relative_path": paths, "upright_width_px": [2] * 5, "upright_height_px": [1] * 5})
    WRITERS["png"](tmp_path, images, pa.table({"relative_path": paths, "mask": ["011"] * 5}), {})
    assert paths_of(tmp_path) == sorted(names)


def test_masks_are_written_in_full_or_not_at_all(
    nelbo: Nelbo, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ("masks", "--batch", "shift", "--workspace", root)
    written = WRITERS["png"]

    def full(*what: Any) -> None:
        written(*what)
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(WRITERS, "png", full)
    assert nelbo(*asked)[0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["workspace"]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert nelbo(*asked)[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masks-shift", "workspace"]
    before = paths_of(tmp_path / "masks-shift")
    # An existing folder is never replaced.
    assert_refused(nelbo(*asked), "--out masks-shift already exists", "give another name")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert_refused(nelbo(*asked, "--out", "link"), "already exists")
    assert paths_of(tmp_path / "masks-shift") == before
    assert_refused(nelbo(*asked, "--out", root / "scores" / "x"), "lies in the workspace")
    assert_refused(nelbo(*asked, "--out", "s3://bucket/x"), "a folder on this machine")
    assert_refused(nelbo(*asked, "--format", "xml"), "png", "coco", "csv")
    # The longest name that the disk accepts, in letters of three bytes.
    assert nelbo(*asked, "--out", tmp_path / ("夜" * 85))[0] == 0


def test_without_regions_it_says_why(nelbo: Nelbo, root: Path, tmp_path: Path) -> None:
    asked = ("masks", "--workspace", root, "--out", tmp_path / "out", "--batch")
    place = root / f"regions/model_id={OTHER}/batch_id=single/regions.parquet"
    table = pq.read_table(place, partitioning=None)
    said = {**table.schema.metadata, b"nelbo.no_regions": b"there is no calibration"}
    pq.write_table(table.slice(0, 0).replace_schema_metadata(said), place)
    assert_refused(nelbo(*asked, "single"), "has no regions: there is no calibration.", "nelbo calibrate --normal DIR")
    place.unlink()
    assert_refused(nelbo(*asked, "single"), "it was scored by a version without regions")
    assert_refused(nelbo(*asked, "nothing"), "nothing")
    assert not (tmp_path / "out").exists()


def test_regions_in_python_are_those_of_the_published_run(root: Path) -> None:
    batch = Workspace(str(root)).batch("shift")
    found = batch.regions
    assert found.to_dict("records") == regions(root)
    flagged = set(batch.flagged["relative_path"])
    assert set(found["relative_path"]) <= flagged
    assert (found.groupby("relative_path")["region_id"].agg(list).map(lambda ids: ids == [*range(len(ids))])).all()
    # While a batch is being published again, the file holds the regions of two runs.
    place = root / f"regions/model_id={MODEL}/batch_id=shift/regions.parquet"
    table = pq.read_table(place, partitioning=None)
    strange = table.set_column(table.schema.get_field_index("run_id"), "run_id", pa.array(["r0"] * table.num_rows))
    pq.write_table(pa.concat_tables([table, strange]).replace_schema_metadata(table.schema.metadata), place)
    assert len(batch.regions) == len(found)
    place.unlink()
    assert batch.regions.empty
