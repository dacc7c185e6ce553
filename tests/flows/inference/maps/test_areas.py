"""Models of an area of each image: pixels outside it change nothing, pixels inside it count."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from commands import score, train
from PIL import Image
from scipy.ndimage import gaussian_filter

import nelbo
from nelbo.data import read_table
from nelbo.data.area.area import Area
from nelbo.data.area.looking import kept_mask, outside
from nelbo.data.regions.run_length import decode
from nelbo.flows.inference.area.original import without_ignored
from nelbo.flows.options.options import ScoreOptions, TrainOptions
from nelbo.flows.watching import scoring
from nelbo.vae_core.seen import seen_on

#: Width and height of the images; an ignored corner, and a crop that reaches into it.
SIZE = (320, 240)
IGNORED = (slice(0, 130), slice(0, 150))
CROP = (120, 16, 192, 200)
QUICK: dict[str, Any] = {"backbone": "filters", "engines": (), "group_alike": False}
WHOLE: dict[str, Any] = QUICK | {"head": "linear"}
TILED: dict[str, Any] = QUICK | {"tile": 64}
#: Settings, whether there is a mask, and whether there is a crop.
HOW = {
    "whole, both": (WHOLE, True, True),
    "free tiles, ignored": (TILED | {"subject": "free"}, True, False),
    "aligned tiles, both": (TILED | {"subject": "aligned"}, True, True),
}
#: More of these, for slow tests.
MORE = {
    "engine, ignored": (WHOLE | {"engines": ("openvino",)}, True, False),
    "whole, cropped": (WHOLE, False, True),
    "one covariance, ignored": (QUICK | {"head": "linear_image"}, True, False),
    "variants, ignored": (WHOLE | {"variants": 2}, True, False),
}
#: A workspace, the result of training, and which pixels the model ignores.
Looking = tuple[Path, dict[str, Any], np.ndarray]


def image(seed: int) -> np.ndarray:
    """(h, w) uint8 grain on a board of squares at the same places in each image."""
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    board = 20.0 * ((rows // 40 + columns // 40) % 2)
    grain = gaussian_filter(np.random.default_rng(seed).normal(size=board.shape), 1)
    return np.clip(110 + board + 45 * grain, 0, 255).astype(np.uint8)


def spotted(levels: np.ndarray, row: int, column: int) -> np.ndarray:
    found = levels.copy()
    found[row : row + 24, column : column + 24] = 255
    return found


def write(folder: Path, images: list[np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for number, levels in enumerate(images):
        Image.fromarray(levels).save(folder / f"{number:03d}.png")


def mask_of(path: Path, size: tuple[int, int] = SIZE, where: tuple[slice, slice] = IGNORED) -> str:
    mask = np.zeros(size[::-1], np.uint8)
    mask[where] = 255
    Image.fromarray(mask).save(path)
    return str(path)


@pytest.fixture(scope="module")
def normal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("areas")
    write(folder / "normal", [image(seed) for seed in range(40)])
    mask_of(folder / "mask.png")
    return folder


@pytest.fixture(scope="module", params=[*HOW, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def looking(request: pytest.FixtureRequest, normal: Path) -> Looking:
    settings, is_ignored, is_cropped = (HOW | MORE)[request.param]
    area: dict[str, Any] = {"ignore": str(normal / "mask.png")} if is_ignored else {}
    area |= {"crop": CROP} if is_cropped else {}
    workspace = normal / request.param.replace(" ", "_")
    trained = train(normal / "normal", workspace, **settings, **area)
    hidden = np.zeros(SIZE[::-1], bool)
    hidden[IGNORED] = is_ignored
    if is_cropped:
        left, upper, width, height = CROP
        within = np.zeros_like(hidden)
        within[upper : upper + height, left : left + width] = True
        hidden |= ~within
    return workspace, trained, hidden


def test_pixels_outside_the_area_change_nothing(looking: Looking, random: np.random.Generator) -> None:
    workspace, _, hidden = looking
    scorer = nelbo.Workspace(workspace).scorer()
    for seed in (1000, 1001, 1002):
        levels = image(seed)
        expected = scorer(levels)
        noise = random.integers(0, 256, levels.shape)
        for painted in (noise, np.full_like(noise, 255), np.zeros_like(noise)):
            found = scorer(np.where(hidden, painted, levels).astype(np.uint8))
            assert (found.anomaly_score, found.p_value) == (expected.anomaly_score, expected.p_value)
        # A change inside the area does count; otherwise every image would score the same.
        levels[190:194, 240:244] = 255
        assert scorer(levels).anomaly_score != expected.anomaly_score


def test_a_defect_counts_where_the_model_looks(looking: Looking, tmp_path: Path) -> None:
    workspace, trained, hidden = looking
    in_crop_too = (40, 124) if hidden[200, 0] else (40, 40)
    row, column = in_crop_too if hidden[in_crop_too] else (0, 0)
    assert hidden[row : row + 24, column : column + 24].all()
    assert not hidden[150:174, 200:224].any()
    write(tmp_path / "in", [spotted(image(2000), row, column), spotted(image(2000), 150, 200), image(2000)])
    result = score(tmp_path / "in", workspace)
    rows = read_table(Path(result["scores"])).to_pylist()
    assert rows[0]["anomaly_score"] == rows[2]["anomaly_score"]
    assert [one["verdict"] for one in rows] == ["normal", "anomalous", "normal"]
    # The map covers the whole image, and has no numbers outside the area.
    (flagged,) = read_table(Path(result["flagged"])).to_pylist()
    found = np.array(flagged["map"], float)
    at = (np.array(np.unravel_index(np.nanargmax(found), found.shape)) + 0.5) / found.shape
    np.testing.assert_allclose(at, [162 / SIZE[1], 212 / SIZE[0]], atol=0.08)
    places = (((np.arange(n) + 0.5) / n * side).astype(int) for n, side in zip(found.shape, SIZE[::-1], strict=True))
    assert (np.isnan(found) == hidden[np.ix_(*places)]).mean() > 0.9
    assert "right" in flagged["why"]
    # So do the regions, none of which reaches outside the area.
    regions = read_table(Path(result["regions"])).to_pylist()
    for region in regions:
        mask = decode(region["mask"], SIZE)
        assert (mask & hidden).sum() <= 0.3 * mask.sum()
    assert any(one["x_px"] < 212 < one["x_px"] + one["width_px"] for one in regions)
    card = (workspace / "cards" / f"{trained['model_id']}.md").read_text()
    assert ("192 x 200 px of each image, from 120 and 16 px" in card) == hidden[239, 300]
    described = json.loads((workspace / "models" / trained["model_id"] / "model.json").read_text())
    assert described["preprocessing"]["area"] is not None


def test_an_image_in_memory_scores_as_its_file(looking: Looking, tmp_path: Path) -> None:
    write(tmp_path / "in", [image(3000)])
    (row,) = read_table(Path(score(tmp_path / "in", looking[0])["scores"])).to_pylist()
    scorer = nelbo.Workspace(looking[0]).scorer()
    assert scorer(tmp_path / "in" / "000.png").anomaly_score == row["anomaly_score"]
    assert scorer(image(3000)).anomaly_score == row["anomaly_score"]


def test_images_of_another_size_are_not_scored(looking: Looking, tmp_path: Path) -> None:
    write(tmp_path / "in", [image(3000)[:, :200], image(3001)])
    rows = read_table(Path(score(tmp_path / "in", looking[0])["scores"])).to_pylist()
    assert [row["reason"] for row in rows] == ["other_size", None]
    row = nelbo.Workspace(looking[0]).scorer()(image(3000)[:, :200])
    assert (row.verdict, row.reason) == ("not_scored", "other_size")


def test_a_watcher_warms_up_on_a_picture_that_the_model_accepts(
    looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons, score_files = [], scoring.score_files

    def noted(*given: Any) -> Iterator[pa.Table]:
        for rows in score_files(*given):
            reasons.extend(rows["reason"].to_pylist())
            yield rows

    monkeypatch.setattr(scoring, "score_files", noted)
    scoring.Scoring.load(ScoreOptions(images="in", workspace=str(looking[0]), workers=1))
    assert reasons == [None]


@pytest.mark.slow
def test_another_area_is_another_model(normal: Path, tmp_path: Path) -> None:
    mask = mask_of(tmp_path / "mask.png", where=(slice(0, 60), slice(0, 60)))
    ids = set()
    for area in ({}, {"crop": CROP}, {"ignore": mask}):
        ids.add(train(normal / "normal", tmp_path / "w", **WHOLE, **area)["model_id"])
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"crop": (200, 0, 200, 100)}, r"200 x 100 pixels from 200, 0 on do not lie within images of 320 x 240"),
        ({"crop": (0, 0, 0, 10)}, "0 x 10 pixels"),
        ({"crop": (0, 0, 10, 10), "locate": "on"}, "locate=on does not go with crop"),
        ({"crop": (0, 0, 10, 10), "fit": "pad"}, "fit=pad does not go with crop"),
        ({"ignore": "missing.png"}, "ignore=missing.png: there is no such file. Draw one"),
        ({"ignore": "text.png"}, r"it cannot be used \(not_an_image"),
        ({"ignore": "square.png"}, "is 64 x 64 pixels, but 24 of 24 images have another shape: 24 of 320 x 240"),
        ({"ignore": "white.png"}, "it ignores everything"),
        ({"ignore": "black.png"}, "it ignores nothing"),
        ({"ignore": "corner.png", "max_pixels": 70_000}, r"it cannot be used \(too_large: .*640 x 480"),
        ({"ignore": "corner.png", "preset": "conv_1x1x16", "backbone": None}, "Set preset=features, or leave ignore"),
        ({"ignore": "corner.png", "rotations": 4, "head": "linear_image"}, "rotations=4 turns what is ignored"),
        (
            {"ignore": "corner.png", "crop": (0, 0, 40, 40)},
            r"100.0% of the crop \[0, 0, 40, 40\] is ignored, and at most 90% may be",
        ),
    ],
)
def test_an_impossible_area_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in", [image(seed) for seed in range(24)])
    Path("text.png").write_text("no picture")
    mask_of(Path("square.png"), (64, 64), (slice(0, 9), slice(0, 9)))
    mask_of(Path("white.png"), where=(slice(None), slice(None)))
    mask_of(Path("black.png"), where=(slice(0), slice(0)))
    mask_of(Path("dots.png"), (640, 480), (slice(None), slice(None, 560)))
    mask_of(Path("corner.png"), (640, 480), (slice(0, 200), slice(0, 200)))
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "in", tmp_path / "w", **QUICK | given)
    assert not list((tmp_path / "w").glob("models/*"))


def test_a_crop_needs_images_of_one_size(tmp_path: Path) -> None:
    write(tmp_path / "in", [image(seed)[: 240 - seed % 2] for seed in range(24)])
    with pytest.raises(ValueError, match=r"several sizes: 12 of 320 x 240, 12 of 320 x 239\. Train on"):
        train(tmp_path / "in", tmp_path / "w", **QUICK, crop=CROP)


def test_the_area_lies_on_the_upright_image(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for seed in range(24):
        # Stored on its side, with an EXIF orientation.
        Image.fromarray(np.rot90(image(seed))).save(tmp_path / "in" / f"{seed}.png", exif=exif)
    train(tmp_path / "in", tmp_path / "w", **WHOLE, crop=CROP, ignore=mask_of(tmp_path / "mask.png"))
    upright = nelbo.Workspace(tmp_path / "w").scorer()(image(0))
    assert upright.anomaly_score == nelbo.Workspace(tmp_path / "w").scorer()(tmp_path / "in" / "0.png").anomaly_score


def test_maps_show_only_places_that_were_learnt() -> None:
    # Half of the middle column is ignored, up to rounding.
    area = Area(mask=kept_mask(np.tile(np.arange(18) < 9, (10, 1))))
    found = without_ignored(np.ones((1, 9, 5)), area)[0]
    shares = outside(area)
    assert shares is not None
    assert np.array_equal(np.isfinite(found), seen_on(shares, (9, 5)))
    assert 0 < np.isfinite(found).sum() < found.size


def test_settings_are_read_from_text() -> None:
    assert TrainOptions(normal="in", crop="1, 2,30,40").crop == (1, 2, 30, 40)  # type: ignore[arg-type]
    assert TrainOptions(normal="in", crop=[1, 2, 30, 40]).crop == (1, 2, 30, 40)  # type: ignore[arg-type]
