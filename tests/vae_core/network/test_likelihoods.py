"""Likelihoods: known values, total probability, means, and what they refuse."""

import math
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops
from scipy.integrate import quad
from scipy.stats import logistic

from nelbo.vae_core import VAEConfig, gaussian_log_likelihood
from nelbo.vae_core.config import LIKELIHOODS, PROBABILITIES
from nelbo.vae_core.network.layers import SIGMA_FLOOR, GaussianLearnedSigma, Likelihood, make_likelihood
from nelbo.vae_core.network.likelihoods import (
    bernoulli_log_density,
    continuous_bernoulli_log_density,
    continuous_bernoulli_mean,
    discretised_logistic_log_density,
    gaussian_log_density,
)
from nelbo.vae_core.pixels import supported

ONE = np.ones((1, 1, 1, 1))


def value(function: Any, *arguments: Any) -> float:
    """The single value that a function gives for one image."""
    return float(np.sum(function(*arguments)))


def layer_of(name: str) -> Likelihood:
    sigma = 0.2 if "fixed" in name else None
    layer = make_likelihood(VAEConfig(height=64, width=64, likelihood=name, sigma=sigma))
    layer.build(None)
    return layer


def test_the_gaussian_density_has_known_values() -> None:
    x = np.zeros((1, 1, 1, 1))
    sigma_one, sigma_e = np.zeros(()), np.ones(())
    assert value(gaussian_log_likelihood, x, x, sigma_one) == pytest.approx(-0.9189385332, abs=1e-10)
    # Two sigma away costs 2 nats; a sigma of e costs one.
    assert value(gaussian_log_likelihood, x, x + 2, sigma_one) == pytest.approx(-2.9189385332, abs=1e-10)
    assert value(gaussian_log_likelihood, x, x, sigma_e) == pytest.approx(-1.9189385332, abs=1e-10)


def test_gaussian_sums_over_pixels_and_channels() -> None:
    x = np.zeros((2, 5, 4, 3))
    np.testing.assert_allclose(gaussian_log_likelihood(x, x, np.zeros(())), [-60 * 0.9189385332] * 2, rtol=1e-9)


def test_a_sigma_for_each_value_gives_known_densities() -> None:
    x = np.zeros((1, 1, 2, 1))
    log_sigma = np.array([0.0, 1.0]).reshape(1, 1, 2, 1)
    assert value(gaussian_log_likelihood, x, x, log_sigma) == pytest.approx(-2 * 0.9189385332 - 1, abs=1e-9)


def test_the_discretised_logistic_has_known_values() -> None:
    log_scale = np.float64(math.log(1 / 255))
    # Scale of one level, mean on the level: F(1/2) - F(-1/2) = tanh(1/4) = 0.24491866.
    on_level = 100 / 255 * ONE
    assert value(discretised_logistic_log_density, on_level, on_level, log_scale) == pytest.approx(
        math.log(0.24491866240370913), abs=1e-9
    )
    # With the mean on black, the lowest level takes all probability below: F(1/2) = 1 / (1 + exp(-1/2)) = 0.62245933.
    # White takes all probability above.
    for end in (0 * ONE, ONE):
        found = value(discretised_logistic_log_density, end, end, log_scale)
        assert found == pytest.approx(math.log(0.6224593312018546), abs=1e-9)


@given(st.floats(-0.5, 1.5), st.floats(-7, 2))
def test_256_levels_share_a_probability_of_one(mean: float, log_scale: float) -> None:
    levels = (np.arange(256) / 255).reshape(256, 1, 1, 1)
    logs = np.asarray(discretised_logistic_log_density(levels, np.full_like(levels, mean), np.float64(log_scale)))
    assert np.exp(logs).sum() == pytest.approx(1, abs=1e-6)
    # Far tails keep their precision, where a difference of two distribution functions would be 0.
    assert np.isfinite(logs).all()


