"""The explanations of painted pictures whose defects are known."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nelbo.data import MEASURED, CachedPixels
from nelbo.flows.inference.why.evidence import Evidence, Off, looked_into
from nelbo.flows.inference.why.looks import Looks, keep_looks, learn_looks, read_looks
from nelbo.flows.inference.why.sentences import explain, sentence
from nelbo.flows.inference.why.spots import Spot, find_spot
from nelbo.flows.options.options import TrainOptions
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run

SIDE, N = 64, 60
#: Where defects are painted: a square with a quarter of the side, whose middle is at 69 and 19 %.
SQUARE = (slice(4, 20), slice(36, 52))


def normals(random: np.random.Generator, n: int = N, channels: int = 1) -> np.ndarray:
    """(n, 64, 64, channels) grey pictures with grain, each with slightly different light."""
    grain = random.normal(0, 0.05, (n, SIDE, SIDE, 1)).repeat(channels, axis=3)
    light = random.uniform(0.45, 0.55, (n, 1, 1, 1))
    tint = random.normal(0, 0.004, (n, SIDE, SIDE, channels))
    return np.clip(light + grain + tint, 0, 1).astype(np.float32)


def cached(pixels: np.ndarray) -> CachedPixels:
    return CachedPixels((pixels * 255).round().astype(np.uint8), np.arange(len(pixels)))


def looks_of(pixels: np.ndarray) -> Looks:
    return learn_looks(cached(pixels), [None] * len(pixels), 0)[None]


def on_square() -> np.ndarray:
    """(16, 16) map that is high on the square, and nowhere else."""
    units = np.random.default_rng(0).uniform(-1, 1, (16, 16))
    units[1:5, 9:13] = 8
    return units


def said(image: np.ndarray, looks: Looks | None, units: np.ndarray | None = None, **numbers: Any) -> str:
    units = on_square() if units is None else units
    known: dict[str, Any] = {"peak_z": 8.0, "mean_z": 2.0, "size_z": 0.0, "variant_z": 0.0, "part": None}
    known |= {"n_at_least": 1, "n_normal": 240} | numbers
    return sentence(Evidence(**known, **looked_into(image, units, looks)))


def checkered(place: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(place.shape[:2])
    return place.mean() + 0.2 * np.where((rows + columns) % 2, 1, -1)[..., None] * np.ones_like(place)


@pytest.mark.parametrize(
    ("painted", "expected"),
    [
        (lambda place: place - 0.2, "there it is darker (by "),
        (lambda place: place + 0.2, "there it is brighter (by "),
        (checkered, "there it is of rougher texture (by "),
        (lambda place: np.full_like(place, place.mean()), "there it is of smoother texture (by "),
        (lambda place: place, ": brightness and texture there are those of training images (within 3 deviations), "),
    ],
)
def test_the_defect_in_a_spot_is_named_with_its_place(
    random: np.random.Generator, painted: Callable[[np.ndarray], np.ndarray], expected: str
) -> None:
    pixels = normals(random, N + 1)
    image = pixels[-1]
    image[SQUARE] = painted(image[SQUARE])
    text = said(image, looks_of(pixels[:-1]))
    assert text.startswith(
        "One spot at the top right (69 % from the left, 19 % from the top, 25 x 25 % in size) stands out "
        "(peak 8, mean 2 deviations): "
    )
    assert expected in text
    assert "picture" not in text
    assert text.endswith("1 of 240 normal images scores as high.")
    others = {"darker", "brighter", "colour", "rougher", "smoother"} - set(expected.split())
    assert not [word for word in others if word in text]


def test_a_change_of_hue_is_a_change_of_colour_and_not_of_brightness(random: np.random.Generator) -> None:
    pixels = normals(random, N + 1, channels=3)
    pixels[-1][SQUARE] += np.float32([0.1, -0.1, 0.0])
    text = said(pixels[-1], looks_of(pixels[:-1]))
    assert "there it is of redder colour (by " in text
    assert "darker" not in text
    assert "brighter" not in text


def test_a_shadow_is_no_change_of_colour(random: np.random.Generator) -> None:
    tint = np.float32([0.1, 0.0, -0.1])
    pixels = normals(random, N + 1, channels=3) + tint
    pixels[-1][SQUARE] *= 0.8
    text = said(pixels[-1], looks_of(pixels[:-1]))
    assert "darker" in text
    assert "colour" not in text


def everywhere() -> np.ndarray:
    return np.random.default_rng(0).uniform(3, 6, (16, 16))


def blurred(image: np.ndarray) -> np.ndarray:
    return (image + np.roll(image, 1, 0) + np.roll(image, 1, 1)) / 3


@pytest.mark.parametrize(
    ("change", "word", "cause"),
    [
        (lambda image: image + 0.3, "brighter", "exposure or lamp"),
        (lambda image: image - 0.3, "darker", "exposure or lamp"),
        (blurred, "less sharp", "focus or motion"),
    ],
)
@pytest.mark.parametrize("units", [everywhere(), on_square()], ids=["whole", "spot"])
def test_a_change_of_the_whole_picture_is_named_as_a_possible_cause(
    random: np.random.Generator, change: Callable[[np.ndarray], np.ndarray], word: str, cause: str, units: np.ndarray
) -> None:
    pixels = normals(random, N + 1)
    text = said(change(pixels[-1]), looks_of(pixels[:-1]), units)
    assert text.startswith("The whole image stands out (peak 8, mean 2 deviations), most of all at the ") == (
        units.min() > 0
    )
    assert f" is {word} (" in text or f" and {word} (" in text
    assert f"So the cause may be the picture ({cause}" in text


def test_another_lamp_changes_the_colour_of_a_whole_image_unless_it_is_grey(random: np.random.Generator) -> None:
    pixels = normals(random, N + 1, channels=3)
    grey = np.repeat(pixels.mean(axis=3, keepdims=True), 3, axis=3)
    looks = looks_of(grey[:-1])
    assert "colour (" not in said(pixels[-1], looks)
    text = said(pixels[-1] * np.float32([1.1, 1.0, 0.9]), looks)
    assert "The picture as a whole is of redder colour (" in text
    assert "and of yellower colour (" in text
    assert "So the cause may be the picture (lamp or white balance)" in text


def test_a_dark_spot_does_not_make_the_picture_dark(random: np.random.Generator) -> None:
    pixels = normals(random, N + 1)
    pixels[-1, :32, :32] = 0.1
    assert "picture" not in said(pixels[-1], looks_of(pixels[:-1]))


def test_a_picture_that_is_darker_throughout_has_no_darker_spot(random: np.random.Generator) -> None:
    pixels = normals(random, N + 1)
    text = said(pixels[-1] * 0.5, looks_of(pixels[:-1]))
    assert "there it is" not in text
    assert "The picture as a whole is darker (" in text


def test_a_mean_above_the_peak_means_the_whole_image(random: np.random.Generator) -> None:
    assert said(normals(random, 1)[0], None, peak_z=2.2, mean_z=5.1).startswith(
        "The whole image stands out (peak 2.2, mean 5.1 deviations), most of all at the top right. "
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "One spot at the left (10 % from the left, 50 % from the top, 20 x 30 % in size) stands out"),
        (
            {"peak_z": None, "mean_z": None},
            "One spot at the left (10 % from the left, 50 % from the top, 20 x 30 % ",
        ),
        ({"n_at_least": 0, "n_normal": 1240}, "None of 1,240 normal images scores as high."),
        ({"n_at_least": 12}, "12 of 240 normal images score as high."),
        ({"spot": None}, "A part of the image stands out (peak 8, mean 2 deviations). 1 of 240"),
        ({"size_z": 4.25, "part": "missing"}, "Found was no part, by 4.2 deviations beyond the usual sizes. One spot"),
        ({"variant_z": 2.0}, "It is of no known variant, by 2 deviations beyond what is usual. One spot"),
        ({"variant_z": 0.4}, "One spot"),
        (
            {"there": {"brightness": 3.2, "red_green": -12.34, "yellow_blue": 0.1, "detail": -3.0}},
            ": there it is of greener colour (by 12.3 deviations), brighter (by 3.2 deviations) and of smoother",
        ),
        (
            {"there": dict.fromkeys(("brightness", "detail", "red_green", "yellow_blue"), 1.0)},
            "brightness, texture and colour there are those of training images (within 3 deviations), the structure ",
        ),
        (
            {"there": {"brightness": 5.0}, "whole": (Off("sharpness", 0.1234, 0.2, 0.4),)},
            "images. The picture as a whole is less sharp (0.12; usual 0.2 to 0.4) than training images. 1 of",
        ),
        (
            {"reach": 0.3, "whole": (Off("brightness", 0.9, 0.2, 0.8), Off("detail", 0.9, 0.2, 0.8))},
            "it is brighter (0.9; usual 0.2 to 0.8) and of rougher texture (0.9; usual 0.2 to 0.8) than training",
        ),
    ],
)
def test_evidence_is_put_into_sentences(change: dict[str, Any], expected: str) -> None:
    spot = Spot(np.eye(2), x=0.1, y=0.5, width=0.2, height=0.3, n_others=0)
    known = Evidence(8.0, 2.0, 0.0, 0.0, None, spot, 0.1, {}, (), 1, 240)
    assert expected in sentence(known._replace(**change))


def test_several_spots_are_counted_and_the_worst_is_described() -> None:
    units = np.zeros((8, 8))
    units[0, 0], units[7, 7], units[7, 0], units[6, 1] = 10, 6, 7, 5
    spot = find_spot(units)
    # Spots that touch at a corner count as one.
    assert (spot.n_others, spot.x, spot.y) == (2, 1 / 16, 1 / 16)
    assert said(np.zeros((64, 64, 1)), None, units).startswith(
        "3 spots stand out (peak 8, mean 2 deviations), the most unusual one at the top left (6 % from the left, "
    )


def test_a_map_without_unusual_places_means_the_whole_image() -> None:
    image, flat = np.zeros((64, 64, 1), np.float32), np.full((4, 4), -1.0)
    assert (find_spot(flat).x, find_spot(flat).area) == (0.5, 1)
    assert said(image, None, flat).startswith("The whole image stands out")
    # Below the usual values, neither the mean nor the peak means anything.
    assert said(image, None, peak_z=-0.5, mean_z=-0.4).startswith("One spot")


def test_each_variant_has_looks_of_its_own(random: np.random.Generator, tmp_path: Path) -> None:
    dark, light = normals(random), normals(random) + 0.3
    workspace, run = Workspace(tmp_path), Run("train", TrainOptions(normal="normal"))
    pixels = cached(np.concatenate([dark, light, light[:1]]).clip(0, 1))
    learnt = learn_looks(pixels, ["dark"] * N + ["light"] * N + ["alone"], 0)
    # A variant with a single image has no looks to learn.
    assert list(learnt) == ["dark", "light"]
    keep_looks(learnt, workspace, "m1", run)
    read = read_looks(workspace, "m1")
    assert list(read) == ["dark", "light"]
    for name, looks in learnt.items():
        assert read[name].n_images == N
        assert read[name].whole == looks.whole
        for measure, planes in looks.local.items():
            np.testing.assert_allclose(read[name].local[measure], planes, rtol=1e-6)
    rows = {name: [1.0, 1.0] for name in MEASURED} | {"variant": ["light", "dark"], "part": [None, None]}
    images = np.stack([dark[0], dark[0]])
    of_light, of_dark = explain(pa.table(rows), images, on_square()[None].repeat(2, 0), Stub(), read).to_pylist()
    assert "The picture as a whole is darker (" in of_light
    assert "picture" not in of_dark


class Stub:
    """Stands in for a calibration."""

    statistic = type("Statistic", (), {"scores": staticmethod(lambda rows: np.ones(rows.num_rows))})

    def against(self, _variant: str | None) -> np.ndarray:
        return np.arange(5)


def test_without_looks_the_explanation_says_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    workspace = Workspace(tmp_path)
    assert read_looks(workspace, "m1") == {}
    rows = pa.table({name: [2.0] for name in MEASURED} | {"variant": [None], "part": [None]})
    image = np.zeros((1, SIDE, SIDE, 1), np.float32)
    (text,) = explain(rows, image, on_square()[None], Stub(), {}).to_pylist()
    assert text == (
        "Found was a part, by 2 deviations beyond the usual sizes. "
        "It is of no known variant, by 2 deviations beyond what is usual. "
        "One spot at the top right (69 % from the left, 19 % from the top, 25 x 25 % in size) stands out (peak 2, "
        "mean 2 deviations). 4 of 5 normal images score as high."
    )
    # An engine of version 0.1 gives no maps.
    (text,) = explain(rows, image, None, Stub(), {}).to_pylist()
    assert "A part of the image stands out (peak 2, mean 2 deviations). 4 of 5" in text
    assert caplog.messages == []


@pytest.mark.parametrize("content", [b"no Parquet", None])
def test_damaged_looks_are_reported_one_time_and_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    workspace = Workspace(tmp_path)
    flat = np.zeros((2, 2)), np.zeros((2, 2))
    keep_looks({None: Looks(2, {"brightness": flat}, {})}, workspace, "m1", Run("train", TrainOptions(normal="normal")))
    if content is not None:
        workspace.looks("m1").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert read_looks(workspace, "m1") == read_looks(workspace, "m1") == {}
    assert [str(workspace.looks("m1")) in message for message in caplog.messages] == [True]


def test_looks_of_another_size_are_not_compared(random: np.random.Generator) -> None:
    text = said(np.zeros((16, 16, 1), np.float32), looks_of(normals(random)))
    assert "there" not in text
