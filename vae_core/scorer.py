"""Scoring as compiled graphs of Keras."""

from typing import Any

import keras
import numpy as np
from keras import ops

from nelbo.vae_core.config import VAEConfig
from nelbo.vae_core.device import compute_in_float32, images_at_once, jit_compile
from nelbo.vae_core.linear.vae import LinearHead
from nelbo.vae_core.network.likelihoods import Tensor
from nelbo.vae_core.network.objective import enlarge, smooth, spread
from nelbo.vae_core.network.vae import VAE
from nelbo.vae_core.scoring import JOINT, SEEN, VARIANT, Array, anomaly_score, default_batch_size, n_worst
from nelbo.vae_core.seen import SeenPlaces
from nelbo.vae_core.usual import Usual

#: Numbers of 32 bits that the widest registers hold.
_ALIGNED = 16


class Scorer(keras.Model):
    """The whole scoring function as one compiled graph: pixels in, statistics out.

    Args:
        config: of the network.
        network: the trained VAE, or the solved one.
        eps: (s, zh, zw, latents) the model's noise; none for a linear VAE.
        usual: of the local negative ELBO over unseen normal images, in nats a pixel; of features in nats a position.
        maps: also return arrays of pixels.
        batch_size: images in one padded batch; by default what suits the size of the input and the device.
        representation: pixels to the features that the network models; None where it models pixels.
        places: the places that a linear head of whole images sees; None for all.
    """

    #: The framework spreads one batch over the cores itself.
    parallel = 1

    def __init__(
        self,
        config: VAEConfig,
        network: VAE | LinearHead,
        eps: Array,
        usual: Usual,
        maps: bool,
        batch_size: int | None = None,
        representation: Any = None,
        places: SeenPlaces | None = None,
    ) -> None:
        super().__init__(name="scorer")
        self.config = config
        self.network, self.representation = network, representation
        # As NumPy arrays they become constants of the graph, and are exported with it.
        self.eps, self.usual = eps, usual
        self.maps, self.places = maps, places
        self.batch_size = batch_size or images_at_once(default_batch_size(config))
        self.built = True
        compute_in_float32()
        self.compile(jit_compile=jit_compile())

    def call(self, pixels: Tensor) -> dict[str, Tensor]:
        """Statistics of each image, what its map is made of, and arrays of pixels if requested."""
        config = self.config
        if config.is_linear:
            features = self.representation.maps(pixels)
            grid = self.representation.gathered(features)
            draws = self.network.evaluate(grid)
        else:
            values = pixels if self.representation is None else self.representation(pixels)
            draws = self.network.evaluate_draws(values, self.eps)
        local, rate = draws["anomaly_map"], draws["rate"]
        distortion = ops.sum(local, axis=(1, 2))
        usual = self._usual(draws)
        of_local = local if config.of == "distortion" else local + draws["rate_map"]
        local_z = self._local_z(of_local, usual)
        # Maps of tiled images are made from the results for each tile, below.
        seen = [] if config.is_tiled else features if config.is_linear else [smooth(of_local, self._side)]
        nelbo = distortion + rate
        statistics = self._statistics(local_z, usual)
        variants = {name: draws[name] for name in VARIANT if name in draws}
        result = {
            "anomaly_score": anomaly_score({**statistics, **variants, "nelbo": nelbo}, config.statistic),
            "nelbo": nelbo,
            "distortion": distortion,
            "rate": rate,
            "z_mean_norm": ops.sqrt(ops.sum(ops.square(draws["z_mean"]), axis=(1, 2, 3))),
            "z_log_var_sum": ops.sum(draws["z_log_var"], axis=(1, 2, 3)),
            "worst_pixels": _sum_of_worst(local),
            **statistics,
            **variants,
            **{f"{SEEN}{i}": one for i, one in enumerate(seen)},
        }
        if config.is_tiled:
            result |= {"tile_features": grid, "tile_distortion": local, "tile_rate": draws["rate_map"]}
        if not self.maps:
            return result
        if config.is_pixels:
            maps = {"anomaly_map": local, "rate_map": draws["rate_map"], "local_z": local_z}
            return result | maps | {"reconstruction": draws["reconstruction"]}
        size = config.height, config.width
        local, rates, local_z = (self._on_grid(one) for one in (local, draws["rate_map"], local_z))
        maps = {"anomaly_map": spread(local, *size), "rate_map": spread(rates, *size)}
        return result | maps | {"local_z": enlarge(local_z, *size)}

    def _on_grid(self, values: Tensor) -> Tensor:
        """(n, gh, gw) the values of the places that are seen, with 0 at those that are ignored."""
        if self.places is None:
            return values
        scattered = np.eye(self.places.seen.size, dtype=np.float32)[self.places.numbers]
        return ops.reshape(ops.matmul(values, scattered), (-1, *self.places.seen.shape))

    def _usual(self, draws: dict[str, Tensor]) -> Usual:
        """What is usual; with several variants, (n, ...) what is usual for the variant of each image."""
        if "variant" not in draws:
            return self.usual
        numbers = ops.cast(draws["variant"], "int32")
        return Usual(*(ops.take(ops.convert_to_tensor(values), numbers, axis=0) for values in self.usual))

    def _local_z(self, local: Tensor, usual: Usual) -> Tensor:
        """The map in standard deviations, smoothed."""
        mean, std = ops.convert_to_tensor(usual.mean), ops.convert_to_tensor(usual.std)
        if usual.statistics is None:
            return smooth((local - mean) / std, self._side)
        if self.places is not None:
            return (ops.matmul(local, self.places.smoothing(self._side).T) - mean) / std
        return (smooth(local, self._side) - mean) / std

    @property
    def _side(self) -> int:
        """The side of the box that smooths the map, in positions."""
        return self.config.smoothing_px // self.config.stride_px

    def _statistics(self, local_z: Tensor, usual: Usual) -> dict[str, Tensor]:
        """The peak, and the parts of ``joint`` where the model has them."""
        peak = ops.max(local_z, axis=(1, 2))
        if usual.statistics is None:
            return {"peak": peak}
        # Means over positions: the statistics are of a map, whatever its size.
        n_values = local_z.shape[1] * local_z.shape[2]
        found = (peak, _sum_of_worst(local_z) / n_worst(n_values), ops.mean(local_z, axis=(1, 2)))
        scales = ops.convert_to_tensor(usual.statistics)
        z = {
            name: (one - scales[..., i, 0]) / scales[..., i, 1]
            for i, (name, one) in enumerate(zip(JOINT, found, strict=True))
        }
        return {"peak": peak} | z

    def run(self, pixels: Array) -> dict[str, Array]:
        """The same for one padded batch of NumPy arrays."""
        return {name: np.asarray(value) for name, value in self.predict_on_batch(pixels).items()}


