"""The same values in another type have the same score or are refused; they never silently score differently."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from synthetic import texture

from nelbo.detectors import NelboDetector
from nelbo.detectors.estimator.inputs import learn_rows, stacked
from nelbo.detectors.estimator.record import parse
from nelbo.detectors.scale import FILES, Scale

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.usefixtures("eager"),
]

OTHER_TYPES: dict[str, Callable[[np.ndarray], Any]] = {
    "big-endian uint16": lambda values: values.astype(">u2"),
    "uint16": lambda values: values.astype(np.uint16),
    "uint32": lambda values: values.astype(np.uint32),
    "uint64": lambda values: values.astype(np.uint64),
    "int16": lambda values: values.astype(np.int16),
    "big-endian int32": lambda values: values.astype(">i4"),
    "int64": lambda values: values.astype(np.int64),
    "float16": lambda values: values.astype(np.float16),
    "float32": lambda values: values.astype(np.float32),
    "big-endian float32": lambda values: values.astype(">f4"),
    "float64": lambda values: values.astype(np.float64),
    "long double": lambda values: values.astype(np.longdouble),
    "lists of integers": lambda values: values.tolist(),
    "lists of floats": lambda values: values.astype(float).tolist(),
    "object array of numbers": lambda values: values.astype(object),
    "Fortran order": np.asfortranarray,
    "not contiguous": lambda values: np.repeat(values, 2, axis=1)[:, ::2],
    "reversed view": lambda values: values[:, ::-1].copy()[:, ::-1],
    "list of arrays": list,
    "list of float arrays": lambda values: list(values.astype(float)),
}
FORMS = pytest.mark.parametrize("form", OTHER_TYPES.values(), ids=OTHER_TYPES)


def objects(X: Any) -> np.ndarray:  # noqa: N803
    """A one-dimensional object array of arrays."""
    array = np.empty(len(X), object)
    array[:] = list(X)
    return array


def same_or_refused(score: Callable[[Any], np.ndarray], X: Any, expected: np.ndarray) -> bool:  # noqa: N803
    """Whether the values were refused; fails if they are scored differently."""
    try:
        found = score(X)
    except ValueError as error:
        if "fit has seen" not in str(error):
            raise
        return True
    np.testing.assert_array_equal(found, expected)
    return False


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """(40, 32, 32) uint8 images, larger than the network's input, so that they are resized."""
    random = np.random.default_rng(5)
    return np.stack([texture(random) for _ in range(40)])


@pytest.fixture(scope="module")
def on_images(images: np.ndarray) -> NelboDetector:
    return NelboDetector(image_size=16, epochs=1, fpr=0.2, random_state=0).fit(images)


@pytest.fixture(scope="module")
def on_rows(images: np.ndarray) -> NelboDetector:
    return NelboDetector(epochs=1, fpr=0.2, random_state=0).fit(images[:, ::2, ::2].reshape(40, -1))


@FORMS
def test_images_of_the_same_values_in_another_type_score_the_same_or_are_refused(
    on_images: NelboDetector, images: np.ndarray, form: Callable[[np.ndarray], Any]
) -> None:
    new = images[:4]
    refused = same_or_refused(on_images.score_samples, form(new), on_images.score_samples(new))
    # These values could also be nearly black pictures of 16 bits.
    assert refused == (getattr(form(new), "dtype", None) in (np.uint16, np.dtype(">u2")))


@FORMS
def test_rows_of_the_same_values_in_another_type_score_the_same_or_are_refused(
    on_rows: NelboDetector, images: np.ndarray, form: Callable[[np.ndarray], Any]
) -> None:
    new = images[:4, ::2, ::2].reshape(4, -1)
    same_or_refused(on_rows.predict, form(new), on_rows.predict(new))
    refused = same_or_refused(on_rows.score_samples, form(new), on_rows.score_samples(new))
    assert refused == (getattr(form(new), "dtype", None) in (np.uint16, np.dtype(">u2")))


