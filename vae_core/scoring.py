"""Scores of images under a trained model: deterministic, and independent of the neighbours in a batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from vae_core.config import VAEConfig
from vae_core.device import jit_compile
from vae_core.likelihoods import Tensor
from vae_core.network import VAE
from vae_core.objective import smooth

#: Share of the pixels, the worst ones, whose distortion is kept apart.
WORST_PIXELS = 0.1

Array = NDArray[np.floating[Any]]


class Score(NamedTuple):
    """Per image; nats, higher = more anomalous.

    anomaly_score: (n,) value of the model's statistic.
    nelbo, distortion, rate: (n,) nats; nelbo is the sum of the others.
    z_mean_norm: (n,) Euclidean norm of the posterior mean.
    z_log_var_sum: (n,) sum of the log posterior variances.
    worst_pixels: (n,) nats, distortion of the worst tenth of the pixels.
    peak: (n,) maximum of `local_z`, in standard deviations.
    anomaly_map: (n, h, w) nats a pixel, sums to the distortion.
    rate_map: (n, h, w) nats a pixel, sums to the rate: each latent position's, over the pixels below it.
    local_z: (n, h, w) local negative ELBO (the two maps' sum) in standard deviations from what is usual for that
        pixel, smoothed.
    reconstruction: (n, h, w, c) the likelihood's mean. The four arrays of pixels are None unless asked for.
    """

    anomaly_score: Array
    nelbo: Array
    distortion: Array
    rate: Array
    z_mean_norm: Array
    z_log_var_sum: Array
    worst_pixels: Array
    peak: Array
    anomaly_map: Array | None
    rate_map: Array | None
    local_z: Array | None
    reconstruction: Array | None


class Scorer(keras.Model):
    """The whole scoring function as one compiled graph: pixels in, statistics out.

    Args:
        network: the trained VAE.
        eps: (s, zh, zw, latents) the model's noise.
        usual_mean, usual_std: (h, w) mean and standard deviation of the local negative ELBO over held-out
            normal images, in nats a pixel.
        maps: also return arrays of pixels.
    """

    def __init__(self, network: VAE, eps: Array, usual_mean: Array, usual_std: Array, maps: bool) -> None:
        super().__init__(name="scorer")
        self.network = network
        self.eps = ops.convert_to_tensor(eps)
        self.usual_mean = ops.convert_to_tensor(usual_mean)
        self.usual_std = ops.convert_to_tensor(usual_std)
        self.maps = maps
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

    def score(self, pixels: Array) -> Score:
        """Score (n, h, w, c) pixels, in batches of one fixed shape, the last one padded.

        Raises:
            ValueError: the pixels' shape is not the model's, a value is NaN or outside [0, 1], or one that the
                likelihood is not defined for.
            FloatingPointError: a score is NaN or infinite.
        """
        check_pixels(self.network, pixels)
        size = batch_size(self.network.config)
        batches = [self._batch(pixels[start : start + size], size) for start in range(0, len(pixels), size)]
        if not batches:
            batches = [{key: value[:0] for key, value in self._batch(pixels, size).items()}]
        columns = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
        for key in ("anomaly_score", "nelbo"):
            check_finite(key, columns[key])
        return Score(*(columns.get(name) for name in Score._fields))  # type: ignore[arg-type]

    def _batch(self, pixels: Array, size: int) -> dict[str, Array]:
        n = len(pixels)
        padded = np.zeros((size, *pixels.shape[1:]), np.float32)
        padded[:n] = pixels
        return {key: np.asarray(value)[:n] for key, value in self.predict_on_batch(padded).items()}


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


def batch_size(config: VAEConfig) -> int:
    """Images in one padded batch: 64 at 64 x 64, and as many pixels at other sizes (at least 4 images)."""
    return max(4, min(256, 64 * 64 * 64 // (config.height * config.width)))


class PixelsError(ValueError):
    """Images have values that a model's likelihood is not defined for."""


def check_pixels(network: VAE, pixels: Array) -> None:
    """Raise a ValueError for pixels that a network cannot take: shape, range, or values its likelihood excludes."""
    config = network.config
    expected = (config.height, config.width, config.channels)
    if pixels.ndim != 4 or pixels.shape[1:] != expected:
        raise ValueError(f"pixels have shape {pixels.shape}, the model takes (n, {', '.join(map(str, expected))})")
    if not ((pixels >= 0) & (pixels <= 1)).all():
        raise ValueError("pixels lie outside [0, 1], or are NaN; divide 8-bit values by 255")
    refuse_unsupported(config, [f"image {row}" for row in np.flatnonzero(~network.likelihood.supports(pixels))])


def refuse_unsupported(config: VAEConfig, names: Sequence[str]) -> None:
    """Raise a PixelsError if there are names of images that the likelihood is not defined for."""
    if not names:
        return
    remedy = {
        "bernoulli": "Binarise them to 0 and 1, or train with continuous_bernoulli",
        "discretised_logistic": "Bring them to the 256 levels k/255, or train with a Gaussian likelihood",
    }[config.likelihood]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    raise PixelsError(
        f"{len(names)} images ({', '.join(names[:5])}{more}) have values that {config.likelihood} is not defined for. "
        f"{remedy}"
    )


def check_finite(what: str, values: Array) -> None:
    """Raise a FloatingPointError for numbers of images that are NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise FloatingPointError(
            f"{what} of {len(bad)} images is NaN or infinite (first: image {bad[0]}). "
            "The model has diverged: train it again with a lower learning rate."
        )
