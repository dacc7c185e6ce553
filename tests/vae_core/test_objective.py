"""Numbers by hand, and a model whose exact answer is known: probabilistic PCA."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import ops
from scipy.ndimage import uniform_filter
from scipy.stats import multivariate_normal

from vae_core import bits_per_dim, gaussian_log_likelihood, kl_divergence, local_nelbo
from vae_core.objective import smooth


def test_kl_by_hand() -> None:
    zeros = np.zeros((1, 2))
    assert float(kl_divergence(np.array([[3.0, 4.0]]), zeros)[0]) == 12.5
    one_wide = float(kl_divergence(zeros[:, :1], np.full((1, 1), math.log(4)))[0])
    assert one_wide == pytest.approx(0.80685282, abs=1e-8)
    assert float(kl_divergence(zeros, zeros)[0]) == 0


def test_kl_sums_over_latents_and_keeps_images() -> None:
    z_mean = np.arange(24.0).reshape(2, 1, 3, 4)
    expected = [0.5 * sum(i * i for i in range(12)), 0.5 * sum(i * i for i in range(12, 24))]
    np.testing.assert_allclose(kl_divergence(z_mean, np.zeros_like(z_mean)), expected)


finite = st.floats(-20, 20, width=32)


@given(arrays(np.float32, (3, 4), elements=finite), arrays(np.float32, (3, 4), elements=finite))
def test_kl_is_never_negative(z_mean: np.ndarray, z_log_var: np.ndarray) -> None:
    values = np.asarray(kl_divergence(z_mean, z_log_var))
    assert values.shape == (3,)
    assert (values >= 0).all()


def test_gaussian_by_hand() -> None:
    x = np.zeros((1, 1, 1, 1))
    sigma_one, sigma_e = np.zeros(()), np.ones(())
    assert float(gaussian_log_likelihood(x, x, sigma_one)[0]) == pytest.approx(-0.9189385332, abs=1e-10)
    # Two sigma away costs 2 nats; a sigma of e costs one.
    assert float(gaussian_log_likelihood(x, x + 2, sigma_one)[0]) == pytest.approx(-2.9189385332, abs=1e-10)
    assert float(gaussian_log_likelihood(x, x, sigma_e)[0]) == pytest.approx(-1.9189385332, abs=1e-10)


def test_gaussian_sums_over_pixels_and_channels() -> None:
    x = np.zeros((2, 5, 4, 3))
    np.testing.assert_allclose(gaussian_log_likelihood(x, x, np.zeros(())), [-60 * 0.9189385332] * 2, rtol=1e-9)


def test_gaussian_refuses_to_broadcast() -> None:
    with pytest.raises(ValueError, match="one shape"):
        gaussian_log_likelihood(np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4, 3)), 0.0)


def test_bits_per_dim_of_noise_is_eight() -> None:
    # A uniform density over [0, 1] has 0 nats a value: 256 equally likely grey levels.
    assert float(bits_per_dim(np.array(0.0), 784)) == 8
    assert float(bits_per_dim(np.array(-784 * math.log(2)), 784)) == pytest.approx(7)


class PPCA:
    """x = W z + mean + sigma noise, z standard normal: log p(x) and the posterior are known exactly.

    Source: Tipping and Bishop 1999, "Probabilistic principal component analysis", equations 3 to 8.
    """

    def __init__(self, random: np.random.Generator, side: int = 3, latents: int = 2) -> None:
        self.side, n = side, side * side
        self.w = random.normal(size=(n, latents))
        self.mean = random.normal(size=n)
        self.sigma = 0.3
        x = random.normal(size=(4, latents)) @ self.w.T + self.mean + self.sigma * random.normal(size=(4, n))
        self.x = x
        covariance = self.w @ self.w.T + self.sigma**2 * np.eye(n)
        self.log_p = multivariate_normal(self.mean, covariance).logpdf(x)
        m = self.w.T @ self.w + self.sigma**2 * np.eye(latents)
        self.posterior_mean = (x - self.mean) @ self.w @ np.linalg.inv(m)
        self.posterior_covariance = self.sigma**2 * np.linalg.inv(m)

    def elbo(self, z_mean: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """ELBO by our functions, in the basis in which the exact posterior has a diagonal covariance.

        The expectation over z is exact: a Gaussian's second moment is hit by plus and minus one standard
        deviation times the root of the number of latents, along each axis.
        """
        variances, basis = np.linalg.eigh(self.posterior_covariance)
        variances = variances * scale
        rotated = z_mean @ basis
        k = len(variances)
        steps = np.vstack([np.diag(np.sqrt(k * variances)), -np.diag(np.sqrt(k * variances))])
        draws = [(rotated + step) @ (self.w @ basis).T + self.mean for step in steps]
        shape = (len(self.x), self.side, self.side, 1)
        pixels = self.x.reshape(shape)
        log_sigma = np.log(np.array(self.sigma))
        likelihoods = [np.asarray(gaussian_log_likelihood(pixels, mean.reshape(shape), log_sigma)) for mean in draws]
        z_log_var = np.broadcast_to(np.log(variances), rotated.shape)
        return np.mean(likelihoods, axis=0) - np.asarray(kl_divergence(rotated, z_log_var))


def test_elbo_of_the_exact_posterior_is_log_p(random: np.random.Generator) -> None:
    model = PPCA(random)
    np.testing.assert_allclose(model.elbo(model.posterior_mean), model.log_p, rtol=1e-12)


@pytest.mark.parametrize(("shift", "scale"), [(0.1, 1.0), (0.0, 1.3), (0.0, 0.7)])
def test_elbo_of_a_wrong_posterior_is_less(random: np.random.Generator, shift: float, scale: float) -> None:
    model = PPCA(random)
    assert (model.elbo(model.posterior_mean + shift, scale) < model.log_p - 1e-3).all()


def test_local_nelbo_adds_up(random: np.random.Generator) -> None:
    anomaly_map, rate = random.normal(size=(3, 5, 4)), random.random(3)
    local = np.asarray(local_nelbo(anomaly_map, rate))
    np.testing.assert_allclose(local.sum((1, 2)), anomaly_map.sum((1, 2)) + rate)


@pytest.mark.parametrize("side", [1, 3, 5])
def test_smoothing_is_a_box_with_reflected_edges(random: np.random.Generator, side: int) -> None:
    maps = random.normal(size=(2, 9, 7)).astype(np.float32)
    expected = uniform_filter(maps, (0, side, side), mode="reflect")
    np.testing.assert_allclose(smooth(ops.convert_to_tensor(maps), side), expected, atol=1e-5)
