"""The variational autoencoder as a Keras model."""

from typing import Any

import keras
from keras import ops

from vae_core.architecture import build_decoder, build_encoder
from vae_core.config import VAEConfig
from vae_core.layers import GaussianLikelihood, Sampling, reparameterise
from vae_core.objective import Tensor, kl_divergence


class VAE(keras.Model):
    """Encoder, sampling, decoder and likelihood; its training loss is the mean nelbo of the batch.

    Args:
        config: sizes and preset.
        seed: of the initial weights and of the sampling noise in training.
    """

    def __init__(self, config: VAEConfig, seed: int = 0) -> None:
        super().__init__(name="vae")
        self.config = config
        self.encoder = build_encoder(config, seed)
        self.decoder = build_decoder(config, seed)
        self.sampling = Sampling(seed, name="sampling")
        self.likelihood = GaussianLikelihood(name="likelihood")
        self.trackers = [keras.metrics.Mean(name) for name in ("nelbo", "distortion", "rate")]
        shape = (None, config.height, config.width, config.channels)
        self.likelihood.build([shape, shape])
        self.build(shape)

    def build(self, _input_shape: Any) -> None:
        """All layers have their weights when the model is made."""
        self.built = True

    def call(self, pixels: Tensor) -> dict[str, Tensor]:
        """Distortion and rate, each (n,) nats, from one draw of fresh noise."""
        z_mean, z_log_var = self.encoder(pixels)
        mean = self.decoder(self.sampling([z_mean, z_log_var]))
        log_density = self.likelihood([pixels, mean])
        return {
            "distortion": -ops.sum(log_density, axis=(1, 2, 3)),
            "rate": kl_divergence(z_mean, z_log_var),
        }

    def compute_loss(
        self,
        x: Any = None,  # noqa: ARG002 - Keras names them
        y: Any = None,  # noqa: ARG002
        y_pred: Any = None,
        sample_weight: Any = None,  # noqa: ARG002
        training: bool = True,  # noqa: ARG002
    ) -> Tensor:
        """Scalar: mean nelbo over the images of the batch, the one mean over images."""
        distortion, rate = y_pred["distortion"], y_pred["rate"]
        for tracker, values in zip(self.trackers, (distortion + rate, distortion, rate), strict=True):
            tracker.update_state(values)
        return ops.mean(distortion + rate)

    def evaluate_draws(self, pixels: Tensor, eps: Tensor) -> dict[str, Tensor]:
        """What scoring needs, with the noise given instead of drawn.

        Args:
            pixels: (n, h, w, c).
            eps: (s, 1, 1, latents) standard normal draws, shared by all images.

        Returns:
            ``anomaly_map`` (n, h, w) nats and ``reconstruction`` (n, h, w, c), both means over the draws;
            ``rate`` (n,) nats; ``z_mean`` and ``z_log_var`` (n, 1, 1, latents).
        """
        z_mean, z_log_var = self.encoder(pixels)
        anomaly_map = reconstruction = 0.0
        n_draws = eps.shape[0]
        for draw in range(n_draws):
            mean = self.decoder(reparameterise(z_mean, z_log_var, eps[draw]))
            anomaly_map -= ops.sum(self.likelihood([pixels, mean]), axis=-1)
            reconstruction += mean
        return {
            "anomaly_map": anomaly_map / n_draws,
            "reconstruction": reconstruction / n_draws,
            "rate": kl_divergence(z_mean, z_log_var),
            "z_mean": z_mean,
            "z_log_var": z_log_var,
        }