def test_object_arrays_of_arrays_score_the_same(on_images: NelboDetector, images: np.ndarray) -> None:
    expected = on_images.score_samples(images[:4])
    np.testing.assert_array_equal(on_images.score_samples(objects(images[:4])), expected)
    np.testing.assert_array_equal(on_images.score_samples(pd.Series(list(images[:4]))), expected)
    np.testing.assert_array_equal(on_images.score_samples([Image.fromarray(image) for image in images[:4]]), expected)


def test_arrays_of_several_types_in_one_list_are_refused(on_images: NelboDetector, images: np.ndarray) -> None:
    """NumPy would convert them to one type, and so change the scale of all but one."""
    mixed = [images[0], images[1].astype(np.uint16) * 257, images[2] / 255]
    for X in (mixed, objects(mixed)):  # noqa: N806
        with pytest.raises(ValueError, match="X holds arrays of float64, uint16, uint8, which lie on different scales"):
            on_images.predict(X)
    with pytest.raises(ValueError, match="different shapes"):
        on_images.predict(objects([images[0], images[1][:20]]))


def test_calibrate_reads_types_like_fit(on_images: NelboDetector, images: np.ndarray, tmp_path: Path) -> None:
    """Training images are recognised in another type, too."""
    random = np.random.default_rng(6)
    fresh = np.stack([texture(random) for _ in range(20)])
    loaded = NelboDetector.load(on_images.save(tmp_path))
    threshold = loaded.calibrate(fresh).threshold_
    for same in (fresh.astype(float), fresh.tolist(), fresh / 255, fresh.astype(np.uint16) * 257):
        assert loaded.calibrate(same).threshold_ == threshold
    with pytest.raises(ValueError, match=r"X is uint16 and lies in .* fit has seen uint8"):
        loaded.calibrate(fresh.astype(np.uint16))
    for seen in (images, images.astype(np.int64), images / 255, (images / 255).astype(np.float16)):
        with pytest.raises(ValueError, match="fit has trained or validated on 32 of the 40"):
            loaded.calibrate(seen)


def test_the_scale_of_fit_is_kept(on_images: NelboDetector, images: np.ndarray, tmp_path: Path) -> None:
    loaded = NelboDetector.load(on_images.save(tmp_path))
    assert loaded.scale_ == Scale("uint8")
    expected = on_images.score_samples(images)
    np.testing.assert_array_equal(loaded.score_samples(images.astype(np.int32)), expected)


def test_a_detector_of_0_1_reads_each_array_by_its_type(
    on_images: NelboDetector, images: np.ndarray, tmp_path: Path
) -> None:
    import json

    from nelbo.detectors.estimator.record import _digest

    folder = on_images.save(tmp_path)
    whole = json.loads((folder / "detector.json").read_text())
    del whole["content"]["scale"]
    whole["content"]["params"]["channels"] = 1
    (folder / "detector.json").write_text(json.dumps(whole | {"sha256": _digest(whole["content"])}))
    assert parse((folder / "detector.json").read_bytes()).scale == Scale(None)
    state = on_images.__getstate__()
    del state["scale_"]
    unpickled = NelboDetector()
    unpickled.__setstate__(state)
    expected = on_images.score_samples(images)
    for old in (NelboDetector.load(folder), unpickled):
        np.testing.assert_array_equal(old.score_samples(images), expected)
        with pytest.raises(ValueError, match=r"float64 lie in .*, expected \[0, 1\]"):
            old.score_samples(images.astype(float))


