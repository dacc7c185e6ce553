"""The negative ELBO, per image, in nats.

For an image x, a posterior q(z given x) and a standard normal prior p(z),

    log p(x)  >=  elbo  =  E_q[log p(x given z)]  -  KL(q(z given x) || p(z))

(Kingma and Welling 2014, "Auto-Encoding Variational Bayes", equation 3). ``distortion`` is minus the first
term, ``rate`` the second, ``nelbo`` their sum. Nothing here averages: sums run over pixels, channels and
latents, and the image axis stays.
"""

import math
from typing import Any

from keras import ops

Tensor = Any

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


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
    # expm1: near a variance of 1 the plain difference loses all its digits, and could fall below 0.
    terms = 0.5 * (ops.square(z_mean) + (ops.expm1(z_log_var) - z_log_var))
    return _sum_per_image(terms)


def gaussian_log_density(pixels: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Log density of each value under N(mean, exp(log_sigma)^2), constant kept; not summed.

        -1/2 ((x - mean) / sigma)^2 - log(sigma) - 1/2 log(2 pi)

    Args:
        pixels, mean: (n, h, w, c).
        log_sigma: natural log of the standard deviation; broadcasts against `pixels`.

    Returns:
        (n, h, w, c) nats a value; positive where sigma < 0.399.

    >>> import numpy as np
    >>> x = np.zeros((1, 1, 1, 1))
    >>> round(float(gaussian_log_density(x, x, 0.0)[0, 0, 0, 0]), 6)
    -0.918939
    """
    residual = (pixels - mean) * ops.exp(-log_sigma)
    return -0.5 * ops.square(residual) - log_sigma - _HALF_LOG_TWO_PI


def gaussian_log_likelihood(pixels: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Log likelihood of an image under N(mean, exp(log_sigma)^2), per image; constant kept.

    Args:
        pixels, mean: (n, h, w, c) of equal shape; mean is the decoder's output.
        log_sigma: natural log of the standard deviation; scalar or broadcasting against `pixels`.

    Returns:
        (n,) nats: a log *density* over [0, 1]-valued pixels, so it may be positive.

    Raises:
        ValueError: `pixels` and `mean` differ in shape (broadcasting would give a wrong number in silence).

    >>> import numpy as np
    >>> x = np.zeros((2, 1, 2, 1))
    >>> [round(float(v), 6) for v in gaussian_log_likelihood(x, x, 0.0)]
    [-1.837877, -1.837877]
    """
    if tuple(pixels.shape) != tuple(mean.shape):
        raise ValueError(f"pixels {tuple(pixels.shape)} and mean {tuple(mean.shape)} must have one shape")
    return _sum_per_image(gaussian_log_density(pixels, mean, log_sigma))


def bits_per_dim(nelbo: Tensor, n_values: int) -> Tensor:
    """Negative ELBO of 8-bit data in bits a value, per image, from a density over [0, 1].

        nelbo / (n_values ln 2) + 8

    The 8 turns the density over [0, 1] into one over grey levels, each 1/256 wide.

    Args:
        nelbo: (n,) nats.
        n_values: h * w * c.

    >>> float(bits_per_dim(0.0, 64))
    8.0
    """
    return nelbo / (n_values * math.log(2)) + 8


def local_nelbo(anomaly_map: Tensor, rate: Tensor) -> Tensor:
    """The negative ELBO spread over the pixels, per image; it sums to the nelbo.

    Latents without a position (1x1) leave the rate no place of its own: each pixel carries an equal share.

    Args:
        anomaly_map: (n, h, w) nats, sums to the distortion.
        rate: (n,) nats.

    Returns:
        (n, h, w) nats a pixel.

    >>> import numpy as np
    >>> local_nelbo(np.zeros((1, 2, 2)), np.array([8.0])).tolist()
    [[[2.0, 2.0], [2.0, 2.0]]]
    """
    _, height, width = anomaly_map.shape
    return anomaly_map + rate[:, None, None] / (height * width)


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


def _sum_per_image(values: Tensor) -> Tensor:
    return ops.sum(values, axis=tuple(range(1, len(values.shape))))
