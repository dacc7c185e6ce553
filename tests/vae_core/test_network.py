"""Layers and architecture."""

import keras
import numpy as np
import pytest
from keras import ops

from vae_core import Sampling, VAEConfig
from vae_core.architecture import LATENTS, build_decoder, build_encoder
from vae_core.layers import GaussianLikelihood
from vae_core.network import VAE


@pytest.mark.parametrize(
    ("height", "width", "channels"), [(16, 16, 1), (64, 64, 3), (17, 31, 1), (100, 20, 3), (512, 16, 1), (512, 512, 3)]
)
def test_any_size_comes_back(height: int, width: int, channels: int) -> None:
    config = VAEConfig(height=height, width=width, channels=channels)
    z_mean, z_log_var = build_encoder(config)(np.zeros((2, height, width, channels), np.float32))
    assert z_mean.shape == z_log_var.shape == (2, 1, 1, LATENTS)
    assert build_decoder(config)(z_mean).shape == (2, height, width, channels)


def test_each_image_and_each_call_gets_noise_of_its_own() -> None:
    layer = Sampling(seed=0)
    mean, log_var = np.zeros((4000, 1)), np.full((4000, 1), 2 * np.log(3.0))
    first, second = (np.asarray(layer([mean, log_var]))[:, 0] for _ in range(2))
    assert len(np.unique(first)) > 3900
    assert not np.array_equal(first, second)
    assert abs(first.std() - 3) < 0.15
    assert abs(first.mean()) < 0.2


def test_sampling_comes_back_from_its_config() -> None:
    layer = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(Sampling(seed=7)))
    zeros = np.zeros((2, 3))
    np.testing.assert_array_equal(layer([zeros, zeros]), Sampling(seed=7)([zeros, zeros]))


def test_sigma_is_learnt_quickly_and_right(random: np.random.Generator) -> None:
    """Its optimum is the root mean squared error."""
    likelihood = GaussianLikelihood()
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
    model.fit(pixels, epochs=300, batch_size=64, verbose=0)
    assert float(ops.exp(likelihood.log_sigma)) == pytest.approx(np.sqrt(np.square(pixels).mean()), rel=0.02)


def test_loss_is_the_mean_nelbo(random: np.random.Generator) -> None:
    network = VAE(VAEConfig(height=16, width=16))
    pixels = random.random((6, 16, 16, 1)).astype(np.float32)
    parts = network(pixels)
    nelbo = np.asarray(parts["distortion"]) + np.asarray(parts["rate"])
    assert nelbo.shape == (6,)
    assert float(network.compute_loss(y_pred=parts)) == pytest.approx(nelbo.mean(), rel=1e-6)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"height": 8}, "try 16"),
        ({"width": 1000}, "try 512"),
        ({"channels": 4}, "channels=4"),
        ({"preset": "resnet"}, "expected one of conv_1x1x16"),
        ({"likelihood": "bernoulli"}, "gaussian_learned_sigma"),
        ({"statistic": "mean"}, "nelbo, peak"),
        ({"smoothing_px": 4}, "odd"),
        ({"noise_draws": 0}, "noise_draws=0"),
    ],
)
def test_impossible_configurations(bad: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VAEConfig(**bad)  # type: ignore[arg-type]
