"""Log likelihoods p(x given z) of image values, in nats; each is a pure function of pixels and parameters.

``*_log_density`` keeps every value apart, (n, h, w, c), and `sum_per_image` adds them up to an image's log likelihood.
Gaussian and continuous Bernoulli are densities over [0, 1], which may exceed 1, so their logs may be positive;
discretised logistic and Bernoulli are probabilities, whose logs are 0 at most. Numbers of different likelihoods cannot
be compared: name the likelihood with each.
"""

import math
from typing import Any

import keras
from keras import ops

Tensor = Any

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
#: Below this half logit the Taylor series of log(sinh(t) / t) is more exact than its closed form in float32.
_SMALL = 0.1


def expm1(x: Tensor) -> Tensor:
    """exp(x) - 1 with all its digits near 0; on TensorFlow made of operations that every engine has: ONNX has no expm1.

        exp(x) - 1 = tanh(x / 2) (exp(x) + 1)

    >>> import numpy as np
    >>> float(expm1(np.float32(1e-6))) == float(np.expm1(np.float32(1e-6)))
    True
    """
    if keras.backend.backend() != "tensorflow":
        # Nothing is exported from other backends, and XLA's tanh on a CPU has only the digits of 32 bits in 64.
        return ops.expm1(x)
    return ops.tanh(0.5 * x) * (ops.exp(x) + 1)


def gaussian_log_density(pixels: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Log density of each value under N(mean, exp(log_sigma)^2), constant kept; not summed.

        -1/2 ((x - mean) / sigma)^2 - log(sigma) - 1/2 log(2 pi)

    Args:
        pixels, mean: (n, h, w, c).
        log_sigma: natural log of the standard deviation; broadcasts against `pixels`: a scalar for a fixed or
            learned global sigma, (n, h, w, c) for a sigma of each value.

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
        ValueError: `pixels` and `mean` differ in shape (broadcasting would silently give a wrong number).

    >>> import numpy as np
    >>> x = np.zeros((2, 1, 2, 1))
    >>> [round(float(v), 6) for v in gaussian_log_likelihood(x, x, 0.0)]
    [-1.837877, -1.837877]
    """
    if tuple(pixels.shape) != tuple(mean.shape):
        raise ValueError(f"pixels {tuple(pixels.shape)} and mean {tuple(mean.shape)} must have one shape")
    return sum_per_image(gaussian_log_density(pixels, mean, log_sigma))


def discretised_logistic_log_density(pixels: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log probability of each 8-bit level under a logistic distribution cut into 256 bins; not summed.

    With F the logistic distribution function of the given mean and scale, and h = 1/510 half a level,

        log(F(x + h) - F(x - h)),    log F(h) for x = 0,    log(1 - F(1 - h)) for x = 1,

    so that the 256 levels share a probability of 1. With a and b the standardised upper and lower edge,
    F(a) - F(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), whose three logs lose no digits in the tails.

    Args:
        pixels, mean: (n, h, w, c); pixels are multiples of 1/255.
        log_scale: natural log of the logistic's scale (standard deviation times sqrt(3) / pi), in [0, 1] units.

    Returns:
        (n, h, w, c) nats a value, <= 0.

    Source: Salimans et al. 2017, "PixelCNN++", equation 2 (there for values in [-1, 1]).

    >>> import numpy as np
    >>> x = np.zeros((1, 1, 1, 1))
    >>> wide = discretised_logistic_log_density(x + 100 / 255, x + 100 / 255, np.log(1 / 255))
    >>> round(float(wide[0, 0, 0, 0]), 6)  # log(tanh(1/4))
    -1.406829
    """
    half = 0.5 / 255
    inverse = ops.exp(-log_scale)
    upper = (pixels - mean + half) * inverse
    lower = (pixels - mean - half) * inverse
    width = 2 * half * inverse
    below = ops.log_sigmoid(upper)
    above = ops.log_sigmoid(-lower)
    between = below + above + ops.log(-expm1(-width))
    return ops.where(pixels < half, below, ops.where(pixels > 1 - half, above, between))


def continuous_bernoulli_log_density(pixels: Tensor, logits: Tensor) -> Tensor:
    """Log density of each value in [0, 1] under a continuous Bernoulli distribution; not summed.

    Its density is proportional to exp(logit x). The integral over [0, 1] is (exp(logit) - 1) / logit, hence

        logit (x - 1/2) - log(sinh(logit / 2) / (logit / 2)).

    Args:
        pixels: (n, h, w, c) in [0, 1].
        logits: (n, h, w, c), the decoder's output; log(lambda / (1 - lambda)) in the paper's symbols.

    Returns:
        (n, h, w, c) nats a value; 0 everywhere for logit 0, the uniform density.

    Source: Loaiza-Ganem and Cunningham 2019, "The continuous Bernoulli", equations 6 to 8.

    >>> import numpy as np
    >>> one = np.ones((1, 1, 1, 1))
    >>> round(float(continuous_bernoulli_log_density(one, 2 * one)[0, 0, 0, 0]), 6)  # log(2 / (1 - exp(-2)))
    0.838561
    """
    return logits * (pixels - 0.5) - _log_sinhc(0.5 * logits)


def continuous_bernoulli_mean(logits: Tensor) -> Tensor:
    """Mean of a continuous Bernoulli distribution, value by value: 1 + 1 / (exp(logit) - 1) - 1 / logit.

    It is not the sigmoid of the logit.

    >>> import numpy as np
    >>> round(float(continuous_bernoulli_mean(np.array(2.0))), 6)
    0.656518
    """
    half = 0.5 * logits
    small = ops.abs(half) < _SMALL
    safe = ops.where(small, ops.ones_like(logits), logits)
    # Half the derivative of the series of log(sinh(t) / t), and the closed form.
    series = 0.5 + 0.5 * half * (1 / 3 - half**2 * (1 / 45 - half**2 * 2 / 945))
    return ops.where(small, series, 1 + 1 / expm1(safe) - 1 / safe)


def bernoulli_log_density(pixels: Tensor, logits: Tensor) -> Tensor:
    """Log probability of each value 0 or 1 under a Bernoulli distribution: x logit - softplus(logit).

    Args:
        pixels: (n, h, w, c), each 0 or 1; for values between, this is not a likelihood.
        logits: (n, h, w, c).

    Returns:
        (n, h, w, c) nats a value, <= 0.

    >>> import numpy as np
    >>> one = np.ones((1, 1, 1, 1))
    >>> round(float(bernoulli_log_density(one, 0 * one)[0, 0, 0, 0]), 6)
    -0.693147
    """
    return pixels * logits - ops.softplus(logits)


def sum_per_image(values: Tensor) -> Tensor:
    """(n,) sums over all axes but the first."""
    return ops.sum(values, axis=tuple(range(1, len(values.shape))))


def _log_sinhc(half: Tensor) -> Tensor:
    """log(sinh(t) / t), even in t, exact near 0 and without overflow far from it."""
    t = ops.abs(half)
    small = t < _SMALL
    # Both branches are differentiated: the one not taken must stay finite.
    safe = ops.where(small, ops.ones_like(t), t)
    # No log1p, which ONNX lacks: from _SMALL on the difference is no less than 0.18, so it keeps its digits.
    closed = safe + ops.log(1 - ops.exp(-2 * safe)) - ops.log(2 * safe)
    series = half**2 * (1 / 6 - half**2 * (1 / 180 - half**2 / 2835))
    return ops.where(small, series, closed)