def test_after_a_fit_on_files_arrays_score_the_same(images: np.ndarray, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(len(images))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    detector = NelboDetector(image_size=16, epochs=1, fpr=0.2, random_state=0).fit(files)
    assert detector.scale_ == Scale(FILES)
    expected = detector.score_samples(files)
    for same in (images, images / 255, images.astype(float), images.astype(np.uint16) * 257):
        np.testing.assert_array_equal(detector.score_samples(same), expected)
    with pytest.raises(ValueError, match="fit has seen files, which are taken as uint8"):
        detector.score_samples(images.astype(np.uint16))


def test_after_a_fit_on_rows_beyond_0_1_any_type_is_read_by_its_values(images: np.ndarray) -> None:
    rows = images[:, ::2, ::2].reshape(40, -1)
    detector = NelboDetector(epochs=1, fpr=0.2, random_state=0).fit(rows.tolist())
    expected = detector.score_samples(rows.tolist())
    for kind in (np.uint8, np.uint16, ">u2", np.int16, np.float16, np.float64, object):
        np.testing.assert_array_equal(detector.score_samples(rows.astype(kind)), expected)


def test_after_a_fit_on_bool_other_types_are_refused(images: np.ndarray) -> None:
    masks = images > 150
    detector = NelboDetector(image_size=16, epochs=1, fpr=0.2, random_state=0).fit(masks)
    expected = detector.score_samples(masks)
    for kind in (np.int64, np.float32, object):
        np.testing.assert_array_equal(detector.score_samples(masks.astype(kind)), expected)
    with pytest.raises(ValueError, match=r'fit has seen bool: .* X.astype\("bool"\) for the same values, X / 255 for'):
        detector.score_samples(masks.astype(np.uint8))


EIGHT = np.array([[[0, 51, 204]]])
MASK = np.array([[[0, 1, 1]]])


@pytest.mark.parametrize(
    ("fitted", "given", "expected"),
    [
        # The same values.
        ("uint8", EIGHT.astype(np.uint8), [0, 51, 204]),
        ("uint8", np.array([[[0, 51, 100]]], np.int8), [0, 51, 100]),
        ("uint8", EIGHT.astype(np.float64), [0, 51, 204]),
        ("uint16", EIGHT.astype(np.int64), [0, 51, 204]),
        ("uint16", EIGHT * 300.0, [0, 15_300, 61_200]),
        ("float64", MASK.astype(bool), [0, 1, 1]),
        ("int64", EIGHT / 255, [0, 0.2, 0.8]),
        (None, EIGHT.astype(np.uint16), [0, 51, 204]),
        # The same picture on its own type's scale becomes levels if it matches them exactly.
        ("uint8", EIGHT / 255, [0, 51, 204]),
        ("uint8", (EIGHT / 255).astype(np.float32), [0, 51, 204]),
        ("uint8", (EIGHT / 255).astype(np.float16), [0, 51, 204]),
        ("uint8", EIGHT.astype(np.uint16) * 257, [0, 51, 204]),
        ("uint8", EIGHT.astype(np.uint16) * 257 + 1, [1, 51 * 257 + 1, 204 * 257 + 1]),
        ("uint8", np.array([[[0, 0.3, 1]]]), [0, 0.3, 1]),
        ("uint16", EIGHT / 255, [0, 51 * 257, 204 * 257]),
        ("float32", EIGHT.astype(np.uint8), [0, 0.2, 0.8]),
        ("bool", EIGHT.astype(np.uint16) * 257, [0, 0.2, 0.8]),
        # Black is black on any scale.
        ("uint8", np.zeros((1, 1, 3), np.uint16), [0, 0, 0]),
        ("uint16", np.zeros((1, 1, 3), np.uint8), [0, 0, 0]),
        ("uint8", np.zeros((1, 1, 3), bool), [0, 0, 0]),
        ("float64", np.zeros((1, 1, 3), np.uint8), [0, 0, 0]),
        # Either scale is possible.
        ("uint8", EIGHT.astype(np.uint16), 'X.astype("uint8") for the same values, X / 65535 for the others'),
        ("uint16", EIGHT.astype(np.uint8), 'X.astype("uint16") for the same values, X / 255 for the others'),
        (
            "uint8",
            MASK.astype(float),
            'X.astype("uint8") for the same values, (X * 255).astype("uint8") for the others',
        ),
        ("uint8", MASK.astype(bool), "fit has seen uint8"),
        ("float64", MASK.astype(np.uint8), 'X.astype("float64") for the same values, X / 255 for the others'),
        # Neither scale is possible.
        ("uint8", EIGHT + 0.5, "expected uint8, or whole numbers from 0 to 255, or numbers in [0, 1]"),
        ("uint8", EIGHT - 1, "X is int64 and lies in [-1, 203], and fit has seen uint8"),
        ("uint8", EIGHT * 2, "expected uint8"),
        ("float64", EIGHT, "expected [0, 1]: divide 8-bit values by 255, or give them as uint8"),
        ("float64", EIGHT - 0.5, "expected [0, 1]"),
    ],
)
def test_a_scale_reads_or_refuses_each_type(fitted: str | None, given: np.ndarray, expected: list[float] | str) -> None:
    scale = Scale(fitted)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match="lie") as caught:
            scale.read(given)
        assert expected in str(caught.value)
        return
    (image,) = scale.read(given)
    assert image.ravel().tolist() == pytest.approx(expected, abs=1e-7)
    # The result is on the scale of its type.
    assert image.dtype in (np.uint8, np.uint16) or image.max() <= 1


