"""Oriented energies of images that a formula defines: stripes, spots, plain colours, mirror images."""

import math
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

from nelbo.vae_core.features.filters import CELL_PX, ORIENTATIONS, SCALES, filter_features

SIDE = 128
FLOOR = math.log(0.1 / 255)
N_ENERGIES = SCALES * ORIENTATIONS


def stripes(wavelength: float, angle: float = 0.0, phase: float = 0.0, amplitude: float = 0.2) -> np.ndarray:
    """(128, 128, 1) float32 stripes about 0.5, whose direction of change is `angle` down from the rows."""
    down, across = np.mgrid[:SIDE, :SIDE]
    along = across * math.cos(angle) + down * math.sin(angle)
    return (0.5 + amplitude * np.sin(2 * math.pi * along / wavelength + phase))[..., None].astype(np.float32)


def features(*images: np.ndarray) -> np.ndarray:
    return np.asarray(filter_features(np.stack(images)))


def energies(found: np.ndarray) -> np.ndarray:
    """(n, 4, 4, scales, orientations) of the first plane, in units of a stripe's amplitude."""
    return np.exp(found[..., :N_ENERGIES]).reshape(*found.shape[:3], SCALES, ORIENTATIONS)


@pytest.mark.parametrize(("channels", "expected"), [(1, 25), (3, 75)])
def test_one_position_for_each_32_pixels(channels: int, expected: int) -> None:
    found = filter_features(keras.Input((96, 64, channels)))
    assert found.shape == (None, 3, 2, expected)


def test_stripes_give_most_to_their_own_scale_and_orientation() -> None:
    """The stripes' formula gives the right answer: wavelengths of 4 to 32 pixels, angles of 0 to 150 degrees."""
    cases = [(scale, k) for scale in range(SCALES) for k in range(ORIENTATIONS)]
    images = [stripes(4 * 2**scale, math.pi * k / ORIENTATIONS) for scale, k in cases]
    for found, (scale, k) in zip(energies(features(*images)), cases, strict=True):
        # Only inner positions count, because mirroring at the edge bends oblique stripes.
        inner = found[1:-1, 1:-1].mean(axis=(0, 1))
        assert np.unravel_index(inner.argmax(), inner.shape) == (scale, k)


@pytest.mark.parametrize("scale", range(SCALES))
def test_the_energy_of_stripes_is_their_amplitude(scale: int) -> None:
    wavelength = 4 * 2**scale
    # Each halving averages two neighbours, by then 2^j pixels apart.
    kept = math.prod(math.cos(math.pi * 2**j / wavelength) for j in range(scale))
    found = energies(features(stripes(wavelength)))[0, 1:-1, 1:-1, scale, 0]
    np.testing.assert_allclose(found, 0.2 * kept, rtol=0.03)


@pytest.mark.parametrize("scale", range(SCALES))
@pytest.mark.parametrize("angle", [0.0, math.pi / 6, math.pi / 2])
def test_the_phase_of_stripes_makes_no_difference(scale: int, angle: float) -> None:
    images = [stripes(4 * 2**scale, angle, phase) for phase in np.arange(8) * math.pi / 4]
    k = round(angle / math.pi * ORIENTATIONS)
    found = energies(features(*images))[:, 1:-1, 1:-1, scale, k]
    np.testing.assert_allclose(found, np.broadcast_to(found.mean(axis=0), found.shape), rtol=0.03)


