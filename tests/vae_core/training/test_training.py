"""Training repeats to the bit, learns, stops, and says what went wrong."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import stripes

from nelbo.vae_core import TrainConfig, Training, VAEConfig, load_bundle, save_bundle, score, train
from nelbo.vae_core.config import PRESETS
from nelbo.vae_core.network.vae import VAE
from nelbo.vae_core.pixels import to_unit
from nelbo.vae_core.scoring import default_batch_size
from nelbo.vae_core.training.batches import Batches
from nelbo.vae_core.training.diagnosis import diagnose
from nelbo.vae_core.training.training import Epochs, _make_network

CONFIG = VAEConfig(height=24, width=20)


#: Compiled networks are trained in other modules.
pytestmark = pytest.mark.usefixtures("eager")


def test_training_repeats_to_the_bit(random: np.random.Generator) -> None:
    pixels = stripes(random, 40)
    settings = TrainConfig(epochs=2, batch_size=16)
    runs = [train(pixels[:30], pixels[30:], CONFIG, replace(settings, seed=seed)) for seed in (5, 5, 6)]
    weights = [run.model.network.get_weights() for run in runs]
    assert all(np.array_equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(weights[0], weights[2], strict=True))
    measured = [{k: v for k, v in run.history.items() if k not in ("images_per_s", "seconds")} for run in runs]
    assert measured[0] == measured[1]


def test_empty_and_misshaped_sets_are_refused() -> None:
    good = np.zeros((4, 24, 20, 1), np.float32)
    with pytest.raises(ValueError, match="validation has shape"):
        train(good, good[:0], CONFIG)
    with pytest.raises(ValueError, match="pixels has shape"):
        train(good[:, :, :10], good, CONFIG)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"epochs": 0}, "epochs=0: expected a positive"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seed": -1}, "seed=-1: expected 0 or more"),
        ({"patience": 0}, "patience=0"),
        ({"clip_norm": 0.0}, "clip_norm=0.0"),
        ({"beta": 0.0}, "beta=0.0"),
        ({"free_bits": -1.0}, "free_bits=-1.0"),
        ({"latent_l2": float("inf")}, "latent_l2=inf"),
        ({"denoising": 1.5}, "denoising=1.5: expected a share"),
        ({"flip": "left"}, "flip='left': expected one of none, horizontal, vertical, both; try"),
        ({"learning_rate_schedule": "cos"}, "try cosine"),
        ({"precision": "float16"}, "mixed_bfloat16, int8, auto; try float32"),
        ({"batch_size": 32, "devices": 3}, "cannot be spread evenly over 3 devices; try 33"),
    ],
)
def test_bad_settings_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**bad)


@pytest.mark.parametrize(
    ("preset", "likelihood"),
    [
        ("conv_spatial", "gaussian_learned_sigma"),
        ("resnet", "gaussian_learned_sigma"),
        ("conv_1x1x16", "gaussian_fixed_sigma"),
        ("conv_1x1x16", "gaussian_pixel_sigma"),
        ("conv_1x1x16", "discretised_logistic"),
        ("conv_1x1x16", "continuous_bernoulli"),
        ("conv_1x1x16", "bernoulli"),
    ],
)
def test_every_preset_and_likelihood_learns_and_scores(
    preset: str, likelihood: str, random: np.random.Generator, tmp_path: Path
) -> None:
    levels = np.rint(255 * stripes(random, 60)).astype(np.uint8)
    if likelihood == "bernoulli":
        levels = np.where(levels > 127, 255, 0).astype(np.uint8)
    sigma = 0.1 if likelihood == "gaussian_fixed_sigma" else None
    config = VAEConfig(height=24, width=20, preset=preset, likelihood=likelihood, sigma=sigma)
    training = train(levels[:40], levels[40:], config, TrainConfig(epochs=2, batch_size=20))
    history = training.history
    assert history["val_nelbo"][-1] < history["val_nelbo"][0]
    assert ("sigma" in history) == training.model.network.likelihood.has_sigma
    pixels = to_unit(levels[40:])
    before = score(training.model, pixels)
    np.testing.assert_allclose(before.anomaly_map.sum((1, 2)), before.distortion, rtol=1e-3, atol=0.1)
    np.testing.assert_allclose(before.rate_map.sum((1, 2)), before.rate, rtol=1e-4)
    np.testing.assert_allclose(before.nelbo, before.distortion + before.rate, rtol=1e-4, atol=1e-2)
    after = score(load_bundle(tmp_path / save_bundle(training.model, tmp_path)), pixels)
    np.testing.assert_array_equal(before.nelbo, after.nelbo)
    if likelihood in ("discretised_logistic", "bernoulli"):
        with pytest.raises(ValueError, match="values that"):
            score(training.model, pixels * 0.999 + 0.0005)
        with pytest.raises(ValueError, match=r"20 images \(validation, image 0, .* and 15 more\) have values that"):
            train(levels[:40], pixels * np.float32(0.999), config)


def test_each_option_of_training_has_its_effect(random: np.random.Generator) -> None:
    pixels = stripes(random, 40)

    def run(**options: Any) -> Training:
        return train(pixels[:30], pixels[30:], CONFIG, TrainConfig(epochs=6, batch_size=16, **options))

    def size(training: Training) -> float:
        layers = map(training.model.network.encoder.get_layer, ("z_mean", "z_log_var"))
        return sum(float(np.square(np.asarray(layer.kernel)).sum()) for layer in layers)

    plain, small = run(), run(latent_l2=1e4)
    assert size(small) < 0.8 * size(plain)
    collapsed = run(beta=1e4, warmup_epochs=4, learning_rate_schedule="cosine", learning_rate=0.01)
    curves = collapsed.history
    assert curves["rate"][-1] < 0.5 * plain.history["rate"][-1]
    assert curves["loss"][-1] > curves["nelbo"][-1]
    assert curves["rate_weight"] == [2500, 5000, 7500, 1e4, 1e4, 1e4]
    assert curves["learning_rate"][0] == 0.01
    assert curves["learning_rate"][3] == pytest.approx(0.005)
    assert sorted(curves["learning_rate"], reverse=True) == curves["learning_rate"]
    assert plain.warnings == []
    assert [warning.split(":")[0] for warning in collapsed.warnings] == ["Posterior collapse"]


def test_the_gradient_is_clipped() -> None:
    assert _make_network(CONFIG, TrainConfig(clip_norm=3.0)).optimizer.global_clipnorm == 3
    assert _make_network(CONFIG, TrainConfig()).optimizer.global_clipnorm is None


def test_weight_decay_shrinks_kernels_only() -> None:
    """In a step without a gradient only decaying weights change."""
    network = _make_network(CONFIG, TrainConfig(weight_decay=0.5, learning_rate=0.1))
    before = [np.asarray(variable).copy() + 1 for variable in network.trainable_variables]
    for variable, value in zip(network.trainable_variables, before, strict=True):
        variable.assign(value)
    network.optimizer.apply([np.zeros_like(value) for value in before], network.trainable_variables)
    for variable, value in zip(network.trainable_variables, before, strict=True):
        factor = 0.95 if len(variable.shape) > 1 else 1.0
        np.testing.assert_allclose(np.asarray(variable), factor * value, rtol=1e-5, err_msg=variable.path)


def test_divergence_names_the_batch(random: np.random.Generator) -> None:
    pixels = stripes(random, 64)
    names = [f"cell_{i}.png" for i in range(64)]
    # A learning rate may be a whole number.
    settings = TrainConfig(epochs=1, batch_size=8, learning_rate=100_000)
    with pytest.raises(FloatingPointError, match=r"epoch 1, batch [2-8] of 8 \('cell_\d+\.png', .* and 3 more\)"):
        train(pixels, pixels, CONFIG, settings, names=names)


@pytest.mark.parametrize("n_batches", [1, 7, 37, 1000])
def test_the_first_bad_batch_is_found_from_their_share(n_batches: int) -> None:
    batches = Batches(np.zeros((n_batches, 24, 20, 1), np.uint8), CONFIG, TrainConfig(batch_size=1))
    epochs = Epochs(batches, None, [])
    for bad in range(n_batches):
        # A mean of ones and zeros in 32 bits; half a batch more if one of two devices failed later.
        for share in (np.float32(bad) / np.float32(n_batches), np.float32(bad + 0.5) / np.float32(n_batches)):
            message = epochs._failure(0, float(share))
            assert f"the loss became NaN or infinite in epoch 1, batch {bad + 1} of" in message
            assert f"(image {batches.rows(bad)[0]})" in message
    assert f"validation loss after the last update became NaN or infinite in epoch 1, batch {n_batches}" in (
        epochs._failure(0, 1.0)
    )


def test_posterior_collapse_and_sigma_at_its_floor_give_warnings(random: np.random.Generator) -> None:
    pixels = stripes(random, 12)
    network = VAE(VAEConfig(height=24, width=20, likelihood="gaussian_pixel_sigma"))
    heads = [network.encoder.get_layer(name) for name in ("z_mean", "z_log_var")]
    heads[0].kernel.assign(heads[0].kernel * 20)
    assert diagnose(network, pixels) == []
    # The second half of the decoder's outputs are log sigmas.
    bias = network.decoder.get_layer("decoder_conv_0").bias
    bias.assign([0.0, -30.0])
    assert [warning.split(" for ")[0] for warning in diagnose(network, pixels)] == ["Sigma is at its floor of 0.0011"]
    bias.assign([0.0, 0.0])
    for head in heads:
        head.kernel.assign(head.kernel * 1e-6)
    assert [warning.split(":")[0] for warning in diagnose(network, pixels)] == ["Posterior collapse"]


def test_bfloat16_trains_and_float32_scores(random: np.random.Generator) -> None:
    pixels = stripes(random, 48)
    runs = [
        train(pixels[:32], pixels[32:], CONFIG, TrainConfig(epochs=2, precision=precision))
        for precision in ("float32", "mixed_bfloat16")
    ]
    exact, mixed = (run.history["val_nelbo"] for run in runs)
    assert exact != mixed
    assert mixed[-1] < mixed[0]
    np.testing.assert_allclose(mixed, exact, rtol=0.1, atol=30)
    assert {layer.compute_dtype for layer in runs[1].model.network.encoder.layers} == {"float32"}


@pytest.mark.parametrize("preset", PRESETS)
def test_bfloat16_leaves_posterior_and_likelihood_in_float32(preset: str) -> None:
    network = VAE(VAEConfig(height=64, width=96, preset=preset), objective=TrainConfig(precision="mixed_bfloat16"))
    kept = [network.encoder.get_layer("z_mean"), network.encoder.get_layer("z_log_var")]
    first, last = ("conv", "mix") if preset == "features" else ("conv_0", "conv_0")
    kept.append(network.decoder.get_layer(f"decoder_{last}"))
    assert {layer.compute_dtype for layer in kept} == {"float32"}
    assert network.encoder.get_layer(f"encoder_{first}").compute_dtype == "bfloat16"
    assert {weight.dtype for weight in network.trainable_variables} == {"float32"}


class Counted:
    """Stands in for rows on disk; records the most that were read at a time."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels, self.shape, self.dtype = pixels, pixels.shape, pixels.dtype
        self.most = 0

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Any) -> np.ndarray:
        taken = self.pixels[rows]
        self.most = max(self.most, len(taken))
        return taken


def test_memory_does_not_grow_with_the_images(random: np.random.Generator) -> None:
    levels = np.rint(255 * np.repeat(stripes(random, 100), 6, axis=0)).astype(np.uint8)
    pixels, validation = Counted(levels[:300]), Counted(levels[300:])
    train(pixels, validation, CONFIG, TrainConfig(epochs=1, batch_size=64))
    # Scoring and the check before training read 256 images of this size at a time.
    assert pixels.most == validation.most == default_batch_size(CONFIG) == 256
