"""The objective: known values, and a model with an exact solution, probabilistic PCA."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import ops
from scipy.ndimage import uniform_filter
from scipy.stats import multivariate_normal

from nelbo.vae_core import bits_per_dim, gaussian_log_likelihood, kl_divergence, rate_map
from nelbo.vae_core.network.objective import smooth


def test_the_kl_divergence_has_known_values() -> None:
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


def test_bits_per_dim_of_noise_is_eight() -> None:
    # A uniform density over [0, 1] has 0 nats a value, as do 256 equally likely grey levels.
    assert float(bits_per_dim(np.array(0.0), 784)) == 8
    assert float(bits_per_dim(np.array(-784 * math.log(2)), 784)) == pytest.approx(7)
    # A probability already counts the levels.
    assert float(bits_per_dim(np.array(784 * math.log(256)), 784, density=False)) == pytest.approx(8)


class PPCA:
    """x = W z + mean + sigma noise with standard normal z: log p(x) and the posterior are known exactly.

    With a sigma for each value the model is factor analysis, of which probabilistic PCA is a special case.

    Source: Tipping and Bishop 1999, "Probabilistic principal component analysis", equations 3 to 8, and section 2.1
    for factor analysis.
    """

    def __init__(
        self, random: np.random.Generator, side: int = 3, latents: int = 2, sigma_of_each: bool = False
    ) -> None:
        self.side, n = side, side * side
        self.w = random.normal(size=(n, latents))
        self.mean = random.normal(size=n)
        self.sigma = random.uniform(0.1, 0.6, n) if sigma_of_each else np.full(n, 0.3)
        x = random.normal(size=(4, latents)) @ self.w.T + self.mean + self.sigma * random.normal(size=(4, n))
        self.x = x
        covariance = self.w @ self.w.T + np.diag(self.sigma**2)
        self.log_p = multivariate_normal(self.mean, covariance).logpdf(x)
        weighted = self.w / self.sigma[:, None] ** 2
        self.posterior_covariance = np.linalg.inv(np.eye(latents) + self.w.T @ weighted)
        self.posterior_mean = (x - self.mean) @ weighted @ self.posterior_covariance

    def elbo(self, z_mean: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """ELBO by nelbo's functions, in the basis in which the exact posterior has a diagonal covariance.

        The expectation over z is exact: points at plus and minus one standard deviation times the root of the number
        of latents, along each axis, have the Gaussian's second moments.
        """
        variances, basis = np.linalg.eigh(self.posterior_covariance)
        variances = variances * scale
        rotated = z_mean @ basis
        k = len(variances)
        steps = np.vstack([np.diag(np.sqrt(k * variances)), -np.diag(np.sqrt(k * variances))])
        draws = [(rotated + step) @ (self.w @ basis).T + self.mean for step in steps]
        shape = (len(self.x), self.side, self.side, 1)
        pixels = self.x.reshape(shape)
        log_sigma = np.log(self.sigma).reshape(1, self.side, self.side, 1)
        likelihoods = [np.asarray(gaussian_log_likelihood(pixels, mean.reshape(shape), log_sigma)) for mean in draws]
        z_log_var = np.broadcast_to(np.log(variances), rotated.shape)
        return np.mean(likelihoods, axis=0) - np.asarray(kl_divergence(rotated, z_log_var))


@pytest.mark.parametrize("sigma_of_each", [False, True])
def test_elbo_of_the_exact_posterior_is_log_p(random: np.random.Generator, sigma_of_each: bool) -> None:
    model = PPCA(random, sigma_of_each=sigma_of_each)
    np.testing.assert_allclose(model.elbo(model.posterior_mean), model.log_p, rtol=1e-12)


@pytest.mark.parametrize(("shift", "scale"), [(0.1, 1.0), (0.0, 1.3), (0.0, 0.7)])
def test_elbo_of_a_wrong_posterior_is_less(random: np.random.Generator, shift: float, scale: float) -> None:
    model = PPCA(random)
    assert (model.elbo(model.posterior_mean + shift, scale) < model.log_p - 1e-3).all()


@pytest.mark.parametrize(
    ("positions", "size"), [((1, 1), (5, 4)), ((2, 3), (4, 9)), ((3, 2), (17, 5)), ((4, 4), (4, 4))]
)
def test_rate_map_adds_up_and_keeps_its_place(
    random: np.random.Generator, positions: tuple[int, int], size: tuple[int, int]
) -> None:
    z_mean, z_log_var = random.normal(size=(2, 3, *positions, 6))
    spread = np.asarray(rate_map(z_mean, z_log_var, *size))
    np.testing.assert_allclose(spread.sum((1, 2)), kl_divergence(z_mean, z_log_var))
    assert (spread >= 0).all()
    # If all the rate is in the last position, it lies in the lower right corner: 6 latents with half a nat each.
    z_mean, z_log_var = np.zeros_like(z_mean), np.zeros_like(z_log_var)
    z_mean[:, -1, -1] = 1
    spread = np.asarray(rate_map(z_mean, z_log_var, *size))
    # The first pixel of the last position, after whole squares.
    row, column = (
        {1: {5: 0, 4: 0}, 2: {4: 2, 5: 4}, 3: {9: 8, 17: 16}, 4: {4: 3}}[k][n]
        for k, n in zip(positions, size, strict=True)
    )
    np.testing.assert_allclose(spread[:, row:, column:].sum((1, 2)), 3)
    assert (spread[:, row, column] > 0).all()
    assert (spread[:, -1, -1] > 0).all()


@pytest.mark.parametrize("side", [1, 3, 5])
def test_smoothing_is_a_box_with_reflected_edges(random: np.random.Generator, side: int) -> None:
    maps = random.normal(size=(2, 9, 7)).astype(np.float32)
    expected = uniform_filter(maps, (0, side, side), mode="reflect")
    np.testing.assert_allclose(smooth(ops.convert_to_tensor(maps), side), expected, atol=1e-5)
