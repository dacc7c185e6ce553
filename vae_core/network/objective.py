"""The negative ELBO, per image, in nats.

For an image x, a posterior q(z given x) and a standard normal prior p(z),

    log p(x)  >=  elbo  =  E_q[log p(x given z)]  -  KL(q(z given x) || p(z))

(Kingma and Welling 2014, "Auto-Encoding Variational Bayes", equation 3). ``distortion`` is minus the first
term, ``rate`` the second, ``nelbo`` their sum. Nothing here averages: sums run over pixels, channels and
latents, and the image axis stays.
"""

import math

import numpy as np
from keras import ops

from nelbo.vae_core.network.likelihoods import Tensor, expm1, sum_per_image


def kl_divergence(z_mean: Tensor, z_log_var: Tensor) -> Tensor:
    """KL divergence of N(z_mean, exp(z_log_var)) from N(0, 1), per image.

        KL = 1/2 sum_j (z_mean_j^2 + exp(z_log_var_j) - 1 - z_log_var_j)

    Args:
        z_mean: (n, ...) posterior mean.
        z_log_var: (n, ...) natural log of the posterior variance.

    Returns:
        (n,) nats, >= 0.

    Source: Kingma and Welling 2014, appendix B (there with the opposite sign).

    >>> import numpy as np
    >>> float(kl_divergence(np.array([[3.0, 4.0]]), np.zeros((1, 2)))[0])
    12.5
    """
    return sum_per_image(kl_per_latent(z_mean, z_log_var))


def kl_per_latent(z_mean: Tensor, z_log_var: Tensor) -> Tensor:
    """The terms of `kl_divergence`, one for each latent: (n, ...) nats, each >= 0."""
    # expm1: near a variance of 1 the plain difference loses all its digits, and could fall below 0.
    return 0.5 * (ops.square(z_mean) + (expm1(z_log_var) - z_log_var))


def rate_map(z_mean: Tensor, z_log_var: Tensor, height: int, width: int) -> Tensor:
    """The rate spread over the pixels, per image; it sums to the rate.

    Each position of the latents lies over a square whose side is a power of two (the last ones over what is left),
    and all its pixels carry equal shares of its divergence. With one position for the whole image each pixel carries
    rate / (height width).

    Args:
        z_mean, z_log_var: (n, zh, zw, c) posterior of a map of latents, zh <= height, zw <= width.
        height, width: pixels.

    Returns:
        (n, height, width) nats a pixel, >= 0.

    >>> import numpy as np
    >>> z_mean = np.array([[[[2.0], [4.0]]]])  # (1, 1, 2, 1): 2 nats on the left, 8 on the right
    >>> np.asarray(rate_map(z_mean, 0 * z_mean, 2, 4)).tolist()
    [[[0.5, 0.5, 2.0, 2.0], [0.5, 0.5, 2.0, 2.0]]]
    """
    rates = ops.sum(kl_per_latent(z_mean, z_log_var), axis=-1)
    _, rows, columns = rates.shape
    return _resampled(rates, _shares(height, rows), _shares(width, columns))


def _shares(n_pixels: int, n_positions: int) -> np.ndarray:
    """(n_pixels, n_positions) share of a position's rate that each pixel of one axis carries; columns sum to 1."""
    # As many halvings as made the positions; each rounded up, so it is the last position that is cut short.
    side = 2 ** math.ceil(math.log2(n_pixels / n_positions))
    position = np.arange(n_pixels) // side
    belongs = position[:, None] == np.arange(n_positions)
    return belongs / belongs.sum(axis=0)


def spread(maps: Tensor, height: int, width: int) -> Tensor:
    """Amounts at a grid of positions spread smoothly over the pixels below it; sums stay, per image.

    Args:
        maps: (n, gh, gw), gh <= height, gw <= width.
        height, width: pixels.

    Returns:
        (n, height, width).

    >>> import numpy as np
    >>> np.asarray(spread(np.array([[[0.0, 8.0]]]), 1, 8))[0, 0].round(2).tolist()
    [0.0, 0.0, 0.25, 0.75, 1.25, 1.75, 2.0, 2.0]
    """
    _, rows, columns = maps.shape
    down, across = (weights / weights.sum(axis=0) for weights in (_between(height, rows), _between(width, columns)))
    return _resampled(maps, down, across)


def enlarge(maps: Tensor, height: int, width: int) -> Tensor:
    """Values at a grid of positions, linearly in between, per image: (n, gh, gw) -> (n, height, width).

    >>> import numpy as np
    >>> np.asarray(enlarge(np.array([[[0.0, 8.0]]]), 1, 8))[0, 0].tolist()
    [0.0, 0.0, 1.0, 3.0, 5.0, 7.0, 8.0, 8.0]
    """
    _, rows, columns = maps.shape
    return _resampled(maps, _between(height, rows), _between(width, columns))


def _between(n_pixels: int, n_positions: int) -> np.ndarray:
    """(n_pixels, n_positions) weights of linear interpolation between the middles of the positions; rows sum to 1."""
    place = (np.arange(n_pixels) + 0.5) * n_positions / n_pixels - 0.5
    place = np.clip(place, 0, n_positions - 1)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(n_positions)))


def _resampled(maps: Tensor, down: np.ndarray, across: np.ndarray) -> Tensor:
    maps = ops.convert_to_tensor(maps)
    return ops.matmul(ops.matmul(ops.cast(down, maps.dtype), maps), ops.cast(across.T, maps.dtype))


def smooth(maps: Tensor, side: int) -> Tensor:
    """Mean over a box of `side` x `side` pixels around each pixel, edges mirrored, per image.

    Args:
        maps: (n, h, w).
        side: odd number of pixels.

    Returns:
        (n, h, w).

    >>> import numpy as np
    >>> np.asarray(smooth(ops.convert_to_tensor(np.eye(3, dtype="float32")[None] * 9), 3))[0, 1].tolist()
    [3.0, 3.0, 3.0]
    """
    margin = side // 2
    padded = ops.pad(maps[..., None], ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="symmetric")
    # This mean is over the box's pixels.
    return ops.average_pool(padded, side, strides=1, padding="valid", data_format="channels_last")[..., 0]
