"""Scoring as compiled graphs of Keras."""

import keras
import numpy as np
from keras import ops

from vae_core.device import jit_compile
from vae_core.likelihoods import Tensor
from vae_core.network import VAE
from vae_core.objective import smooth
from vae_core.scoring import WORST_PIXELS, Array, default_batch_size


class Scorer(keras.Model):
    """The whole scoring function as one compiled graph: pixels in, statistics out.

    Args:
        network: the trained VAE.
        eps: (s, zh, zw, latents) the model's noise.
        usual_mean, usual_std: (h, w) mean and standard deviation of the local negative ELBO over held-out
            normal images, in nats a pixel.
        maps: also return arrays of pixels.
        batch_size: images in one padded batch; by default what suits the size of the input.
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
    ) -> None:
        super().__init__(name="scorer")
        self.network = network
        # As NumPy arrays they become constants of the graph, and go with it where it is exported.
        self.eps, self.usual_mean, self.usual_std = eps, usual_mean, usual_std
        self.maps = maps
        self.batch_size = batch_size or default_batch_size(network.config)
        self.built = True
        self.compile(jit_compile=jit_compile())

    def call(self, pixels: Tensor) -> dict[str, Tensor]:
        """Statistics of each image, and maps where they were asked for."""
        config = self.network.config
        draws = self.network.evaluate_draws(pixels, self.eps)
        anomaly_map, rate = draws["anomaly_map"], draws["rate"]
        distortion = ops.sum(anomaly_map, axis=(1, 2))
        standardised = (anomaly_map + draws["rate_map"] - self.usual_mean) / self.usual_std
        local_z = smooth(standardised, config.smoothing_px)
        n_pixels = config.height * config.width
        worst, _ = ops.top_k(ops.reshape(anomaly_map, (-1, n_pixels)), max(1, round(WORST_PIXELS * n_pixels)))
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
        if self.maps:
            result |= {
                "anomaly_map": anomaly_map,
                "rate_map": draws["rate_map"],
                "local_z": local_z,
                "reconstruction": draws["reconstruction"],
            }
        return result

    def run(self, pixels: Array) -> dict[str, Array]:
        """The same for one padded batch of NumPy's."""
        return {name: np.asarray(value) for name, value in self.predict_on_batch(pixels).items()}


class LogWeights(keras.Model):
    """``VAE.log_weights`` as one compiled graph, for the importance-weighted bound; the noise is an input."""

    def __init__(self, network: VAE) -> None:
        super().__init__(name="log_weights")
        self.network = network
        self.built = True
        self.compile(jit_compile=jit_compile())

    def call(self, inputs: dict[str, Tensor]) -> Tensor:
        """(n, s) nats; images first, as Keras expects of a batch."""
        return ops.transpose(self.network.log_weights(inputs["pixels"], inputs["eps"][0]))