def test_the_discretised_logistic_equals_scipys(random: np.random.Generator) -> None:
    levels = random.integers(1, 255, (7, 3, 2, 1)) / 255
    means, scale = random.random(levels.shape), 0.05
    law = logistic(means, scale)
    expected = np.log(law.cdf(levels + 0.5 / 255) - law.cdf(levels - 0.5 / 255)).sum((1, 2, 3))
    found = np.asarray(discretised_logistic_log_density(levels, means, np.float64(math.log(scale)))).sum((1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_continuous_bernoulli_has_known_values() -> None:
    # 2 exp(2) / (exp(2) - 1) at x = 1, and 2 / (exp(2) - 1) at x = 0.
    assert value(continuous_bernoulli_log_density, ONE, 2 * ONE) == pytest.approx(0.8385606384, abs=1e-9)
    assert value(continuous_bernoulli_log_density, 0 * ONE, 2 * ONE) == pytest.approx(-1.1614393616, abs=1e-9)
    assert value(continuous_bernoulli_log_density, ONE, -2 * ONE) == pytest.approx(-1.1614393616, abs=1e-9)


@pytest.mark.parametrize("logit", [-40.0, -3.0, -0.21, -0.19, -1e-4, 0.0, 1e-6, 0.2, 1.0, 25.0])
def test_continuous_bernoulli_is_a_density_with_its_mean(logit: float) -> None:
    def density(x: float) -> float:
        return math.exp(value(continuous_bernoulli_log_density, x * ONE, logit * ONE))

    assert quad(density, 0, 1)[0] == pytest.approx(1, abs=1e-8)
    mean = quad(lambda x: x * density(x), 0, 1)[0]
    assert float(continuous_bernoulli_mean(np.array([logit]))[0]) == pytest.approx(mean, abs=1e-8)


@pytest.mark.parametrize("logit", [0.0, 1e-8, 0.1999, 0.2001, -300.0, 300.0])
def test_continuous_bernoulli_has_its_gradient_everywhere(logit: float) -> None:
    """An untaken branch must not make the gradient NaN; one step of gradient descent shows the gradient."""
    layer = layer_of("continuous_bernoulli")

    class Fit(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.logit = self.add_weight(shape=(), initializer=keras.initializers.Constant(logit))

        def call(self, x: Any) -> Any:
            return layer([x, self.logit + ops.zeros_like(x)])

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):  # type: ignore[no-untyped-def]  # noqa: ARG002
            return -ops.mean(y_pred)

    fit = Fit()
    fit.compile(keras.optimizers.SGD(1.0))
    before = float(fit.logit)
    fit.fit(np.full((4, 1, 1, 1), 0.75, np.float32), verbose=0)
    expected = 0.75 - float(continuous_bernoulli_mean(np.float64(logit)))
    assert float(fit.logit) - before == pytest.approx(expected, abs=1e-4)


def test_the_bernoulli_has_known_values() -> None:
    x = np.ones((1, 28, 28, 1))
    assert value(bernoulli_log_density, x, 0 * x) == pytest.approx(-543.42738957, abs=1e-7)
    # A logit of ln 3 means probabilities of 3/4 and 1/4.
    assert value(bernoulli_log_density, ONE, math.log(3) * ONE) == pytest.approx(math.log(0.75), abs=1e-9)
    assert value(bernoulli_log_density, 0 * ONE, math.log(3) * ONE) == pytest.approx(math.log(0.25), abs=1e-9)
    # Extreme logits do not overflow.
    assert value(bernoulli_log_density, ONE, 110 * ONE) == pytest.approx(0, abs=1e-12)


def test_arrays_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        gaussian_log_likelihood(np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4, 3)), 0.0)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_layers_give_nats_a_value_and_a_mean(name: str, random: np.random.Generator) -> None:
    layer = layer_of(name)
    pixels = random.integers(0, 2, (3, 5, 4, 1)).astype(np.float32)
    parameters = random.normal(size=(3, 5, 4, layer.n_parameters)).astype(np.float32)
    nats = np.asarray(layer([pixels, parameters]))
    assert nats.shape == np.asarray(layer.mean(parameters)).shape == pixels.shape
    if name in PROBABILITIES:
        assert (nats <= 0).all()
    if layer.has_sigma:
        assert (np.asarray(layer.sigma(parameters)) >= SIGMA_FLOOR * (1 - 1e-6)).all()
    else:
        with pytest.raises(NotImplementedError):
            layer.sigma(parameters)


def test_layers_give_the_values_of_the_public_densities(random: np.random.Generator) -> None:
    pixels = (random.integers(0, 256, (3, 5, 4, 1)) / 255).astype(np.float32)
    parameters = random.random((3, 5, 4, 2)).astype(np.float32)
    mean = parameters[..., :1]
    both, learned, levels = map(layer_of, ("gaussian_pixel_sigma", "gaussian_learned_sigma", "discretised_logistic"))
    log_sigma = np.log(np.asarray(both.sigma(parameters)))
    assert log_sigma.shape == pixels.shape
    binary = pixels.round()
    cases = [
        (layer_of("gaussian_fixed_sigma"), mean, gaussian_log_density(pixels, mean, np.float32(np.log(0.2)))),
        (learned, mean, gaussian_log_density(pixels, mean, np.asarray(learned.log_scale))),
        (both, parameters, gaussian_log_density(pixels, mean, log_sigma)),
        (levels, mean, discretised_logistic_log_density(pixels, mean, np.asarray(levels.log_scale))),
        (layer_of("continuous_bernoulli"), mean, continuous_bernoulli_log_density(pixels, mean)),
    ]
    for layer, outputs, expected in cases:
        found = np.asarray(layer([pixels, outputs]))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=type(layer).__name__)
    found = np.asarray(layer_of("bernoulli")([binary, mean]))
    np.testing.assert_allclose(found, bernoulli_log_density(binary, mean), rtol=1e-4)


def test_sigma_never_falls_below_its_floor() -> None:
    layer = GaussianLearnedSigma()
    layer.build(None)
    layer.log_scale_over_gain.assign(-100.0)
    assert float(layer.sigma(None)) == pytest.approx(SIGMA_FLOOR, rel=1e-5)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_likelihood_knows_which_values_it_is_defined_for(name: str) -> None:
    levels = (np.arange(256, dtype=np.float32) / 255).reshape(1, 16, 16, 1)
    sets = np.concatenate([levels, levels * 0.999, levels.round(), np.full_like(levels, 0.5)])
    expected = {"discretised_logistic": [True, False, True, False], "bernoulli": [False, False, True, False]}
    assert supported(sets, name).tolist() == expected.get(name, [True] * 4)