def test_twice_the_contrast_adds_log_two(random: np.random.Generator) -> None:
    # The texture is coarse and fine, so that each scale rises above the floor.
    texture = sum(np.kron(random.normal(0, 0.1, (SIDE // n, SIDE // n)), np.ones((n, n))) for n in (1, 4, 16))[
        ..., None
    ]
    faint, strong = features(*(np.float32(0.5 + contrast * texture) for contrast in (1, 2)))
    np.testing.assert_allclose((strong - faint)[..., :N_ENERGIES], math.log(2), atol=1e-3)


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_a_plain_image_has_its_level_and_no_energy(level: float) -> None:
    found = features(np.full((SIDE, SIDE, 1), level, np.float32))
    np.testing.assert_allclose(found[..., :N_ENERGIES], FLOOR, atol=1e-5)
    np.testing.assert_allclose(found[..., N_ENERGIES:], math.log(level + 0.01), rtol=1e-5)


def test_the_mean_is_that_of_the_position(random: np.random.Generator) -> None:
    pixels = random.random((SIDE, SIDE, 1), np.float32)
    expected = np.log(pixels.reshape(4, CELL_PX, 4, CELL_PX).mean(axis=(1, 3)) + 0.01)
    np.testing.assert_allclose(features(pixels)[0, ..., -1], expected, rtol=1e-5)


def test_a_spot_is_seen_only_where_it_is() -> None:
    plain = np.full((SIDE, SIDE, 1), 0.5, np.float32)
    spotted = plain.copy()
    spotted[78:82, 46:50] = 0.9
    found = energies(features(spotted))[0].max(axis=(2, 3))
    assert np.unravel_index(found.argmax(), found.shape) == (2, 1)
    # Two positions farther on, nothing of it is left.
    np.testing.assert_allclose(np.log(found[:, 3]), FLOOR, atol=1e-3)


def test_a_mirror_image_has_mirrored_features(random: np.random.Generator) -> None:
    pixels = random.random((SIDE, SIDE, 1), np.float32)
    found, mirrored = (energies(features(x))[0] for x in (pixels, pixels[:, ::-1]))
    turned_back = mirrored[:, ::-1][..., -np.arange(ORIENTATIONS)]
    np.testing.assert_allclose(turned_back, found, rtol=1e-4)


def test_a_quarter_turn_moves_orientations_by_half_of_them(random: np.random.Generator) -> None:
    pixels = random.random((SIDE, SIDE, 1), np.float32)
    found, turned = (energies(features(x))[0] for x in (pixels, np.rot90(pixels)))
    turned_back = np.roll(np.rot90(turned, -1), ORIENTATIONS // 2, axis=-1)
    np.testing.assert_allclose(turned_back, found, rtol=1e-4)


def test_grey_in_three_channels_has_the_energies_of_grey_and_no_colour(random: np.random.Generator) -> None:
    grey = random.random((SIDE, SIDE, 1), np.float32)
    one, three = features(grey), features(np.repeat(grey, 3, axis=-1))
    np.testing.assert_allclose(three[..., :25], one, atol=1e-4)
    for opponent in (three[..., 25:50], three[..., 50:]):
        np.testing.assert_allclose(opponent[..., :-1], FLOOR, atol=1e-4)
        np.testing.assert_allclose(opponent[..., -1], 0, atol=1e-6)


@pytest.mark.parametrize(
    ("colour", "plane"),
    [
        # Its channels sum to 0, so grey sees nothing; nor does the other opponent.
        ((0.5, -0.5, 0.0), 1),
        ((1 / 3, 1 / 3, -2 / 3), 2),
    ],
)
def test_stripes_of_colour_alone_are_seen_by_their_opponent_alone(
    colour: tuple[float, float, float], plane: int
) -> None:
    wave = stripes(8) - 0.5
    found = features(np.float32(0.5 + wave * np.float32(colour)))[0, 1:-1, 1:-1].reshape(-1, 3, 25)
    own = np.exp(found[:, plane, ORIENTATIONS])
    np.testing.assert_allclose(own, 0.2 * math.cos(math.pi / 8), rtol=0.03)
    others = [i for i in range(3) if i != plane]
    np.testing.assert_allclose(found[:, others, :-1], FLOOR, atol=1e-3)


def test_the_means_of_colours_are_those_of_the_opponents() -> None:
    red, yellow = (np.ones((64, 64, 1), np.float32) * np.float32(rgb) for rgb in ((1, 0, 0), (1, 1, 0)))
    means = features(red, yellow)[:, 0, 0, [24, 49, 74]]
    np.testing.assert_allclose(means, [[math.log(1 / 3 + 0.01), 1, 0.5], [math.log(2 / 3 + 0.01), 0, 1]], atol=1e-5)


def test_filters_have_no_trainable_weights() -> None:
    pixels = keras.Input((64, 64, 3))
    model = keras.Model(pixels, filter_features(pixels))
    assert model.trainable_weights == []
    # One bank for all scales and planes, and the opponents.
    assert sorted(tuple(weight.shape) for weight in model.weights) == [(1, 1, 3, 3), (10, 10, 1, 12)]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((64, 64, 2), "2 channels: expected 1"),
        ((64, 80, 1), "64 x 80: the filters expect multiples of 32"),
        ((32, 64, 1), "32 x 64: the filters expect multiples of 32 from 64"),
    ],
)
def test_images_of_other_shapes_are_refused(shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        filter_features(keras.Input(shape))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exported through TensorFlow")
def test_exported_filters_give_the_same_features(random: np.random.Generator, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    pixels = keras.Input((64, 96, 3), name="pixels")
    model = keras.Model(pixels, filter_features(pixels))
    images = random.random((3, 64, 96, 3), np.float32)
    expected = model.predict_on_batch(images)
    written = tmp_path / "filters.onnx"
    with warnings.catch_warnings():
        # Deprecation warnings from NumPy and protobuf in tf2onnx.
        warnings.simplefilter("ignore")
        model.export(written, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(written.read_bytes(), providers=["CPUExecutionProvider"])
    [found] = session.run(None, {session.get_inputs()[0].name: images})
    np.testing.assert_allclose(found, expected, atol=1e-4)
