"""The importance-weighted bound, tested on a model with a known log likelihood: probabilistic PCA."""

import math
from unittest import mock

import keras
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from synthetic import stripes

from nelbo.vae_core import Model, VAEConfig, importance_weighted_bound, score
from nelbo.vae_core.model import draw_eps
from nelbo.vae_core.network.vae import VAE

SIDE, LATENTS, SIGMA = 16, 16, 0.2


class LinearVAE:
    """A network whose decoder is linear in z, so p(x) is a Gaussian; the posterior of its encoder may be wrong.

    W has orthogonal columns, hence the exact posterior is diagonal: mean (x - b) W / (w + sigma^2), variance
    sigma^2 / (w + sigma^2), with w the columns' squared lengths. Source: Tipping and Bishop 1999, equations 3 to 8.
    """

    def __init__(self, random: np.random.Generator, wrong: float = 0.0) -> None:
        config = VAEConfig(height=SIDE, width=SIDE, likelihood="gaussian_fixed_sigma", sigma=SIGMA)
        orthogonal, _ = np.linalg.qr(random.normal(size=(SIDE * SIDE, LATENTS)))
        self.w = orthogonal * random.uniform(0.1, 0.8, LATENTS)
        lengths = np.square(self.w).sum(axis=0)
        encoder, decoder = self._encoder(lengths, wrong), self._decoder()
        with (
            mock.patch("nelbo.vae_core.network.vae.build_encoder", return_value=encoder),
            mock.patch("nelbo.vae_core.network.vae.build_decoder", return_value=decoder),
        ):
            network = VAE(config)
        ones = np.ones((SIDE, SIDE), np.float32)
        self.model = Model(config, network, draw_eps(config, 0), 0 * ones, ones, {})

    def _decoder(self) -> keras.Model:
        z = keras.Input((1, 1, LATENTS))
        layer = keras.layers.Dense(SIDE * SIDE)
        decoder = keras.Model(z, keras.layers.Reshape((SIDE, SIDE, 1))(layer(z)))
        layer.set_weights([self.w.T, np.full(SIDE * SIDE, 0.5)])
        return decoder

    def _encoder(self, lengths: np.ndarray, wrong: float) -> keras.Model:
        pixels = keras.Input((SIDE, SIDE, 1))
        flat = keras.layers.Reshape((1, 1, SIDE * SIDE))(pixels)
        mean, log_var = keras.layers.Dense(LATENTS), keras.layers.Dense(LATENTS)
        encoder = keras.Model(pixels, [mean(flat), log_var(flat)])
        kernel = self.w / (lengths + SIGMA**2)
        mean.set_weights([kernel, -0.5 * kernel.sum(axis=0) + wrong])
        variance = np.log(SIGMA**2 / (lengths + SIGMA**2)) + wrong
        log_var.set_weights([0 * kernel, variance])
        return encoder

    def draw(self, random: np.random.Generator, n: int) -> np.ndarray:
        x = 0.5 + random.normal(size=(n, LATENTS)) @ self.w.T + SIGMA * random.normal(size=(n, SIDE * SIDE))
        return x.reshape(n, SIDE, SIDE, 1).astype(np.float32)

    def log_p(self, x: np.ndarray) -> np.ndarray:
        covariance = self.w @ self.w.T + SIGMA**2 * np.eye(SIDE * SIDE)
        return multivariate_normal(np.full(SIDE * SIDE, 0.5), covariance).logpdf(x.reshape(len(x), -1))


@pytest.fixture
def allow_any_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of a Gaussian lie outside [0, 1], too."""
    monkeypatch.setattr("nelbo.vae_core.bound.check_pixels", lambda *_: None)


@pytest.mark.usefixtures("allow_any_value")
def test_exact_posterior_gives_log_p_with_any_number_of_draws(random: np.random.Generator) -> None:
    linear = LinearVAE(random)
    x = linear.draw(random, 5)
    for n_samples in (1, 20):
        bound = importance_weighted_bound(linear.model, x, n_samples)
        np.testing.assert_allclose(bound.value, linear.log_p(x), rtol=1e-5, atol=1e-3)
        assert n_samples == 1 or (bound.standard_error < 1e-3).all()


@pytest.mark.usefixtures("allow_any_value")
def test_wrong_posterior_rises_with_k_and_converges_within_its_error(random: np.random.Generator) -> None:
    linear = LinearVAE(random, wrong=0.1)
    x = linear.draw(random, 16)
    log_p = linear.log_p(x)
    # Means over repeats, each with other draws that all images share.
    repeats = {1: 200, 4: 100, 16: 50, 64: 25}
    means = [
        np.mean([importance_weighted_bound(linear.model, x, k, seed=seed).value for seed in range(n)])
        for k, n in repeats.items()
    ]
    assert (np.diff(means) > 0).all(), means
    assert log_p.mean() - means[0] > 0.3
    bound = importance_weighted_bound(linear.model, x, 5000)
    # Nearly all images lie within three of their standard errors of the truth, and these errors are small.
    off = np.abs(bound.value - log_p)
    assert (off < 3 * bound.standard_error + 2e-3).mean() > 0.9
    assert bound.standard_error.max() < 0.2


def test_more_draws_than_fit_at_once_change_nothing(
    model: Model, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = stripes(random, 5)
    whole = importance_weighted_bound(model, pixels, 37)
    monkeypatch.setattr("nelbo.vae_core.bound._CHUNK_VALUES", 8 * 480 * 4)
    parts = importance_weighted_bound(model, pixels, 37)
    np.testing.assert_allclose(parts.value, whole.value, rtol=1e-6)
    np.testing.assert_allclose(parts.standard_error, whole.standard_error, rtol=1e-3)


def test_bound_of_a_trained_model_is_above_its_elbo(model: Model, random: np.random.Generator) -> None:
    pixels = stripes(random, 8)
    elbo = -score(model, pixels, eps=random.standard_normal((32, 1, 1, 16)), maps=False).nelbo
    bound = importance_weighted_bound(model, pixels, 300)
    assert (bound.value > elbo - 0.5).all()
    assert bound.value.mean() > elbo.mean()
    # A single draw estimates the ELBO itself.
    singles = [importance_weighted_bound(model, pixels, 1, seed=seed).value for seed in range(40)]
    error = np.std(singles, axis=0) / math.sqrt(40)
    assert (np.abs(np.mean(singles, axis=0) - elbo) < 5 * error + 0.5).all()


def test_a_bound_does_not_depend_on_the_other_images(model: Model, random: np.random.Generator) -> None:
    pixels = stripes(random, 6)
    whole = importance_weighted_bound(model, pixels, 20)
    alone = importance_weighted_bound(model, pixels[4:5], 20)
    assert whole.value[4] == alone.value[0]
    assert importance_weighted_bound(model, pixels[:0], 20).value.shape == (0,)


def test_one_draw_has_no_standard_error(model: Model, random: np.random.Generator) -> None:
    bound = importance_weighted_bound(model, stripes(random, 2), 1)
    assert np.isfinite(bound.value).all()
    assert np.isnan(bound.standard_error).all()


def test_bad_arguments_of_the_bound_are_refused(model: Model) -> None:
    with pytest.raises(ValueError, match="n_samples=0"):
        importance_weighted_bound(model, np.zeros((1, 24, 20, 1), np.float32), 0)
    with pytest.raises(ValueError, match="takes"):
        importance_weighted_bound(model, np.zeros((1, 20, 24, 1), np.float32))
