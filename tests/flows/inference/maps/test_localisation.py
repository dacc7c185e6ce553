"""Maps on their pictures: where they lie, and what is counted in each image."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from nelbo.data import File, Part, Preprocessing
from nelbo.data.part.frame import Frame
from nelbo.data.part.part import crop_matrix
from nelbo.detectors import aupro, pixel_auroc
from nelbo.flows.inference import localisation
from nelbo.flows.inference.localisation import Localised, Pictured, localise, placed
from nelbo.flows.inference.pipeline import Mapped
from nelbo.flows.options.settings import DecodingSettings


def test_a_stretched_map_is_enlarged_as_opencv_does(random: np.random.Generator) -> None:
    level = random.normal(size=(8, 8)).astype(np.float32)
    for height, width in ((30, 50), (8, 8), (301, 7)):
        expected = cv2.resize(level, (width, height), interpolation=cv2.INTER_LINEAR)
        assert placed(level, (height, width), None, Preprocessing(64, 64)) == pytest.approx(expected, abs=0.05)


def test_the_black_border_of_a_padded_image_is_left_out() -> None:
    # 200 x 100 pixels in 64 x 64: the middle half of the rows.
    level = np.zeros((64, 64), np.float32)
    level[16:48, :32] = 1
    found = placed(level, (100, 200), None, Preprocessing(64, 64, fit="pad"))
    # Rows at the edge are mixed with the border beside them.
    assert found[2:98, :98].min() > 0.9
    assert found[:, 102:].max() < 0.1


def test_the_map_of_a_part_lies_on_the_part() -> None:
    frame = Frame(0.1, 0.01, (-0.3, -0.1, 0.3, 0.1), 0.3, True, "")
    preprocessing = Preprocessing(160, 416, frame=frame)
    part = Part("found", 0.0, 1.0, 0.4, 0.6, 30.0, 1.0)
    level = np.zeros((160, 416), np.float32)
    level[30:40, 300:320] = 1
    matrix = crop_matrix(part, frame, (160, 416), (500, 700))
    # The expected place: the middle of the spot, transformed from the crop to the picture.
    x, y = matrix @ [309.5, 34.5, 1]
    found = placed(level, (500, 700), part, preprocessing)
    rows, columns = np.nonzero(found > 0.5)
    assert (columns.mean(), rows.mean()) == pytest.approx((x, y), abs=0.5)
    assert found[0, 0] == 0


class Maps:
    """Stands in for a model; its maps are given."""

    preprocessing = Preprocessing(16, 16).to_dict()


def pictures(folder: Path, random: np.random.Generator) -> list[Pictured]:
    """Three normal images, one of them with a black mask, and four with defects of several sizes."""
    found = []
    for number, side in enumerate((40, 50, 60, 40, 70, 90, 33)):
        Image.fromarray(random.integers(0, 255, (side, 2 * side), dtype=np.uint8)).save(folder / f"{number}.png")
        mask = np.zeros((side, 2 * side), np.uint8)
        if number > 2:
            mask[5 : 5 + 2 * number, 7 : 7 + 5 * number] = 255
        Image.fromarray(mask).save(folder / f"{number}_mask.png")
        mask_file = File(str(folder), f"{number}_mask.png") if number >= 2 else None
        found.append(Pictured(File(str(folder), f"{number}.png"), mask_file, number <= 2, 2 * side, side))
    return found


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch, random: np.random.Generator) -> np.ndarray:
    """Given maps that replace those of a model for any files."""
    levels = random.normal(size=(20, 8, 8)).astype(np.float32)

    def map_files(_model: Any, files: Any, _decoding: Any) -> Any:
        names = [file.path for file in files]
        for start in range(0, len(names), 3):
            some = names[start : start + 3]
            reasons = ["unreadable" if name == "gone.png" else None for name in some]
            rows = [start + number for number, reason in enumerate(reasons) if reason is None]
            parts = [None] * len(rows)
            yield Mapped(reasons, levels[rows], parts, np.full(len(rows), 2.0))

    monkeypatch.setattr(localisation, "map_files", map_files)
    return levels


def held(images: list[Pictured]) -> Localised:
    return localise(Maps(), images, DecodingSettings())  # type: ignore[arg-type]


def test_pixels_are_those_of_masks_at_their_own_resolution(
    maps: np.ndarray, tmp_path: Path, random: np.random.Generator
) -> None:
    images = pictures(tmp_path, random)
    found = held(images)
    assert (found.rows, found.left_out) == (list(range(7)), {})
    masks = [np.asarray(Image.open(tmp_path / f"{number}_mask.png")) > 0 for number in range(7)]
    large = [cv2.resize(level, mask.shape[::-1]) for level, mask in zip(maps, masks, strict=False)]
    area, regions = found.counts.auroc(n_resamples=3), found.counts.aupro(0.3, n_resamples=3)
    assert area is not None
    assert regions is not None
    assert area.value == pytest.approx(pixel_auroc(masks, large, n_resamples=1).value, abs=1e-3)
    assert regions.value == pytest.approx(aupro(masks, large, n_resamples=1).value, abs=1e-3)
    assert [region.area_px for region in found.counts.regions] == [90, 160, 250, 360]


def test_pixels_that_the_model_ignores_count_as_usual(
    maps: np.ndarray, tmp_path: Path, random: np.random.Generator
) -> None:
    images = pictures(tmp_path, random)
    maps[:, :3, :2] = 0
    expected = held(images).counts
    maps[:, :3, :2] = np.nan
    found = held(images).counts
    assert found.auroc(n_resamples=3) == expected.auroc(n_resamples=3)
    assert (found.level(), found.regions) == (expected.level(), expected.regions)


@pytest.mark.usefixtures("maps")
def test_a_huge_mask_is_reduced_to_squares(
    tmp_path: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pictures(tmp_path, random)
    whole = held(images).counts.auroc(n_resamples=3)
    monkeypatch.setattr(localisation, "_MOST_PX", 4000)
    fewer = held(images)
    assert fewer.counts.auroc(n_resamples=3) == pytest.approx(whole, abs=0.05)
    # Worked out: 70 x 140 pixels have squares of 2, of which 5 x 11 are touched; 90 x 180 have squares of 3, and 4 x 9.
    assert [region.area_px for region in fewer.counts.regions] == [90, 4 * 55, 9 * 36, 360]


@pytest.mark.usefixtures("maps")
def test_images_that_cannot_be_compared_are_left_out_with_the_reason(
    tmp_path: Path, random: np.random.Generator
) -> None:
    images = pictures(tmp_path, random)
    gone = images[0]._replace(file=File(str(tmp_path), "gone.png"))
    black = images[3]._replace(mask=File(str(tmp_path), "0_mask.png"))
    contradicting = images[1]._replace(mask=File(str(tmp_path), "4_mask.png"))
    Image.new("L", (40, 90), 255).save(tmp_path / "other.png")
    (tmp_path / "no.png").write_text("no picture")
    other, broken = (images[4]._replace(mask=File(str(tmp_path), name)) for name in ("other.png", "no.png"))
    found = held([gone, black, contradicting, other, broken, images[5], images[0]])
    assert found.rows == [5, 6]
    assert found.left_out == {
        0: "the image cannot be used (unreadable)",
        1: "its mask is black",
        2: "it is labelled normal, but its mask shows a defect",
        3: "its mask is 40 x 90 pixels, the image 140 x 70: another shape",
        4: "its mask cannot be used (not_an_image)",
    }
    assert len(found.counts) == 2
    nothing = held([gone])
    assert (nothing.rows, nothing.left_out) == ([], {0: "the image cannot be used (unreadable)"})


@pytest.mark.usefixtures("maps")
def test_a_mask_may_be_larger_or_smaller_than_its_image(tmp_path: Path, random: np.random.Generator) -> None:
    image = pictures(tmp_path, random)[5]
    for side in (30, 300):
        mask = np.zeros((side, 2 * side), np.uint8)
        mask[: side // 3] = 255
        Image.fromarray(mask).save(tmp_path / "mask.png")
        found = held([image._replace(mask=File(str(tmp_path), "mask.png"))])
        assert found.counts.regions[0].area_px == side // 3 * 2 * side