def _sum_of_worst(maps: Tensor) -> Tensor:
    """(n,) the sum of the largest tenth of the values of (n, h, w) maps."""
    n_values = maps.shape[1] * maps.shape[2]
    worst, _ = ops.top_k(ops.reshape(maps, (-1, n_values)), n_worst(n_values))
    # How ONNX Runtime adds up a row depends on where it begins in memory: padded with zeros, all rows begin alike, and
    # an image has the same sum at each place of a batch.
    return ops.sum(ops.pad(worst, ((0, 0), (0, -n_worst(n_values) % _ALIGNED))), axis=-1)


class LocalNelbo(keras.Model):
    """The local negative ELBO as one compiled graph: (n, h, w, c) pixels or features -> (n, h, w) nats."""

    def __init__(self, network: VAE, eps: Array, of: str = "nelbo") -> None:
        super().__init__(name="local_nelbo")
        self.network, self.eps, self.of = network, eps, of
        self.built = True
        self.compile(jit_compile=jit_compile())

    def call(self, values: Tensor) -> Tensor:
        """Distortion and rate of each pixel or position, or the distortion alone."""
        draws = self.network.evaluate_draws(values, self.eps)
        return draws["anomaly_map"] if self.of == "distortion" else draws["anomaly_map"] + draws["rate_map"]


class LogWeights(keras.Model):
    """``VAE.log_weights`` as one compiled graph, for the importance-weighted bound; the noise is an input."""

    def __init__(self, network: VAE | LinearHead, representation: keras.Model | None = None) -> None:
        super().__init__(name="log_weights")
        self.network, self.representation = network, representation
        self.built = True
        self.compile(jit_compile=jit_compile())

    def call(self, inputs: dict[str, Tensor]) -> Tensor:
        """(n, s) nats; images first, as Keras expects of a batch."""
        pixels = inputs["pixels"]
        values = pixels if self.representation is None else self.representation(pixels)
        return ops.transpose(self.network.log_weights(values, inputs["eps"][0]))
