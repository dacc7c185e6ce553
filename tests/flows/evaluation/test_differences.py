"""What is said about a batch that looks unlike the normal images."""

import numpy as np
import pytest

from nelbo.flows.evaluation.differences import differences, warning


@pytest.fixture
def normal(random: np.random.Generator) -> dict[str, np.ndarray]:
    """The looks of 400 images of 300 x 200 pixels."""
    return {
        "brightness": random.normal(0.46, 0.02, 400),
        "contrast": random.normal(0.15, 0.01, 400),
        "sharpness": random.normal(0.03, 0.002, 400),
        "size": np.full(400, np.sqrt(60_000)),
        "width_px": np.full(400, 300.0),
        "height_px": np.full(400, 200.0),
    }


def test_a_change_of_light_is_named_without_its_side_effects(normal: dict[str, np.ndarray]) -> None:
    darker = {
        name: values * (0.7 if name in ("brightness", "contrast", "sharpness") else 1)
        for name, values in normal.items()
    }
    fired = ["brightness", "contrast", "sharpness"]
    (found,) = differences(fired, darker, normal)
    assert found.name == "brightness"
    middle, low, high = np.quantile(0.7 * normal["brightness"], 0.5), *np.quantile(normal["brightness"], [0.05, 0.95])
    shown = f"(brightness {middle:.3g}, usually {low:.3g} to {high:.3g})"
    assert found.sentence == f"the images are darker than the normal ones {shown}"
    # If the images are also out of focus, sharpness is a separate finding, as it is in normal light.
    blurred = darker | {"sharpness": 0.5 * darker["sharpness"]}
    assert {one.name for one in differences(fired, blurred, normal)} == {"brightness", "sharpness"}
    (alone,) = differences(["sharpness"], normal | {"sharpness": 0.7 * normal["sharpness"]}, normal)
    assert alone.sentence.startswith("the images are less sharp than the normal ones (sharpness 0.02")


def test_the_farthest_off_comes_first_and_all_causes_are_named(normal: dict[str, np.ndarray]) -> None:
    larger = {"size": 2 * normal["size"], "width_px": 2 * normal["width_px"], "height_px": 2 * normal["height_px"]}
    found = differences(["sharpness", "size"], normal | larger | {"sharpness": 0.6 * normal["sharpness"]}, normal)
    assert [one.name for one in found] == ["size", "sharpness"]
    assert found[0].sentence == "the files have more pixels than the normal ones (most 600 x 400, usually 300 x 200)"
    said = warning([one._asdict() for one in found])
    assert said is not None
    assert said.startswith("The files have more pixels")
    assert said.endswith("What is flagged may be the size of the files or the focus and not the parts.")
    assert warning([]) is None


def test_a_larger_spread_is_not_called_a_shift(normal: dict[str, np.ndarray]) -> None:
    wider = normal["brightness"].mean() + 3 * (normal["brightness"] - normal["brightness"].mean())
    (found,) = differences(["brightness"], normal | {"brightness": wider}, normal)
    assert found.sentence.startswith("the images vary more in brightness than the normal ones (half of them 0.4")


def test_files_that_were_not_decoded_are_ignored(normal: dict[str, np.ndarray]) -> None:
    brighter = np.append(1.3 * normal["brightness"], [np.nan] * 300)
    (found,) = differences(["brightness"], {"brightness": brighter}, normal)
    assert "brighter than" in found.sentence
    assert "nan" not in found.sentence
