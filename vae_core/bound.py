"""A tighter bound on log p(x): the importance-weighted one."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from nelbo.vae_core.model import Model
from nelbo.vae_core.network.architecture import latent_shape
from nelbo.vae_core.scorer import LogWeights
from nelbo.vae_core.scoring import Array, check_finite, check_pixels, default_batch_size, padded

#: Images at a time; few, so that many of their draws are decoded together.
_IMAGES = 8
#: Decoded values held at a time: images x draws x pixel values.
_CHUNK_VALUES = 2**22


class Bound(NamedTuple):
    """A bound for each image.

    value: (n,) nats, higher = more likely; in expectation between the elbo and log p(x).
    standard_error: (n,) nats, of the Monte-Carlo estimate; NaN for a single draw, which says nothing of its spread.
    """

    value: NDArray[np.float64]
    standard_error: NDArray[np.float64]


def importance_weighted_bound(model: Model, pixels: Array, n_samples: int = 1000, *, seed: int = 0) -> Bound:
    """Importance-weighted lower bound on log p(x), per image.

        log 1/K sum_k p(x, z_k) / q(z_k given x),    z_k drawn from q(z given x)

    In expectation it rises with K from the elbo (K = 1) towards log p(x). Draws are decoded in chunks, so any K
    fits in memory; they come from the seed and are shared by all images, so that an image's bound does not depend
    on its neighbours.

    Args:
        model: a trained model.
        pixels: (n, h, w, c) float32 in [0, 1], preprocessed as the model says.
        n_samples: K.
        seed: of the draws.

    Returns:
        (n,) nats, and the Monte-Carlo standard error of each. With few draws both are too small where the
        posterior fits badly: the draws that matter have not been seen.

    Raises:
        ValueError: wrong shape, pixels that the likelihood is not defined for, `n_samples` below 1.
        FloatingPointError: a bound is NaN or infinite.

    Source: Burda et al. 2016, "Importance weighted autoencoders", equation 8.

    >>> from nelbo.vae_core import Model, VAEConfig
    >>> from nelbo.vae_core.network.vae import VAE
    >>> from nelbo.vae_core.model import draw_eps
    >>> config, ones = VAEConfig(height=16, width=16), np.ones((16, 16), np.float32)
    >>> untrained = Model(config, VAE(config), draw_eps(config, seed=0), 0 * ones, ones, {})
    >>> bound = importance_weighted_bound(untrained, np.zeros((2, 16, 16, 1), np.float32), n_samples=50)
    >>> bound.value.shape, bool((bound.standard_error > 0).all())
    ((2,), True)
    """
    if n_samples < 1:
        raise ValueError(f"n_samples={n_samples}: expected 1 or more")
    check_pixels(model.config, pixels)
    size = min(_IMAGES, default_batch_size(model.config))
    chunk = max(1, min(n_samples, _CHUNK_VALUES // (size * int(np.prod(pixels.shape[1:])))))
    log_weights = model.log_weights()
    bounds = []
    for start in range(0, len(pixels), size):
        batch = pixels[start : start + size]
        random = np.random.default_rng(seed)
        logs = []
        for _ in range(0, n_samples, chunk):
            eps = random.standard_normal((chunk, *latent_shape(model.config))).astype(np.float32)
            logs.append(_evaluate(log_weights, batch, eps, size))
        bounds.append(_bound(np.concatenate(logs, axis=1)[:, :n_samples]))
    if not bounds:
        return Bound(np.empty(0), np.empty(0))
    bound = Bound(*(np.concatenate(column) for column in zip(*bounds, strict=True)))
    check_finite("the bound", bound.value)
    return bound


def _bound(logs: NDArray[np.float64]) -> Bound:
    """The bound of (n, draws) log weights; by the delta method its error is that of the mean weight, over the mean."""
    n = logs.shape[1]
    value = logsumexp(logs, axis=1) - np.log(n)
    # Relative to their mean, so that none overflows.
    weights = np.exp(logs - value[:, None])
    return Bound(value, weights.std(axis=1, ddof=1) / np.sqrt(n) if n > 1 else np.full_like(value, np.nan))


def _evaluate(log_weights: LogWeights, batch: Array, eps: Array, size: int) -> NDArray[np.float64]:
    """(n, draws) nats, from one call of fixed shape."""
    given = {"pixels": padded(batch, size), "eps": np.broadcast_to(eps, (1, *eps.shape))}
    return np.asarray(log_weights.predict_on_batch(given), np.float64)[: len(batch)]