def test_the_reading_of_an_image_does_not_depend_on_the_others(random: np.random.Generator) -> None:
    levels, finer = random.integers(0, 256, (1, 8, 8)) / 255, random.uniform(0, 1, (1, 8, 8))
    alone, beside = Scale("uint8").read(levels), Scale("uint8").read(np.concatenate([finer, levels]))
    assert [image.dtype for image in beside] == [np.float64, np.uint8]
    np.testing.assert_array_equal(beside[1], alone[0])


def test_rows_in_0_1_are_clipped_and_other_scales_are_refused() -> None:
    """Values beyond [0, 1] are clipped, so whole numbers could be on either scale, and are refused."""
    scale = Scale("float64")
    assert scale.read(np.array([[-1.0, 0.5, 7.0]]), clip=True)[0].tolist() == [0, 0.5, 1]
    with pytest.raises(ValueError, match=r"X is uint8 .* fit has seen float64"):
        scale.read(np.array([[0, 3]], np.uint8), clip=True)


def test_big_endian_rows_are_read_like_native_ones() -> None:
    rows = np.array([[0, 300]], np.uint16)
    assert learn_rows(rows, None, 1) == learn_rows(rows.astype(">u2"), None, 1)


def test_stacked_leaves_other_input_alone() -> None:
    for X in ([[1, 2]], ["a.png"], [], np.zeros(3), [np.float64(1)], pd.DataFrame({"a": [1]}), None):  # noqa: N806
        assert stacked(X) is X


def test_channels_follow_the_colour_of_the_images_in_fit(
    on_images: NelboDetector, images: np.ndarray, tmp_path: Path
) -> None:
    assert on_images.model_.config.channels == 1
    grey = np.repeat(images[..., None], 3, axis=3)
    coloured = grey.copy()
    coloured[7, 8:16, 8:16] = (200, 40, 40)
    new = NelboDetector(image_size=16, epochs=1, fpr=0.2, random_state=0)
    files: dict[str, list[Path]] = {"grey": [], "coloured": []}
    for name, arrays in (("grey", grey), ("coloured", coloured)):
        for number, image in enumerate(arrays):
            files[name].append(tmp_path / f"{name}_{number}.png")
            Image.fromarray(image).save(files[name][-1])
    for X, channels in ((coloured, 3), (files["coloured"], 3), (files["grey"], 1), (grey, 1)):  # noqa: N806
        assert new.fit(X).model_.config.channels == channels
    with pytest.warns(UserWarning, match="1 images have colour, and those given to fit were grey"):
        of_files = new.score_samples(files["coloured"])
    with pytest.warns(UserWarning, match="1 images have colour, and those given to fit were grey"):
        np.testing.assert_array_equal(new.score_samples(coloured), of_files)
    # With channels=1 the user has asked for grey, so there is no warning.
    new.set_params(channels=1).score_samples(coloured)
