"""What would spoil learning, found in small tables and pixels made for these tests."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nelbo.data import CachedPixels
from nelbo.flows.evaluation import normals
from nelbo.vae_core import LearningCurve


def listed(*rows: tuple[Any, ...]) -> pa.Table:
    """Rows of a manifest: width, height, mode, reason."""
    width, height, mode, reason = zip(*rows, strict=True)
    return pa.table(
        {
            "relative_path": [f"{i:03d}.png" for i in range(len(rows))],
            "width_px": pa.array(width, pa.int32()),
            "height_px": pa.array(height, pa.int32()),
            "mode": pa.array(mode, pa.string()),
            "reason": pa.array(reason, pa.string()),
        }
    )


def said(findings: list[normals.Finding]) -> dict[str, str]:
    return {one.name: one.sentence for one in findings}


USUAL = (1024, 768, "L", None)


def test_a_few_of_another_size_are_counted_and_named() -> None:
    table = listed(*[USUAL] * 388, *[(640, 480, "L", None)] * 12)
    (found,) = normals.of_files([table.slice(0, 390), table.slice(390)])
    assert found.sentence.startswith(
        "12 of 400 images are of another size (640 x 480 pixels; most are 1024 x 768; first: 388.png)."
    )
    assert found.to_dict() == {
        "name": "sizes",
        "sentence": found.sentence,
        "n": 12,
        "files": ["388.png", "389.png", "390.png"],
    }
    # When parts are located in the images, sizes of whole images do not matter.
    assert normals.of_files([table], whole=False) == []


def test_many_sizes_are_given_as_a_range_and_nearly_equal_ones_not_at_all() -> None:
    sides = [(100 + 10 * i, 300 - 3 * i, "L", None) for i in range(50)]
    (found,) = normals.of_files([listed(*sides)])
    assert found.sentence.startswith("50 images are of 50 sizes, from 100 x 300 to ")
    nearly = [(1000 + i, 700 - i, "L", None) for i in range(30)]
    assert normals.of_files([listed(*nearly)]) == []


def test_other_ways_of_storing_images_are_named() -> None:
    table = listed(*[USUAL] * 360, *[(1024, 768, "RGB", None)] * 30, *[(1024, 768, "I;16", None)] * 10)
    (found,) = normals.of_files([table])
    assert found.sentence.startswith(
        "40 of 400 images are stored in another way (30 in colour, 10 in grey with 16 bits; most in grey; first: 360"
    )
    # When no image shows colour, images stored in colour count as grey.
    assert normals.of_files([table], coloured=False)[0].n == 10
    assert normals.of_files([listed(USUAL, USUAL)]) == []


def test_unusable_files_are_counted_by_reason_and_have_no_size() -> None:
    bad = [(None, None, None, "unreadable"), (9, 9, "RGB", "truncated"), (9, 9, "RGB", "truncated")]
    table = listed(*[USUAL] * 20, *bad)
    assert normals.of_files([table]) == []
    (found,) = normals.unusable([table])
    assert found.sentence.startswith("3 of 23 files cannot be used (2 truncated, 1 unreadable; first: 020.png)")
    assert normals.unusable([table.slice(0, 20)]) == []
    assert normals.of_files([table.slice(0, 0)]) == []


def looked(random: np.random.Generator, n: int = 200) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    levels = np.clip(random.normal(128, 30, (n, 24, 24, 1)), 1, 254).astype(np.uint8)
    return levels, {"sharpness": random.lognormal(-3, 0.2, n), "contrast": random.lognormal(-2, 0.2, n)}


def of_pixels(levels: np.ndarray, look: dict[str, np.ndarray]) -> dict[str, str]:
    names = [f"{i:03d}.png" for i in range(len(levels))]
    table = pa.table({"relative_path": names, **look})
    return said(normals.of_pixels(CachedPixels(levels, np.arange(len(levels))), table))


@pytest.mark.parametrize("type_", [np.uint8, np.uint16])
def test_clipped_light_is_named_but_a_plain_background_is_not(random: np.random.Generator, type_: type[Any]) -> None:
    levels, look = looked(random)
    deep = levels.astype(type_) * (257 if type_ is np.uint16 else 1)
    assert of_pixels(deep, look) == {}
    top = np.iinfo(type_).max
    glaring = deep.copy()
    glaring[:45] = np.clip(deep[:45] * 1.5, 0, top).astype(type_)
    found = of_pixels(glaring, look)
    assert found["cut_off"].startswith("In 45 of 200 images more than 5 % of the pixels are cut off at black or white")
    for end in (0, top):
        plain = deep.copy()
        plain[:, :8] = end
        assert of_pixels(plain, look) == {}
    # Fifteen such images are too few to mention.
    glaring[15:] = deep[15:]
    assert of_pixels(glaring, look) == {}


def test_blur_is_named_but_darkness_is_not_taken_for_blur(random: np.random.Generator) -> None:
    levels, look = looked(random)
    blurred = look | {"sharpness": look["sharpness"].copy()}
    blurred["sharpness"][[7, 9]] *= 0.1
    found = of_pixels(levels, blurred)
    assert found["blur"].startswith("2 images of 200 are far less sharp than the rest (worst: 00")
    dark = {name: values.copy() for name, values in look.items()}
    for values in dark.values():
        values[:40] *= 0.1
    assert of_pixels(levels, dark) == {}
    # A single picture has nothing to be compared with; a blank one is not blurred.
    assert of_pixels(levels[:1], {name: values[:1] for name, values in look.items()}) == {}
    blank = {name: np.where(np.arange(200) == 3, 0.0, values) for name, values in look.items()}
    assert of_pixels(levels, blank) == {}


def test_kinds_are_named_with_sizes_and_examples_of_the_rarest() -> None:
    paths = [f"{i}.png" for i in range(10)]
    kinds = np.array([0] * 6 + [1] * 4)
    (found,) = normals.of_kinds(kinds, 2, paths)
    assert found.sentence.startswith(
        "2 kinds of images seem mixed: 6 and 4 (of the rarest: 6.png, 7.png, 8.png). Each has a model of its own: name"
    )
    assert found.n == 4
    assert "Not all of them have a model" in normals.of_kinds(kinds, 1, paths)[0].sentence
    assert normals.of_kinds(np.zeros(10, int), 1, paths) == normals.of_kinds(None, 1, paths) == []


def test_a_curve_that_still_falls_asks_for_more_images() -> None:
    steep = LearningCurve((40, 80, 160), (3.0, 2.0, 1.5), 0.5)
    (found,) = normals.of_curve(steep)
    # After gains of 1 and 0.5, the next is 0.25, half of the spread.
    assert "A model of 160 of these images knows the others much better than one of 40 or 80." in found.sentence
    assert "likely bring another 0.25 nats a feature, where normal images differ by 0.5. Add" in found.sentence
    assert normals.describe_curve(steep)["next_gain"] == 0.25
    flat = LearningCurve((40, 80, 160), (1.2, 1.1, 1.05), 0.5)
    assert normals.of_curve(flat) == normals.of_curve(None) == []
    assert not normals.describe_curve(flat)["improving"]
    # A curve that rises is noise, and predicts no gain.
    assert LearningCurve((40, 80, 160), (1.0, 1.1, 1.2), 0.5).next_gain == 0
    assert LearningCurve((40, 80, 160), (1.0, 1.1, 1.0), 0.5).next_gain == pytest.approx(0.1)


def test_the_strangest_are_asked_about_worst_first() -> None:
    scores = np.arange(30.0)
    rows, found = normals.strangest(scores, [f"{i}.png" for i in range(30)])
    assert rows.tolist() == list(range(29, 19, -1))
    assert found.sentence == (
        "Are these really normal? The 10 strangest of 30 images: 29.png, 28.png, 27.png and 7 more."
    )
    assert (found.n, len(found.files)) == (10, 10)
