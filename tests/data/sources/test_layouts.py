"""Folders whose names say what is normal, and folders whose names are ambiguous."""

import zipfile
from pathlib import Path

import pytest
from synthetic import encoded

from nelbo.data import AmbiguousError, Layout, ingest, labels_in, normal_in
from nelbo.data.sources.listing import list_source


def lay(root: Path, *paths: str) -> str:
    """Make files, and folders for paths that end with a slash; the root."""
    for number, path in enumerate(paths):
        place = root / path
        if path.endswith("/"):
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(encoded(number))
    return str(root)


MVTEC = (
    *("train/good/000.png", "test/good/000.png", "test/crack/000.png", "test/poke/000.png"),
    *("ground_truth/crack/000_mask.png", "ground_truth/poke/000_mask.png", "license.txt", "readme.txt"),
)
VISA = (
    *("Data/Images/Normal/0000.JPG", "Data/Images/Anomaly/000.JPG", "Data/Masks/Anomaly/000.png", "image_anno.csv"),
)


MASKS = ("masks", "Masks", "Ground_Truth")


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (("good/", "crack/", "scratch/deep/"), Layout("", {"crack": 1, "good": 0, "scratch": 1})),
        (("Good/", "Crack/", "loose.png"), Layout("", {"Crack": 1, "Good": 0})),
        # Like the folder test of MVTec AD, with its masks beside it.
        (("good/", "crack/", "ground_truth/crack/"), Layout("", {"crack": 1, "good": 0})),
        (MVTEC, Layout("test", {"crack": 1, "good": 0, "poke": 1})),
        (VISA, Layout("Data/Images", {"Anomaly": 1, "Normal": 0})),
        (("Images/Normal/", "Images/Anomaly/", "Masks/Anomaly/"), Layout("Images", {"Anomaly": 1, "Normal": 0})),
        (("Normal/", "Anomaly/"), Layout("", {"Anomaly": 1, "Normal": 0})),
        # No folder beside it holds defects.
        (("good/",), None),
        (("good/", ".hidden/"), None),
        (("good/", "ground_truth/"), None),
        *((("good/", "crack/", f"{masks}/crack/"), Layout("", {"crack": 1, "good": 0})) for masks in MASKS),
        (("monday/", "tuesday/"), None),
        (("normal/", "other/"), None),
        (("normal/", "anomaly/", "other/"), None),
        # A file of that name is no folder.
        (("good", "crack/"), None),
        (("test/", "train/"), None),
        (("line/good/", "line/crack/"), None),
        ((), None),
    ],
)
def test_folders_give_labels_to_images_to_judge(
    tmp_path: Path, paths: tuple[str, ...], expected: Layout | None
) -> None:
    assert labels_in(lay(tmp_path, *paths)) == expected


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (("good/", "crack/"), "good"),
        (("good/", "notes.txt"), "good"),
        (MVTEC, "train/good"),
        (VISA, "Data/Images/Normal"),
        (("monday/", "tuesday/"), None),
        (("normal/", "other/"), None),
        (("train/", "test/good/"), None),
    ],
)
def test_folders_name_the_normal_images_to_learn_from(
    tmp_path: Path, paths: tuple[str, ...], expected: str | None
) -> None:
    found = normal_in(lay(tmp_path, *paths))
    assert (found and found.normal) == expected


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        (("good/", "crack/", "test/good/", "test/crack/"), "good/ lies beside test/"),
        (("good/", "crack/", "Images/Normal/", "Images/Anomaly/"), "good/ and Images/Normal/ may hold normal images"),
        (("good/", "Good/", "crack/"), "Good/ and good/ may each hold normal images"),
        (("good/", "ok/"), "good/ and ok/ may each hold normal images"),
        (("good/", "Normal/", "OK/", "crack/"), "Normal/ and OK/ and good/ may each hold normal images"),
        (("good/", "train/", "val/"), "good/ lies beside train/ and val/"),
        (("test/good/", "test/Test/"), "test/good/ lies beside test/Test/"),
    ],
)
def test_ambiguous_folders_give_no_labels(tmp_path: Path, paths: tuple[str, ...], says: str) -> None:
    with pytest.raises(AmbiguousError, match=says):
        labels_in(lay(tmp_path, *paths))


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        (("good/", "train/good/"), "good/ and train/good/ may hold normal images"),
        (("good/", "a.PNG"), "images lie beside good/"),
        (("train/good/", "train/a.jpeg"), "images lie beside train/good/"),
    ],
)
def test_ambiguous_folders_name_no_normal_images(tmp_path: Path, paths: tuple[str, ...], says: str) -> None:
    with pytest.raises(AmbiguousError, match=says):
        normal_in(lay(tmp_path, *paths))


