"""The linear VAE as Keras models: what a solution of `nelbo.vae_core.linear.moments` says of an image."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from nelbo.vae_core.config import ALIGNED, LINEAR_IMAGE
from nelbo.vae_core.linear.moments import Solution
from nelbo.vae_core.linear.variants import ALLOWED_Z, N_COMPONENTS, Variants, numbered_names
from nelbo.vae_core.network.likelihoods import Tensor, gaussian_log_density
from nelbo.vae_core.network.objective import kl_divergence, kl_per_latent

#: Arguments of weights that come from a solution, and not from training.
_ASSIGNED: Any = {"initializer": "zeros", "trainable": False}


class Whitening(keras.Model):
    """(n, gh, gw, c) features -> (n, gh, gw, c) whitened ones.

    Args:
        shape: (gh, gw, c).
    """

    def __init__(self, shape: tuple[int, int, int], name: str = "whitening") -> None:
        super().__init__(name=name)
        height, width, channels = shape
        self.shape = shape
        self.centre = self.add_weight(name="centre", shape=(height * width, channels), **_ASSIGNED)
        self.matrix = self.add_weight(name="matrix", shape=(channels, channels), **_ASSIGNED)
        self.built = True

    def call(self, features: Tensor) -> Tensor:
        """Whitened features."""
        centred = features - ops.reshape(self.centre, self.shape)
        return ops.matmul(centred, ops.transpose(self.matrix))

    def assign(self, solution: Solution) -> None:
        """Take the means and the matrix of a solution."""
        self.centre.assign(solution.centre)
        self.matrix.assign(solution.whitening)


def blocks_of(head: str | None, subject: str | None) -> str:
    """What shares a covariance: "positions" each has its own, "shared" all have one, "image" all are modelled as one.

    >>> blocks_of("linear", "free"), blocks_of("linear_image", None)
    ('shared', 'image')
    """
    if head == LINEAR_IMAGE:
        return "image"
    return "positions" if subject == ALIGNED else "shared"


class LinearVAE(keras.Model):
    """Linear encoder and decoder with the exact posterior: the negative ELBO is -log p, without noise.

    For whitened features u of a block, N(m, V) the posterior of its latents, W its decoder, s its noise variance:

        distortion = -log N(u; W m, s) + tr(W V W^T) / (2 s)        rate = KL(N(m, V), N(0, 1))

    and their sum is exactly -log N(u; 0, W W^T + s). The latents' axes are eigenvectors, so V is diagonal.

    Args:
        shape: (gh, gw, c) of the features.
        n_latents: of a block.
        blocks: "positions", each with its own covariance; "shared", one for all of them; "image", all together.
    """

    def __init__(
        self, shape: tuple[int, int, int], n_latents: int, blocks: str = "positions", name: str = "linear_vae"
    ) -> None:
        super().__init__(name=name)
        height, width, channels = shape
        self.value_shape = shape
        self.whole = blocks == "image"
        n_positions = height * width
        n_blocks = n_positions if blocks == "positions" else 1
        n_features = n_positions * channels if self.whole else channels
        self.directions = self.add_weight(name="directions", shape=(n_blocks, n_features, n_latents), **_ASSIGNED)
        self.variances = self.add_weight(name="variances", shape=(n_blocks, n_latents), **_ASSIGNED)
        self.noise = self.add_weight(name="noise", shape=(n_blocks,), **_ASSIGNED)
        self.built = True

    def assign(self, solution: Solution) -> None:
        """Take a solution's values."""
        self.directions.assign(solution.directions)
        self.variances.assign(solution.variances)
        self.noise.assign(solution.noise)

    def evaluate(self, values: Tensor) -> dict[str, Tensor]:
        """What scoring needs; exact.

        Args:
            values: (n, gh, gw, c) whitened features.

        Returns:
            ``anomaly_map`` and ``rate_map`` (n, gh, gw) nats a position; ``rate`` (n,) nats; ``z_mean`` and
            ``z_log_var`` (n, zh, zw, q).
        """
        height, width, channels = self.value_shape
        rows = self._rows(values)
        z_mean, z_log_var = self._posterior(rows)
        decoded = self._decoded(z_mean)
        log_sigma = 0.5 * ops.log(self.noise)[:, None]
        nats = -gaussian_log_density(rows, decoded, log_sigma)
        # What the posterior's spread adds to the squared error of each feature: tr(W V W^T) / (2 s) in all.
        shrunk = 1 - self.noise[:, None] / self.variances
        nats = nats + 0.5 * ops.sum(ops.square(self.directions) * shrunk[:, None, :], axis=-1)
        anomaly_map = ops.sum(ops.reshape(nats, (-1, height, width, channels)), axis=-1)
        z_shape = (-1, 1, 1, z_mean.shape[-1]) if self.whole else (-1, height, width, z_mean.shape[-1])
        z_mean, z_log_var = ops.reshape(z_mean, z_shape), ops.reshape(z_log_var, z_shape)
        rate = kl_divergence(z_mean, z_log_var)
        if self.whole:
            # No position has more to do with the image's latents than another.
            rate_map = ops.ones_like(anomaly_map) * rate[:, None, None] / (height * width)
        else:
            rate_map = ops.sum(kl_per_latent(z_mean, z_log_var), axis=-1)
        return {
            "anomaly_map": anomaly_map,
            "rate": rate,
            "rate_map": rate_map,
            "z_mean": z_mean,
            "z_log_var": z_log_var,
        }

    def log_weights(self, values: Tensor, eps: Tensor) -> Tensor:
        """log p(u given z) + log p(z) - log q(z given u) of draws from the posterior; each is log p(u).

        Args:
            values: (n, gh, gw, c) whitened features.
            eps: (s, zh, zw, q) standard normal draws, shared by all images.

        Returns:
            (s, n) nats.
        """
        rows = self._rows(values)
        z_mean, z_log_var = self._posterior(rows)
        log_sigma = 0.5 * ops.log(self.noise)[:, None]
        weights = []
        for draw in range(eps.shape[0]):
            noise = ops.reshape(ops.convert_to_tensor(eps[draw], z_mean.dtype), z_mean.shape[1:])
            z = z_mean + ops.exp(0.5 * z_log_var) * noise
            log_likelihood = ops.sum(gaussian_log_density(rows, self._decoded(z), log_sigma), axis=(1, 2))
            # The constants of the two normal densities cancel.
            log_ratio = 0.5 * ops.sum(ops.square(noise) + z_log_var - ops.square(z), axis=(1, 2))
            weights.append(log_likelihood + log_ratio)
        return ops.stack(weights)

    def _rows(self, values: Tensor) -> Tensor:
        """(n, p, c), or (n, 1, p c)."""
        height, width, channels = self.value_shape
        return ops.reshape(values, (-1, 1, height * width * channels) if self.whole else (-1, height * width, channels))

    def _posterior(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents, each (n, p or 1, q)."""
        noise = self.noise[:, None]
        gain = ops.sqrt(ops.maximum(self.variances - noise, 0.0))
        # One product for each block: (p, n, c) x (p, c, q).
        along = ops.transpose(ops.matmul(ops.transpose(rows, (1, 0, 2)), self.directions), (1, 0, 2))
        z_mean = along * (gain / self.variances)
        return z_mean, ops.zeros_like(z_mean) + ops.log(noise / self.variances)

    def _decoded(self, z: Tensor) -> Tensor:
        """W z, (n, p or 1, d)."""
        gain = ops.sqrt(ops.maximum(self.variances - self.noise[:, None], 0.0))
        back = ops.transpose(self.directions, (0, 2, 1))
        return ops.transpose(ops.matmul(ops.transpose(z * gain, (1, 0, 2)), back), (1, 0, 2))


class Nearest(keras.Model):
    """(n, gh, gw, c) features -> (n,) the nearest variant of each image, and how far beyond its normal images it lies.

    Args:
        n_channels: c.
        n_variants: how many there are.
    """

    def __init__(self, n_channels: int, n_variants: int) -> None:
        super().__init__(name="variants")
        self.projection = self.add_weight(name="projection", shape=(n_channels, N_COMPONENTS), **_ASSIGNED)
        self.centres = self.add_weight(name="centres", shape=(n_variants, N_COMPONENTS), **_ASSIGNED)
        self.usual = self.add_weight(name="usual", shape=(n_variants, 2), initializer="ones", trainable=False)
        self.built = True

    def call(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The variant's number, as a float, and `nelbo.vae_core.linear.variants.Variants.beyond`."""
        places = ops.matmul(ops.mean(features, axis=(1, 2)), self.projection)
        distances = ops.sqrt(ops.sum(ops.square(places[:, None] - self.centres), axis=-1))
        logarithms = ops.log(ops.maximum(distances, float(np.finfo(np.float32).tiny)))
        beyond = ops.maximum((logarithms - self.usual[:, 0]) / self.usual[:, 1] - ALLOWED_Z, 0.0)
        # Keras's argmin needs the bits of a number, which OpenVINO does not give.
        nearest = ops.cast(distances <= ops.min(distances, axis=1, keepdims=True), "float32")
        # Of two that are equally near, the first.
        first = nearest * ops.cast(ops.cumsum(nearest, axis=1) < 1.5, "float32")
        numbers = ops.arange(distances.shape[1], dtype="float32")
        return ops.sum(first * numbers, axis=1), ops.sum(first * beyond, axis=1)

    def assign(self, variants: Variants) -> None:
        """Take the values of what was learnt."""
        # Few images have fewer components.
        more = ((0, 0), (0, N_COMPONENTS - variants.centres.shape[1]))
        self.projection.assign(np.pad(variants.projection, more))
        self.centres.assign(np.pad(variants.centres, more))
        self.usual.assign(variants.usual)


class LinearHead(keras.Model):
    """Linear VAEs of whitened features, one for each variant; that of the nearest variant judges an image.

    Args:
        shape: (gh, gw, c) of the features.
        n_latents, blocks: of each `LinearVAE`.
        n_variants: how many there are.
    """

    def __init__(
        self, shape: tuple[int, int, int], n_latents: int, blocks: str = "positions", n_variants: int = 1
    ) -> None:
        super().__init__(name="linear_head")
        self.whitenings = [Whitening(shape, name) for name in numbered_names("whitening", n_variants)]
        self.networks = [LinearVAE(shape, n_latents, blocks, name) for name in numbered_names("linear_vae", n_variants)]
        self.nearest = Nearest(shape[-1], n_variants) if n_variants > 1 else None
        self.built = True

    def assign(self, solutions: Sequence[Solution], variants: Variants | None) -> None:
        """Take what was learnt of each variant, and where they lie; None where there is only one."""
        for whitening, network, solution in zip(self.whitenings, self.networks, solutions, strict=True):
            whitening.assign(solution)
            network.assign(solution)
        if self.nearest is not None and variants is not None:
            self.nearest.assign(variants)

    def evaluate(self, features: Tensor) -> dict[str, Tensor]:
        """What scoring needs of (n, gh, gw, c) features; see `LinearVAE.evaluate`.

        Where there are several variants, also ``variant`` and ``variant_z``, both (n,): see `Nearest`.
        """
        found = [network.evaluate(values) for network, values in self._seen(features)]
        if self.nearest is None:
            return found[0]
        variant, beyond = self.nearest(features)
        own = {name: chosen([one[name] for one in found], variant) for name in found[0]}
        return own | {"variant": variant, "variant_z": beyond}

    def log_weights(self, features: Tensor, eps: Tensor) -> Tensor:
        """(s, n) nats of draws from the posterior; see `LinearVAE.log_weights`."""
        found = [network.log_weights(values, eps) for network, values in self._seen(features)]
        if self.nearest is None:
            return found[0]
        variant, _ = self.nearest(features)
        return ops.transpose(chosen([ops.transpose(one) for one in found], variant))

    def _seen(self, features: Tensor) -> list[tuple[LinearVAE, Tensor]]:
        """Each variant's network, and the features as it takes them."""
        return [
            (network, whitening(features)) for network, whitening in zip(self.networks, self.whitenings, strict=True)
        ]


def chosen(values: Sequence[Tensor], variant: Tensor) -> Tensor:
    """For each image, the values of its own variant.

    Args:
        values: of each variant, (n, ...).
        variant: (n,) numbers from 0.

    >>> chosen([np.zeros((2, 1)), np.ones((2, 1))], np.array([1.0, 0.0])).numpy().tolist()
    [[1.0], [0.0]]
    """
    numbers = ops.reshape(variant, (-1, *[1] * (len(values[0].shape) - 1)))
    result = values[0]
    for number, one in enumerate(values[1:], 1):
        result = ops.where(numbers == number, one, result)
    return result
