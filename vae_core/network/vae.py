"""The variational autoencoder as a Keras model."""

from typing import Any

import keras
from keras import ops

from nelbo.vae_core.config import TrainConfig, VAEConfig
from nelbo.vae_core.device import keep_freed_memory
from nelbo.vae_core.network.architecture import build_decoder, build_encoder, value_shape
from nelbo.vae_core.network.layers import Sampling, make_likelihood, reparameterise
from nelbo.vae_core.network.likelihoods import Tensor, sum_per_image
from nelbo.vae_core.network.objective import kl_divergence, kl_per_latent, rate_map


class VAE(keras.Model):
    """Encoder, sampling, decoder and likelihood; its training loss is the mean nelbo unless told otherwise.

    Pixels are, in the preset ``features``, the whitened features in their place: (n, gh, gw, channels).

    Args:
        config: sizes, preset and likelihood.
        seed: of the initial weights, and of the sampling noise where none is given.
        objective: what training adds to the nelbo: beta, free_bits, latent_l2 and precision are read.
    """

    def __init__(self, config: VAEConfig, seed: int = 0, objective: TrainConfig | None = None) -> None:
        super().__init__(name="vae")
        keep_freed_memory()
        self.config = config
        self.objective = objective or TrainConfig()
        #: Shape of one image, or of one map of features.
        self.value_shape = value_shape(config)
        self.likelihood = make_likelihood(config)
        precision = self.objective.arithmetic
        self.encoder = build_encoder(config, seed, precision)
        self.decoder = build_decoder(config, self.value_shape[-1] * self.likelihood.n_parameters, seed, precision)
        self.sampling = Sampling(seed, name="sampling")
        # Noise is usually given and the layer not called; unbuilt, it would make Keras fetch a batch to build it with.
        self.sampling.built = True
        #: Weight of the rate in the loss: beta, once warm-up is over.
        self.rate_weight = self.add_weight(
            name="rate_weight", shape=(), initializer=keras.initializers.Constant(self.objective.beta), trainable=False
        )
        tracked = ["objective", "nelbo", "distortion", "rate", "finite"] + ["sigma"] * self.likelihood.has_sigma
        self.trackers = {name: keras.metrics.Mean(name) for name in tracked}
        shape = (None, *self.value_shape)
        self.likelihood.build([shape, shape])
        self.build(shape)

    def build(self, _input_shape: Any) -> None:
        """All layers have their weights when the model is made."""
        self.built = True

    def call(self, inputs: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
        """What the loss is made of, per image.

        Args:
            inputs: pixels (n, h, w, c); or a dict of ``pixels`` and, where wanted, ``eps`` (n, zh, zw, latents) for
                noise that is given instead of drawn, and ``seen`` (n, h, w, c) for what the encoder sees instead
                of the pixels.

        Returns:
            ``distortion`` and ``rate`` (n,) nats; ``rate_per_channel`` (n, latents), which sums to the rate; and
            ``sigma`` (n,), the mean over the values, where the likelihood has one.
        """
        given = inputs if isinstance(inputs, dict) else {"pixels": inputs}
        pixels = given["pixels"]
        z_mean, z_log_var = self.encoder(given.get("seen", pixels))
        z = reparameterise(z_mean, z_log_var, given["eps"]) if "eps" in given else self.sampling([z_mean, z_log_var])
        parameters = self.decoder(z)
        rates = kl_per_latent(z_mean, z_log_var)
        parts = {
            "distortion": -sum_per_image(self.likelihood([pixels, parameters])),
            "rate": sum_per_image(rates),
            "rate_per_channel": ops.sum(rates, axis=(1, 2)),
        }
        if self.likelihood.has_sigma:
            # A mean over the values of an image, for people to look at; it is in no objective.
            parts["sigma"] = ops.mean(self.likelihood.sigma(parameters) + ops.zeros_like(pixels), axis=(1, 2, 3))
        return parts

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,  # noqa: ARG002 - Keras names them
        y_pred: Any = None,
        sample_weight: Any = None,  # noqa: ARG002
        training: bool = True,  # noqa: ARG002
    ) -> Tensor:
        """Scalar: mean of `losses_per_image` over the images of the batch.

        ``x["weight"]``, (n,), is each image's share in that mean; it is fed with the batch, so that the parts of a
        batch on several devices add up to the loss of the whole, without the padding.
        """
        shares = x["weight"] if isinstance(x, dict) and "weight" in x else None
        if shares is None:
            shares = ops.ones_like(y_pred["rate"]) / ops.shape(y_pred["rate"])[0]
        losses = self.losses_per_image(y_pred)
        loss = ops.sum(shares * losses)
        parts = y_pred | {"nelbo": y_pred["distortion"] + y_pred["rate"], "objective": losses}
        # Padding has no share; among the others every image counts once, whatever its batch's size.
        images = ops.cast(shares > 0, "float32")
        for name, tracker in self.trackers.items():
            if name in parts:
                tracker.update_state(parts[name], sample_weight=images)
        # How far from the epoch's start the first non-finite loss was: all later ones are not finite, either.
        self.trackers["finite"].update_state(ops.cast(ops.isfinite(loss), "float32"))
        return loss

    def losses_per_image(self, parts: dict[str, Tensor]) -> Tensor:
        """(n,) losses whose mean training minimises: distortion + weight x rate, and the penalty on the weights."""
        rate = parts["rate"]
        if self.objective.free_bits:
            rate = ops.sum(ops.maximum(parts["rate_per_channel"], self.objective.free_bits), axis=1)
        losses = parts["distortion"] + self.rate_weight * rate
        if self.objective.latent_l2:
            kernels = (self.encoder.get_layer(name).kernel for name in ("z_mean", "z_log_var"))
            losses += self.objective.latent_l2 * sum(ops.sum(ops.square(kernel)) for kernel in kernels)
        return losses

    def evaluate_draws(self, pixels: Tensor, eps: Tensor) -> dict[str, Tensor]:
        """What scoring needs, with the noise given instead of drawn.

        Args:
            pixels: (n, h, w, c), or features.
            eps: (s, zh, zw, latents) standard normal draws, shared by all images.

        Returns:
            ``anomaly_map`` (n, h, w) nats and ``reconstruction`` (n, h, w, c), both means over the draws;
            ``rate`` (n,) and ``rate_map`` (n, h, w) nats; ``z_mean`` and ``z_log_var`` (n, zh, zw, latents).
        """
        z_mean, z_log_var = self.encoder(pixels)
        eps = ops.convert_to_tensor(eps)
        anomaly_map = reconstruction = 0.0
        n_draws = eps.shape[0]
        for draw in range(n_draws):
            parameters = self.decoder(reparameterise(z_mean, z_log_var, eps[draw]))
            anomaly_map -= ops.sum(self.likelihood([pixels, parameters]), axis=-1)
            reconstruction += self.likelihood.mean(parameters)
        return {
            "anomaly_map": anomaly_map / n_draws,
            "reconstruction": reconstruction / n_draws,
            "rate": kl_divergence(z_mean, z_log_var),
            "rate_map": rate_map(z_mean, z_log_var, *self.value_shape[:2]),
            "z_mean": z_mean,
            "z_log_var": z_log_var,
        }

    def log_weights(self, pixels: Tensor, eps: Tensor) -> Tensor:
        """log p(x given z) + log p(z) - log q(z given x) of draws from the posterior.

        Args:
            pixels: (n, h, w, c).
            eps: (s, zh, zw, latents) standard normal draws, shared by all images.

        Returns:
            (s, n) nats.

        Source: Burda et al. 2016, "Importance weighted autoencoders", equation 8.
        """
        z_mean, z_log_var = self.encoder(pixels)
        z = reparameterise(z_mean, z_log_var, eps[:, None])
        n_draws, n = ops.shape(z)[:2]
        parameters = self.decoder(ops.reshape(z, (n_draws * n, *z.shape[2:])))
        repeated = ops.tile(pixels, (n_draws, 1, 1, 1))
        log_likelihood = ops.reshape(sum_per_image(self.likelihood([repeated, parameters])), (n_draws, n))
        # The constants of the two normal densities cancel.
        log_ratio = 0.5 * (ops.square(eps[:, None]) + z_log_var - ops.square(z))
        return log_likelihood + ops.sum(log_ratio, axis=(2, 3, 4))
