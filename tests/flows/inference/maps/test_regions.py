"""Regions: worked examples, agreement with SciPy, orientation, and how often normal images show any."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy.ndimage import label
from scipy.stats import betabinom, norm

from nelbo.data import REGIONS, REGIONS_SCHEMA, Frame, Part, Preprocessing, iter_images
from nelbo.data.regions.run_length import decode
from nelbo.flows.evaluation.thresholds import level_of_normals
from nelbo.flows.inference.regions import regions as module
from nelbo.flows.inference.regions.halos import without_halos
from nelbo.flows.inference.regions.placing import placed
from nelbo.flows.inference.regions.regions import each_region, regions, regions_of
from nelbo.flows.options.settings import CalibrationSettings
from nelbo.flows.workspace.calibrations.level import RegionLevel

SAME = Preprocessing(4, 5)


def grid(*rows: str) -> np.ndarray:
    """A map whose digits are units, and whose dots are 0."""
    return np.array([[0.0 if one == "." else float(one) for one in row] for row in rows], np.float32)


def masks(found: list[module.Region], size: tuple[int, int]) -> list[np.ndarray]:
    return [decode(one.mask, size) for one in found]


def test_regions_of_a_small_map() -> None:
    # At one pixel a place nothing is interpolated. Corners touch; 4 is not above 4.
    units = grid("9..4.", ".5...", "....7", "....7")
    found = regions(units, 4.0, (5, 4), None, SAME)
    assert [tuple(one)[:6] for one in found] == [(0, 0, 2, 2, 2, 9.0), (4, 2, 1, 2, 2, 7.0)]
    first, second = masks(found, (5, 4))
    assert first.nonzero()[0].tolist() == first.nonzero()[1].tolist() == [0, 1]
    assert (np.argwhere(second) == [[2, 4], [3, 4]]).all()
    # Column by column: none outside, 1 in, 4 out, 1 in, 14 out (14 - 4 = 10 = ":"); 18 out and 2 in.
    assert [one.mask for one in found] == ["0140:", "b02"]


def test_a_strong_defect_is_surrounded_at_half_of_its_height() -> None:
    # Half of 30 is 15: the region has 20, but not 12. 9 and 5 are another, weaker defect.
    units = np.float32([[6, 6, 6, 0, 5], [6, 30, 20, 0, 9], [6, 12, 6, 0, 3]])
    found = regions(units, 4.0, (5, 3), None, Preprocessing(3, 5))
    assert [tuple(one)[:6] for one in found] == [(1, 1, 2, 1, 2, 30.0), (4, 0, 1, 2, 2, 9.0)]


@given(
    arrays(np.float32, (6, 7), elements=st.floats(-8, 64, width=16)),
    st.floats(-4, 32, width=16),
)
def test_without_halos_the_same_groups_of_places_exceed_the_level(units: np.ndarray, level: float) -> None:
    numbered, n = label(units > level, np.ones((3, 3)))
    lowered = without_halos(units, level)
    assert set(numbered[lowered > level].tolist()) == set(range(1, n + 1))
    assert (lowered[numbered == 0] == units[numbered == 0]).all()
    for number in range(1, n + 1):
        of_group = units[numbered == number]
        is_left = lowered[numbered == number] > level
        assert is_left.tolist() == (of_group > max(level, of_group.max() / 2 if of_group.max() > 0 else level)).tolist()


@pytest.mark.parametrize("level", [9.0, 9.5, np.inf])
def test_at_its_largest_value_a_map_has_no_region(level: float) -> None:
    units = grid("9....", ".....", ".....", "....9")
    assert regions(units, level, (5, 4), None, SAME) == []
    assert regions(units, level, (333, 100), None, SAME) == []


def test_no_interpolated_value_exceeds_the_largest_place(random: np.random.Generator) -> None:
    for size in ((7, 900), (300, 200), (64, 64)):
        units = random.normal(0, 1, (9, 13)).astype(np.float32)
        assert regions(units, float(units.max()), size, None, Preprocessing(64, 64)) == []
        assert (
            regions(np.full((9, 13), 3.3, np.float32), float(np.float32(3.3)), size, None, Preprocessing(64, 64)) == []
        )


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_regions_are_those_that_scipy_labels_in_the_enlarged_map(
    fit: str, monkeypatch: pytest.MonkeyPatch, random: np.random.Generator
) -> None:
    preprocessing, size = Preprocessing(64, 64, fit=fit), (150, 90)
    for strip_px in (4_000_000, 1_000, 1):
        monkeypatch.setattr(module, "_STRIP_PX", strip_px)
        units = random.normal(0, 1, (16, 16)).astype(np.float32)
        found = regions(units, 0.8, size, None, preprocessing)
        enlarged = placed(units, size[::-1], None, preprocessing)
        lowered = placed(without_halos(units, 0.8), size[::-1], None, preprocessing)
        numbered, n = label(lowered > 0.8, np.ones((3, 3)))
        # Each strip is rounded separately.
        assert abs(sum(one.area_px for one in found) - (numbered > 0).sum()) < 10
        if strip_px > 1_000:
            assert len(found) == n > 3
            for one, mask in zip(found, masks(found, size), strict=True):
                number = numbered[mask][0]
                assert (mask == (numbered == number)).all()
                assert one.peak == enlarged[mask].max() > 0.8
                rows, columns = np.nonzero(mask)
                assert (one.x_px, one.y_px) == (columns.min(), rows.min())
                assert (one.width_px, one.height_px) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
                assert one.area_px == mask.sum()
        assert [one.peak for one in found] == sorted((one.peak for one in found), reverse=True)


def test_a_place_without_a_number_is_in_no_region() -> None:
    units = np.full((4, 4), 9.0, np.float32)
    units[:, :2] = np.nan
    (found,) = regions(units, 4.0, (40, 40), None, Preprocessing(4, 4))
    # The places beside it lose nothing: they reach to the border between the places.
    assert (found.x_px, found.y_px, found.width_px, found.height_px) == (20, 0, 20, 40)
    assert regions(np.full((4, 4), np.nan, np.float32), 4.0, (40, 40), None, Preprocessing(4, 4)) == []


def test_padding_is_in_no_region() -> None:
    units = np.zeros((8, 8), np.float32)
    units[:2] = 9.0
    # 80 x 40 pixels lie in the rows 2 to 5.
    assert regions(units, 6.0, (80, 40), None, Preprocessing(8, 8, fit="pad")) == []
    units[5:, 7] = 9.0
    (found,) = regions(units, 6.0, (80, 40), None, Preprocessing(8, 8, fit="pad"))
    assert (found.x_px + found.width_px, found.y_px + found.height_px) == (80, 40)
    assert 70 <= found.x_px <= 75


def test_no_region_lies_outside_the_crop_of_a_part() -> None:
    frame = Frame(0.1, 0.01, (-0.25, -0.25, 0.25, 0.25), 0.25, has_axis=False, mean="")
    part = Part("found", 0.0, 1.0, 0.5, 0.5, 0.0, 1.0)
    everywhere = np.full((8, 8), 9.0, np.float32)
    (found,) = regions(everywhere, 4.0, (200, 200), part, Preprocessing(64, 64, frame=frame))
    # The crop has half the sides about the middle, and half a place around it in which the map falls to 0.
    edges = (found.x_px, found.y_px, found.x_px + found.width_px, found.y_px + found.height_px)
    assert edges == pytest.approx((50, 50, 150, 150), abs=3)


def test_regions_of_extreme_shapes_are_found() -> None:
    units = np.zeros((2, 40), np.float32)
    units[0, 39] = 9.0
    (found,) = regions(units, 4.0, (20_000, 300), None, Preprocessing(64, 64))
    assert found.x_px + found.width_px == 20_000
    assert decode(found.mask, (20_000, 300)).sum() == found.area_px
    # One pixel covers several places: nothing exists between pixels.
    assert len(regions(np.full((9, 9), 9.0, np.float32), 4.0, (1, 1), None, Preprocessing(64, 64))) == 1


def test_regions_lie_on_the_upright_original(tmp_path: Path) -> None:
    """Also for a JPEG so large that its decoder halves it."""
    for width, height in ((96, 64), (1_600, 800), (1_601, 803)):
        pixels = np.full((height, width), 90, np.uint8)
        for orientation in (1, 3, 6, 8):
            exif = Image.Exif()
            exif[0x0112] = orientation
            path = tmp_path / f"{width}-{orientation}.jpg"
            Image.fromarray(pixels).save(path, exif=exif)
        (images,) = iter_images(sorted(tmp_path.glob(f"{width}-*.jpg")), Preprocessing(64, 64), 9)
        assert images.sizes == [(width, height)] * 2 + [(height, width)] * 2
        (tmp_path / f"{width}.png").unlink(missing_ok=True)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (images,) = iter_images([tmp_path / "a.png", tmp_path / "no.png"], Preprocessing(64, 64, fit="pad"), 9)
    assert images.sizes == [(1_601, 803)]


def test_regions_become_rows() -> None:
    maps = np.stack([grid("9.8"), grid("..."), grid("7..")])
    found = regions_of(maps, np.array([4.0, 4.0, np.nan]), [(3, 1)] * 3, [None] * 3, Preprocessing(1, 3))
    assert found.type == REGIONS
    assert [None if one is None else len(one) for one in found.to_pylist()] == [2, 0, None]
    images = {"relative_path": ["a", "b", "c"], "image_id": ["1", "2", "3"], "run_id": ["r"] * 3}
    sizes = {
        name: pa.array([size] * 3, pa.int32()) for name, size in (("upright_width_px", 3), ("upright_height_px", 1))
    }
    rows = each_region(pa.table({**images, **sizes, "regions": found}))
    assert rows.schema.equals(REGIONS_SCHEMA)
    seen = [(row["relative_path"], row["region_id"], row["x_px"], row["peak"]) for row in rows.to_pylist()]
    assert seen == [("a", 0, 0, 9.0), ("a", 1, 2, 8.0)]
    assert each_region(pa.table({**images, **sizes, "regions": pa.nulls(3, REGIONS)})).num_rows == 0


def normals(peaks: np.ndarray, variants: list[str] | None = None) -> pa.Table:
    return pa.table({"map_peak": peaks, "variant": pa.array(variants or [None] * len(peaks), pa.string())})


def level_of(peaks: np.ndarray, **asked: float) -> RegionLevel:
    found = level_of_normals(normals(peaks), CalibrationSettings(**asked), cross=False)
    assert isinstance(found, RegionLevel)
    return found


@pytest.mark.parametrize(("fpr", "n"), [(0.05, 59), (0.2, 40)])
def test_normal_images_show_a_region_as_rarely_as_promised(fpr: float, n: int, random: np.random.Generator) -> None:
    """200 calibrations on simulated maps with correlated places and different sizes."""
    splits, m, side = 200, 100, 6

    def maps(count: int) -> np.ndarray:
        noise = random.normal(0, 1, (count, side + 2, side + 2))
        near = sum(noise[:, y : y + side, x : x + side] for y in range(3) for x in range(3)) / 3
        return np.asarray(near + random.gamma(1, 1, (count, 1, 1)), np.float32)

    shown = []
    for split in range(splits):
        level = float(level_of(maps(n).max(axis=(1, 2)), fpr=fpr).of([None])[0])
        size = [(30, 41), (6, 6), (5, 90)][split % 3]
        shown.append(sum(bool(regions(one, level, size, None, Preprocessing(side, side))) for one in maps(m)))
    j = int(np.floor(fpr * (n + 1)))
    law = betabinom(m, j, n + 1 - j)
    # At one or more pixels a place, every image whose largest value lies above shows a region; at fewer, some do not.
    own = np.array([count for split, count in enumerate(shown) if split % 3 == 1])
    error = law.std() / np.sqrt(len(own))
    assert abs(own.mean() - law.mean()) < norm.isf(0.0005) * error
    assert np.mean(shown) <= m * fpr + norm.isf(0.0005) * law.std() / np.sqrt(splits)


def test_the_level_follows_the_thresholds_rule(random: np.random.Generator) -> None:
    peaks = random.gamma(3, 1, 99)
    ordered = np.sort(peaks)
    assert level_of(peaks).of([None, "x"]).tolist() == [ordered[94]] * 2
    assert level_of(peaks, confidence=0.9).threshold.value > ordered[94]
    trimmed = level_of(peaks, contamination=0.1).threshold
    assert (trimmed.objective, trimmed.fpr) == ("trimmed", None)
    assert trimmed.value < ordered[94]
    # A review band applies to scores only.
    assert level_of(peaks, review_fpr=0.2).threshold.review is None
    # Too few images, or none, give a reason and no error.
    few = level_of_normals(normals(peaks[:18]), CalibrationSettings(), cross=False)
    assert isinstance(few, str)
    assert "needs at least 19 calibration images, got 18" in few
    assert "no maps" in str(level_of_normals(normals(peaks[:0]), CalibrationSettings(), cross=True))


def test_variants_have_levels_of_their_own(random: np.random.Generator) -> None:
    low, high = random.gamma(3, 1, 60), 50 + random.gamma(3, 1, 40)
    table = normals(np.concatenate([low, high]), ["a"] * 60 + ["b"] * 40)
    found = level_of_normals(table, CalibrationSettings(), cross=False)
    assert isinstance(found, RegionLevel)
    of_a, of_b, rare = found.of(["a", "b", "c"])
    assert of_a == np.sort(low)[-3]
    assert of_b == np.sort(high)[-2]
    assert rare == found.threshold.value
    assert RegionLevel.parsed(found.to_dict()) == found
