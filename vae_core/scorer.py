"""Scoring as compiled graphs of Keras."""

import keras
import numpy as np
from keras import ops

from vae_core.device import jit_compile
from vae_core.likelihoods import Tensor
from vae_core.network import VAE
from vae_core.objective import enlarge, smooth, spread
from vae_core.scoring import WORST_PIXELS, Array, default_batch_size


class Scorer(keras.Model):
    """The whole scoring function as one compiled graph: pixels in, statistics out.

    Args:
        network: the trained VAE.
        eps: (s, zh, zw, latents) the model's noise.
        usual_mean, usual_std: (h, w) mean and standard deviation of the local negative ELBO over held-out
            normal images, in nats a pixel; of a feature space in nats a position.
        maps: also return arrays of pixels.
        batch_size: images in one padded batch; by default what suits the size of the input.
        representation: pixels to the features that the network models; None where it models pixels.
    """

    #: The framework spreads one batch over the cores itself.
    parallel = 1

    def __init__(
        self,
        network: VAE,
        eps: Array,
        usual_mean: Array,
        usual_std: Array,
        maps: bool,
        batch_size: int | None = None,
        representation: keras.Model | None = None,
    ) -> None:
        super().__init__(name="scorer")
        self.network, self.representation = network, representation
        # As NumPy arrays they become constants of the graph, and go with it where it is exported.
        self.eps, self.usual_mean, self.usual_std = eps, usual_mean, usual_std
        self.maps = maps
        self.batch_size = batch_size or default_batch_size(network.config)
        self.built = True
        self.compile(jit_compile=jit_compile())

    def call(self, pixels: Tensor) -> dict[str, Tensor]:
        """Statistics of each image, and maps where they were asked for."""
        config = self.network.config
        values = pixels if self.representation is None else self.representation(pixels)
        draws = self.network.evaluate_draws(values, self.eps)
        local, rate = draws["anomaly_map"], draws["rate"]
        distortion = ops.sum(local, axis=(1, 2))
        usual_mean, usual_std = ops.convert_to_tensor(self.usual_mean), ops.convert_to_tensor(self.usual_std)
        standardised = (local + draws["rate_map"] - usual_mean) / usual_std
        local_z = smooth(standardised, config.smoothing_px // config.stride_px)
        n_values = local.shape[1] * local.shape[2]
        worst, _ = ops.top_k(ops.reshape(local, (-1, n_values)), max(1, round(WORST_PIXELS * n_values)))
        nelbo = distortion + rate
        peak = ops.max(local_z, axis=(1, 2))
        result = {
            "anomaly_score": nelbo if config.statistic == "nelbo" else peak,
            "nelbo": nelbo,
            "distortion": distortion,
            "rate": rate,
            "z_mean_norm": ops.sqrt(ops.sum(ops.square(draws["z_mean"]), axis=(1, 2, 3))),
            "z_log_var_sum": ops.sum(draws["z_log_var"], axis=(1, 2, 3)),
            "worst_pixels": ops.sum(worst, axis=-1),
            "peak": peak,
        }
        if not self.maps:
            return result
        if config.is_pixels:
            maps = {"anomaly_map": local, "rate_map": draws["rate_map"], "local_z": local_z}
            return result | maps | {"reconstruction": draws["reconstruction"]}
        size = config.height, config.width
        maps = {"anomaly_map": spread(local, *size), "rate_map": spread(draws["rate_map"], *size)}
        return result | maps | {"local_z": enlarge(local_z, *size)}

    def run(self, pixels: Array) -> dict[str, Array]:
        """The same for one padded batch of NumPy's."""
        return {name: np.asarray(value) for name, value in self.predict_on_batch(pixels).items()}


class LocalNelbo(keras.Model):
    """The local negative ELBO as one compiled graph: (n, h, w, c) pixels or features -> (n, h, w) nats."""

    def __init__(self, network: VAE, eps: Array) -> None:
        super().__init__(name="local_nelbo")
        self.network, self.eps = network, eps
        self.built = True
        self.compile(jit_compile=jit_compile())

    def call(self, values: Tensor) -> Tensor:
        """Distortion and rate of each pixel or position."""
        draws = self.network.evaluate_draws(values, self.eps)
        return draws["anomaly_map"] + draws["rate_map"]


class LogWeights(keras.Model):
    """``VAE.log_weights`` as one compiled graph, for the importance-weighted bound; the noise is an input."""

    def __init__(self, network: VAE, representation: keras.Model | None = None) -> None:
        super().__init__(name="log_weights")
        self.network, self.representation = network, representation
        self.built = True
        self.compile(jit_compile=jit_compile())

    def call(self, inputs: dict[str, Tensor]) -> Tensor:
        """(n, s) nats; images first, as Keras expects of a batch."""
        pixels = inputs["pixels"]
        values = pixels if self.representation is None else self.representation(pixels)
        return ops.transpose(self.network.log_weights(values, inputs["eps"][0]))
