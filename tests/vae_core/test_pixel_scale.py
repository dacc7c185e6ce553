"""The network sees centred and scaled pixels, and gives its mean and sigma in the same units."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from synthetic import stripes

from nelbo.vae_core import Model, TrainConfig, VAEConfig, load_bundle, save_bundle, score, train
from nelbo.vae_core.checksums import as_json, write_files
from nelbo.vae_core.config import SIGMA_FLOOR
from nelbo.vae_core.model import draw_eps
from nelbo.vae_core.network.vae import VAE
from nelbo.vae_core.pixels import mean_and_std

SIDES = {"height": 24, "width": 20}
SETTINGS = TrainConfig(epochs=2, batch_size=8)
pytestmark = pytest.mark.usefixtures("eager")


def test_mean_and_std_of_whole_numbers_in_pieces(random: np.random.Generator) -> None:
    levels = random.integers(0, 65536, (7, 5, 4, 3)).astype(np.uint16)
    expected = levels.mean() / 65535, levels.std() / 65535
    assert mean_and_std(levels, 2) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("likelihood", ["gaussian_learned_sigma", "gaussian_pixel_sigma"])
def test_darker_and_flatter_copies_train_in_the_same_way(likelihood: str, random: np.random.Generator) -> None:
    """In other units the density changes only by the log of the unit, in nats for each value."""
    pixels, config = stripes(random, 40), VAEConfig(**SIDES, likelihood=likelihood)
    flat = 0.1 + 0.5 * pixels
    plain, moved = (train(one[:30], one[30:], config, SETTINGS).history for one in (pixels, flat))
    shift = 24 * 20 * math.log(0.5)
    np.testing.assert_allclose(np.array(moved["val_nelbo"]) - shift, plain["val_nelbo"], rtol=1e-2, atol=1)
    np.testing.assert_allclose(np.array(moved["val_sigma"]) / 0.5, plain["val_sigma"], rtol=2e-2)
    # The rate rises a hundredfold in these epochs, and so do rounding errors.
    np.testing.assert_allclose(moved["val_rate"], plain["val_rate"], rtol=0.2)


@pytest.mark.parametrize("likelihood", ["gaussian_learned_sigma", "gaussian_pixel_sigma", "discretised_logistic"])
def test_sigma_starts_at_the_scale(likelihood: str) -> None:
    network = VAE(VAEConfig(**SIDES, likelihood=likelihood, pixel_mean=0.4, pixel_std=0.2))
    parts = network({"pixels": np.full((2, 24, 20, 1), 0.4, np.float32), "eps": np.zeros((2, 1, 1, 16), np.float32)})
    np.testing.assert_allclose(parts["sigma"], 0.2, rtol=0.02)
    # An image at the centre is zero to the encoder, and the decoder's zero means the centre.
    nothing = np.zeros((1, 24, 20, network.likelihood.n_parameters), np.float32)
    np.testing.assert_array_equal(np.asarray(network.encoder(np.full((1, 24, 20, 1), 0.4, np.float32))[0]).round(5), 0)
    np.testing.assert_allclose(network.likelihood.mean(nothing), 0.4, rtol=1e-6)


def test_constant_images_have_a_scale() -> None:
    grey = np.full((8, 24, 20, 1), 0.5, np.float32)
    training = train(grey, grey, VAEConfig(**SIDES), TrainConfig(epochs=1))
    assert training.model.config.pixel_std == SIGMA_FLOOR
    assert np.isfinite(training.history["val_nelbo"]).all()
    white = score(training.model, np.ones_like(grey))
    assert np.isfinite(white.anomaly_score).all()
    assert (white.nelbo > score(training.model, grey).nelbo).all()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"pixel_mean": 0.5}, "go together"),
        ({"pixel_mean": 128.0, "pixel_std": 0.2}, "pixel_mean=128.0: expected a mean of values in"),
        ({"pixel_mean": 0.5, "pixel_std": 0.0}, "pixel_std=0.0: expected 0.0011 to 1"),
        ({"pixel_mean": 0.5, "pixel_std": math.nan}, "pixel_std=nan"),
        ({"pixel_mean": 0.5, "pixel_std": 0.2, "preset": "features", "height": 64, "width": 64}, "whitens"),
    ],
)
def test_impossible_scales_are_refused(bad: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VAEConfig(**SIDES | bad)


@pytest.mark.parametrize(
    ("likelihood", "nelbo"),
    [
        ("gaussian_learned_sigma", [395.574036, 396.121765]),
        ("gaussian_pixel_sigma", [402.114410, 408.801941]),
        ("discretised_logistic", [213.002075, 214.180664]),
        ("continuous_bernoulli", [1.684891, 0.629774]),
        ("bernoulli", [179.203720, 178.147491]),
    ],
)
def test_bundles_of_version_0_1_score_as_before(likelihood: str, nelbo: list[float], tmp_path: Path) -> None:
    """They have no scale; the numbers are those of version 0.1 for weights drawn by NumPy."""
    config, ones = VAEConfig(height=16, width=16, likelihood=likelihood), np.ones((16, 16), np.float32)
    network, random = VAE(config), np.random.default_rng(0)
    for variable in network.trainable_variables:
        variable.assign(0.05 * random.standard_normal(tuple(variable.shape), np.float32))
    folder = tmp_path / save_bundle(Model(config, network, draw_eps(config, 0), ones, ones, {}), tmp_path)
    loaded = load_bundle(without_scale(folder))
    pixels = (np.arange(512).reshape(2, 16, 16, 1) % 7 > 3).astype(np.float32)
    np.testing.assert_allclose(score(loaded, pixels).nelbo, nelbo, rtol=1e-5, atol=1e-4)


def without_scale(folder: Path) -> Path:
    """The same bundle in the format of version 0.1."""
    description = json.loads((folder / "model.json").read_text())
    assert [description["config"].pop(name) for name in ("pixel_mean", "pixel_std")] == [None, None]
    weights = (folder / "weights.safetensors").read_bytes()
    content = {name: description[name] for name in ("config", "preprocessing")}
    description["model_id"] = "m" + hashlib.sha256(as_json(content) + weights).hexdigest()[:16]
    old = folder.with_name(description["model_id"])
    write_files({"model.json": as_json(description), "weights.safetensors": weights}, old)
    return old