def test_links_workspaces_and_other_sources_give_no_labels(tmp_path: Path) -> None:
    lay(tmp_path / "a", "good/", "workspace/")
    assert labels_in(str(tmp_path / "a"), skip=tmp_path / "a" / "workspace") is None
    lay(tmp_path / "b", "crack/")
    (tmp_path / "b" / "good").symlink_to(tmp_path / "a" / "good")
    assert labels_in(str(tmp_path / "b")) is None
    lay(tmp_path / "c", "x/")
    (tmp_path / "c" / "test").symlink_to(lay(tmp_path / "d", "good/", "crack/"))
    assert labels_in(str(tmp_path / "c")) is None
    # The source itself may be a link.
    (tmp_path / "link").symlink_to(tmp_path / "d")
    assert labels_in(str(tmp_path / "link")) is not None
    for source in (str(tmp_path / "none"), "memory://good", str(tmp_path / "d" / "*"), "a\0b"):
        assert labels_in(source) is None
        assert normal_in(source) is None


def test_names_that_are_not_text_are_shown_escaped(tmp_path: Path) -> None:
    lay(tmp_path, "good/", "crack/")
    (tmp_path / b"\xff\x1b".decode("utf-8", "surrogateescape")).mkdir()
    found = labels_in(str(tmp_path))
    assert str(found).encode() == b"good/ normal; crack/, \\xff\x1b/ anomalous"


def test_masks_beside_labelled_folders_are_no_images(tmp_path: Path) -> None:
    """Whatever the masks are called; the names of the source's folders say which images count."""
    source = lay(tmp_path, "good/1.png", "crack/2.png", "Masks/crack/2.png", "masks.png", "crack/masks/3.png")
    layout = labels_in(source)
    assert layout is not None
    listed = layout.labelled(list_source(source)).entries
    assert {one.entry.path: one.label for one in listed if not one.entry.skipped} == {
        "good/1.png": 0,
        "crack/2.png": 1,
        "masks.png": -1,
        "crack/masks/3.png": 1,
    }


def test_masks_are_no_images(tmp_path: Path) -> None:
    """Wherever MVTec AD or VisA lies below a folder, or in an archive."""
    lay(tmp_path / "in", *(f"bottle/{path}" for path in MVTEC), *(f"candle/{path}" for path in VISA))
    # Folders with similar names, but in another layout.
    lay(tmp_path / "in", "ground_truth/a.png", "Masks/a.png", "a_mask.png")
    kept = {
        *(f"bottle/{path}" for path in MVTEC if "_mask" not in path),
        *(f"candle/{path}" for path in VISA if "Masks" not in path),
        *("ground_truth/a.png", "Masks/a.png", "a_mask.png"),
    }
    manifest = ingest(tmp_path / "in")
    assert set(manifest.table["relative_path"].to_pylist()) == kept
    assert manifest.n_skipped == 3
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in (tmp_path / "in").rglob("*.*"):
            archive.write(path, path.relative_to(tmp_path / "in"))
    assert set(ingest(tmp_path / "in.zip").table["relative_path"].to_pylist()) == kept
    # Upper and lower case are equal.
    lay(tmp_path / "other", "Ground_Truth/a_MASK.PNG", "masks/b_mask.png", "DATA/masks/c.png", "masks.png")
    assert ingest(tmp_path / "other").table["relative_path"].to_pylist() == ["masks.png"]
    # If the source is a folder of masks, they are images.
    assert len(ingest(tmp_path / "in" / "bottle" / "ground_truth" / "crack")) == 1
