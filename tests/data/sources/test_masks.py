"""Masks are matched to images by name only."""

from pathlib import Path

import pytest

from nelbo.data import InputError, find_masks


def laid(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"")
    return folder


def named(folder: Path, *images: str) -> list[str | None]:
    return [file and file.path for file in find_masks(str(folder), images).files]


@pytest.mark.parametrize("named_folder", ["", "ground_truth"])
def test_masks_of_mvtec_are_found(named_folder: str, tmp_path: Path) -> None:
    masks = "ground_truth/crack/000_mask.png", "ground_truth/hole/000_mask.png"
    laid(tmp_path, "test/crack/000.png", "test/good/000.png", "train/good/000.png", *masks)
    start = len(named_folder and "ground_truth/")
    expected = [masks[0][start:], masks[1][start:], None, None]
    for prefix in ("bottle/test/", "test/", ""):
        images = [f"{prefix}{name}.png" for name in ("crack/000", "hole/000", "good/000", "crack/001")]
        assert named(tmp_path / named_folder, *images) == expected


@pytest.mark.parametrize("start", ["Data/Masks", "Data", ""])
def test_masks_of_visa_are_found(start: str, tmp_path: Path) -> None:
    laid(tmp_path, "Data/Images/Anomaly/000.JPG", "Data/Images/Normal/000.JPG", "Data/Masks/Anomaly/000.png")
    images = ["Data/Images/Anomaly/000.JPG", "Anomaly/000.JPG", "Normal/000.JPG"]
    path = "Data/Masks/Anomaly/000.png".removeprefix(start).removeprefix("/")
    assert named(tmp_path / start, images[0], images[2]) == [path, None]
    assert named(tmp_path / start, images[1]) == [path]


def test_masks_with_another_suffix_or_beside_their_image_are_found(tmp_path: Path) -> None:
    apart = laid(tmp_path / "a", "crack/1.png", "2.png")
    assert named(apart, "crack/1.jpg", "2.tif", "crack/3.jpg") == ["crack/1.png", "2.png", None]
    beside = laid(tmp_path / "b", "crack/1.png", "crack/1_mask.png", "good/1.png")
    assert named(beside, "crack/1.png", "good/1.png") == ["crack/1_mask.png", None]


def test_unused_masks_are_listed(tmp_path: Path) -> None:
    found = find_masks(str(laid(tmp_path, "a.png", "b.png")), ["a.jpg"])
    assert found.unused == ["b.png"]


def test_hidden_files_and_links_are_no_masks(tmp_path: Path) -> None:
    laid(tmp_path / "masks", ".1.png", "2.png")
    laid(tmp_path, "secret.png")
    (tmp_path / "masks" / "1.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "masks" / "up").symlink_to(tmp_path)
    assert named(tmp_path / "masks", "1.jpg", "2.jpg", "up/secret.jpg") == [None, "2.png", None]


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no masks"):
        find_masks(str(laid(tmp_path / "none", ".hidden")), ["a.jpg"])
    with pytest.raises(InputError, match="cannot be listed"):
        find_masks(str(tmp_path / "absent"), ["a.jpg"])
    with pytest.raises(InputError, match=r"a.bmp and a.png may be masks of one image. Leave one of them out"):
        find_masks(str(laid(tmp_path / "two", "a.png", "a.bmp")), ["a.jpg"])
    with pytest.raises(InputError, match=r"a.png may be the mask of crack/a.jpg or of good/a.jpg. Put masks into"):
        find_masks(str(laid(tmp_path / "flat", "a.png")), ["crack/a.jpg", "good/a.jpg"])
    with pytest.raises(InputError, match="credentials"):
        find_masks("s3://key:secret@bucket/masks", ["a.jpg"])
