"""Layers of our own: sampling, and one likelihood for each name in ``VAEConfig``."""

import math
from typing import Any

import keras
from keras import ops

from nelbo.vae_core.config import SIGMA_FLOOR, VAEConfig
from nelbo.vae_core.network.likelihoods import (
    Tensor,
    bernoulli_log_density,
    continuous_bernoulli_log_density,
    continuous_bernoulli_mean,
    discretised_logistic_log_density,
    gaussian_log_density,
)

#: Adam moves a weight by about the learning rate in each step, too slow for one that has to fall from 1 to 0.03 on a
#: natural-log scale; the weight is log sigma over this gain.
GAIN = 10.0


class Sampling(keras.layers.Layer):
    """z = z_mean + exp(z_log_var / 2) * eps, with fresh standard normal eps for each image and latent.

    Args:
        seed: of the noise; None draws one.
        kwargs: of a Keras layer, such as its name.

    Source: Kingma and Welling 2014, section 2.4 (the reparameterisation).

    >>> import numpy as np
    >>> z = Sampling(seed=0)([np.zeros((2, 1)), np.zeros((2, 1))])
    >>> bool(z[0, 0] != z[1, 0])
    True
    """

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # A generator's state is a variable: a plain integer seed would repeat one draw in a compiled step.
        self.noise = keras.random.SeedGenerator(seed)

    def call(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """(n, ...) draws from the posterior of each image.

        Args:
            inputs: (n, ...) means and logarithms of variances.
        """
        z_mean, z_log_var = inputs
        eps = keras.random.normal(ops.shape(z_mean), dtype=z_mean.dtype, seed=self.noise)
        return reparameterise(z_mean, z_log_var, eps)


def reparameterise(z_mean: Tensor, z_log_var: Tensor, eps: Tensor) -> Tensor:
    """z_mean + exp(z_log_var / 2) * eps."""
    return z_mean + ops.exp(0.5 * z_log_var) * eps


class Likelihood(keras.layers.Layer):
    """p(x given z) as a layer: from [pixels, parameters] to nats a value.

    n_parameters: outputs that the decoder gives for each value.
    has_sigma: whether it has a standard deviation.
    """

    n_parameters = 1
    has_sigma = False

    def __init__(self) -> None:
        super().__init__(name="likelihood")

    def build(self, input_shape: Any) -> None:
        """Most likelihoods have no weights."""

    def mean(self, parameters: Tensor) -> Tensor:
        """(n, h, w, c) expected pixels."""
        return parameters

    def sigma(self, parameters: Tensor) -> Tensor:
        """Standard deviation in [0, 1] units, broadcasting against the pixels."""
        raise NotImplementedError


class _Located(Likelihood):
    """A likelihood around a mean from the decoder.

    Args:
        centre, unit: the decoder's outputs are distances from `centre`, counted in `unit`.
        start: natural log of the standard deviation before training.
    """

    has_sigma = True

    def __init__(self, centre: float = 0.0, unit: float = 1.0, start: float = -1.0) -> None:
        super().__init__()
        self.centre, self.unit, self.start = centre, unit, start

    def mean(self, parameters: Tensor) -> Tensor:
        """(n, h, w, c), from an output for each value."""
        return self.centre + self.unit * parameters


class _Gaussian(_Located):
    def log_sigma(self, parameters: Tensor) -> Tensor:
        """Natural log of the standard deviation, broadcasting against the pixels."""
        raise NotImplementedError

    def sigma(self, parameters: Tensor) -> Tensor:
        return ops.exp(self.log_sigma(parameters))

    def call(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        pixels, parameters = inputs
        return gaussian_log_density(pixels, self.mean(parameters), self.log_sigma(parameters))


class GaussianFixedSigma(_Gaussian):
    """Gaussian around the decoder's mean, with a standard deviation that is given."""

    def __init__(self, sigma: float, centre: float = 0.0, unit: float = 1.0) -> None:
        super().__init__(centre, unit)
        self.given = sigma

    def log_sigma(self, parameters: Tensor) -> Tensor:  # noqa: ARG002
        """Scalar."""
        return ops.convert_to_tensor(math.log(self.given), "float32")


class _LearnedScale(_Located):
    """A likelihood with one learned scale for all values."""

    #: Natural log of the smallest scale.
    FLOOR = math.log(SIGMA_FLOOR)

    def build(self, input_shape: Any) -> None:  # noqa: ARG002
        """Make the one weight."""
        self.log_scale_over_gain = self.add_weight(
            name="log_scale_over_gain", shape=(), initializer=keras.initializers.Constant(self.start / GAIN)
        )

    @property
    def log_scale(self) -> Tensor:
        """Scalar: natural log of the scale, in [0, 1] units."""
        return _above_floor(GAIN * self.log_scale_over_gain, self.FLOOR)


class GaussianLearnedSigma(_LearnedScale, _Gaussian):
    """Gaussian around the decoder's mean, with one learned standard deviation.

    The optimum of sigma is the root mean squared error of the reconstruction (Rybkin et al. 2021, "Simple and
    Effective VAE Training with Calibrated Decoders", section 3).
    """

    def log_sigma(self, parameters: Tensor) -> Tensor:  # noqa: ARG002
        """Scalar."""
        return self.log_scale


class GaussianPixelSigma(_Gaussian):
    """Gaussian whose mean and log standard deviation are both outputs of the decoder, value by value."""

    n_parameters = 2

    def mean(self, parameters: Tensor) -> Tensor:
        """The first half of the channels."""
        # TensorFlow has the gradient of a split as one operation: of slices it takes three times as long.
        return super().mean(ops.split(parameters, 2, axis=-1)[0])

    def log_sigma(self, parameters: Tensor) -> Tensor:
        """(n, h, w, c), from the second half of the channels."""
        return _above_floor(ops.split(parameters, 2, axis=-1)[1] + self.start, math.log(SIGMA_FLOOR))


class GaussianFeatureSigma(GaussianPixelSigma):
    """The same for whitened features, with a sigma between 0.1 and 10, and 1 to begin with.

    Some features are constant on normal images: with a sigma that followed them, one unusual image cost more than all
    others together, and the loss became infinite.
    """

    #: Natural log of the largest sigma, and minus that of the smallest.
    LIMIT = math.log(10)

    def log_sigma(self, parameters: Tensor) -> Tensor:
        """(n, h, w, c), from the second half of the channels."""
        return self.LIMIT * ops.tanh(ops.split(parameters, 2, axis=-1)[1] / self.LIMIT)


class DiscretisedLogistic(_LearnedScale):
    """Logistic distribution over the 256 levels of 8-bit images, with one learned scale."""

    #: Standard deviation of a logistic distribution over its scale.
    WIDTH = math.pi / math.sqrt(3)
    #: A hundredth of a level. A probability cannot reward itself; this only keeps the exponentials finite.
    FLOOR = math.log(0.01 / 255)

    def __init__(self, centre: float = 0.0, unit: float = 1.0, start: float = -1.0) -> None:
        super().__init__(centre, unit, start - math.log(self.WIDTH))

    def call(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """(n, h, w, c) nats a value."""
        pixels, parameters = inputs
        return discretised_logistic_log_density(pixels, self.mean(parameters), self.log_scale)

    def sigma(self, parameters: Tensor) -> Tensor:  # noqa: ARG002
        """Scalar: standard deviation before the levels are cut."""
        return self.WIDTH * ops.exp(self.log_scale)


class ContinuousBernoulli(Likelihood):
    """Continuous Bernoulli distribution; the decoder gives logits."""

    def call(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """(n, h, w, c) nats a value."""
        return continuous_bernoulli_log_density(*inputs)

    def mean(self, parameters: Tensor) -> Tensor:
        """The mean, which is not the sigmoid: that is the paper's lambda."""
        return continuous_bernoulli_mean(parameters)


class Bernoulli(Likelihood):
    """Bernoulli distribution of binarised images; the decoder gives logits."""

    def call(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """(n, h, w, c) nats a value."""
        return bernoulli_log_density(*inputs)

    def mean(self, parameters: Tensor) -> Tensor:
        """Probability of a 1."""
        return ops.sigmoid(parameters)


_LOCATED: dict[str, type[_Located]] = {
    "gaussian_learned_sigma": GaussianLearnedSigma,
    "gaussian_pixel_sigma": GaussianPixelSigma,
    "discretised_logistic": DiscretisedLogistic,
}
_LOGITS: dict[str, type[Likelihood]] = {"continuous_bernoulli": ContinuousBernoulli, "bernoulli": Bernoulli}


def make_likelihood(config: VAEConfig) -> Likelihood:
    """The layer of a configuration's likelihood."""
    name = config.likelihood
    if name in _LOGITS:
        return _LOGITS[name]()
    centre, unit = config.pixel_mean or 0.0, config.pixel_std or 1.0
    if config.sigma is not None:
        return GaussianFixedSigma(config.sigma, centre, unit)
    if not config.is_pixels:
        # Whitened features have a standard deviation of 1.
        return GaussianFeatureSigma() if name == "gaussian_pixel_sigma" else _LOCATED[name](start=0.0)
    # The error of an untrained decoder; 0.37 in models of version 0.1.
    start = -1.0 if config.pixel_std is None else math.log(config.pixel_std)
    return _LOCATED[name](centre, unit, start)


def _above_floor(log_scale: Tensor, floor: float) -> Tensor:
    """Nearly `log_scale` far above the floor, and never below it, with a gradient everywhere.

    Source: the soft clipping of Rybkin et al. 2021, appendix (their code's ``softclip``).
    """
    return floor + ops.softplus(log_scale - floor)
