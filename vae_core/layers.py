"""Layers of our own."""

from typing import Any

import keras
from keras import ops

from vae_core.objective import Tensor, gaussian_log_density


@keras.saving.register_keras_serializable("nelbo")
class Sampling(keras.layers.Layer):
    """z = z_mean + exp(z_log_var / 2) * eps, with fresh standard normal eps for each image and latent.

    Source: Kingma and Welling 2014, section 2.4 (the reparameterisation).

    Args:
        seed: of the noise; None draws one.

    >>> import numpy as np
    >>> z = Sampling(seed=0)([np.zeros((2, 1)), np.zeros((2, 1))])
    >>> bool(z[0, 0] != z[1, 0])
    True
    """

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = seed
        # A generator's state is a variable: a plain integer seed would repeat one draw in a compiled step.
        self.noise = keras.random.SeedGenerator(seed)

    def call(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """(n, ...) draws from the posterior of each image."""
        z_mean, z_log_var = inputs
        eps = keras.random.normal(ops.shape(z_mean), dtype=z_mean.dtype, seed=self.noise)
        return reparameterise(z_mean, z_log_var, eps)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "seed": self.seed}


def reparameterise(z_mean: Tensor, z_log_var: Tensor, eps: Tensor) -> Tensor:
    """z_mean + exp(z_log_var / 2) * eps."""
    return z_mean + ops.exp(0.5 * z_log_var) * eps


@keras.saving.register_keras_serializable("nelbo")
class GaussianLikelihood(keras.layers.Layer):
    """Log density of each pixel value under a Gaussian around the decoder's mean, with one learned sigma.

    The optimum of sigma is the root mean squared error of the reconstruction (Rybkin et al. 2021, "Simple and
    Effective VAE Training with Calibrated Decoders", section 3).
    """

    #: Adam moves a weight by about the learning rate a step, too slow for one that has to fall from 1 to 0.03
    #: on a natural-log scale; the weight is log sigma over this gain.
    GAIN = 10.0

    def build(self, _input_shape: Any) -> None:
        """Make the one weight; sigma starts at 0.37."""
        self.log_sigma_over_gain = self.add_weight(
            name="log_sigma_over_gain", shape=(), initializer=keras.initializers.Constant(-1.0 / self.GAIN)
        )

    @property
    def log_sigma(self) -> Tensor:
        """Scalar: natural log of the standard deviation, in pixel values."""
        return self.GAIN * self.log_sigma_over_gain

    def call(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """(n, h, w, c) nats a value, from pixels and mean."""
        pixels, mean = inputs
        return gaussian_log_density(pixels, mean, self.log_sigma)
