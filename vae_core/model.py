"""A trained model: network, noise, and what is usual on normal images."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from nelbo.vae_core.config import FREE, VAEConfig
from nelbo.vae_core.device import images_at_once
from nelbo.vae_core.features.features import Features
from nelbo.vae_core.features.representation import Representation
from nelbo.vae_core.linear.detail import DetailMap
from nelbo.vae_core.linear.vae import LinearHead, blocks_of
from nelbo.vae_core.network.architecture import latent_shape
from nelbo.vae_core.network.vae import VAE
from nelbo.vae_core.pixels import PixelRows, to_unit
from nelbo.vae_core.scorer import LocalNelbo, LogWeights, Scorer
from nelbo.vae_core.scoring import Array, default_batch_size, padded
from nelbo.vae_core.seen import Outside, places_of
from nelbo.vae_core.tiles.whole import WholeMap
from nelbo.vae_core.usual import Usual, learn_usual, pooled_mean_and_std


@dataclass(frozen=True)
class Model:
    """Everything that a score depends on.

    config: the network's configuration.
    network: the trained VAE.
    eps: (s, zh, zw, latents) standard normal noise, drawn once, shared by all images.
    usual_mean, usual_std: (h, w) nats a pixel, of the local negative ELBO over held-out normal images; of features
        (gh, gw) nats a position, and of several variants (v, gh, gw).
    preprocessing: how files become pixels; opaque here, kept with the model.
    batch_size: images in one padded batch; None takes what suits the size of the input.
    representation: pixels to features, in the preset ``features``; those of a deep head are whitened.
    usual_statistics: (3, 2) or (v, 3, 2), see `usual.Usual`; None in models of pixels, and of version 0.1.
    detail: of a linear head, what makes its map for people.
    tiles: what is known of whole images where they are seen in tiles; there is no `detail` then.
    outside: of a linear head of whole images, (rows, columns) share of each part of the picture that is ignored; None
        where all of it counts. What is usual has a row of positions then, (1, k).
    """

    config: VAEConfig
    network: VAE | LinearHead
    eps: NDArray[np.float32]
    usual_mean: NDArray[np.float32]
    usual_std: NDArray[np.float32]
    preprocessing: Mapping[str, Any]
    batch_size: int | None = None
    representation: Representation | Features | None = None
    usual_statistics: NDArray[np.float32] | None = None
    detail: DetailMap | None = None
    tiles: WholeMap | None = None
    outside: Outside | None = None
    _compiled: dict[Any, keras.Model] = field(default_factory=dict, init=False, repr=False, compare=False)

    #: The fit is the bundle's own.
    fit_id = None

    def graph(self, maps: bool, eps: Array | None = None) -> Scorer:
        """The compiled scoring function, made once; or one made for noise that the caller gives.

        Args:
            maps: whether it also gives arrays of pixels.
            eps: (s, zh, zw, latents) noise instead of the model's own.

        Raises:
            ValueError: noise of another shape than the latents'.
        """
        if eps is None:
            return self._once(maps, lambda: self._scorer(self.eps, maps))
        if self.config.is_linear:
            raise ValueError(f"eps: the head {self.config.head} is exact, and has no noise. Leave eps out")
        expected = latent_shape(self.config)
        if eps.shape[1:] != expected or not len(eps):
            raise ValueError(f"eps has shape {eps.shape}, expected (draws >= 1, {', '.join(map(str, expected))})")
        return self._scorer(eps.astype(np.float32), maps)

    def _scorer(self, eps: Array, maps: bool) -> Scorer:
        usual = Usual(self.usual_mean, self.usual_std, self.usual_statistics)
        places = places_of(self.config, self.outside)
        return Scorer(self.config, self.network, eps, usual, maps, self.batch_size, self.representation, places)

    @property
    def map_scales(self) -> NDArray[np.float32]:
        """(v, 2) for each variant, what is usual in local maps, and one unit, in nats."""
        if self.tiles is not None:
            return self.tiles.scales
        if self.detail is not None:
            return self.detail.scales
        spread = np.sqrt(np.square(self.usual_std).mean() + self.usual_mean.var())
        return np.array([[self.usual_mean.mean(), spread]], np.float32)

    def log_weights(self) -> LogWeights:
        """The compiled log weights of the importance-weighted bound, made once."""
        return self._once("log_weights", lambda: LogWeights(self.network, self.representation))

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._compiled:
            self._compiled[key] = make()
        return self._compiled[key]


def untrained(config: VAEConfig, outside: Outside | None = None) -> tuple[Any, Any]:
    """Network and representation of a trained configuration, without their weights."""
    if not config.is_linear:
        return VAE(config), None if config.is_pixels else Representation(config)
    if config.n_latents is None:
        raise ValueError("n_latents is not set")
    places = places_of(config, outside)
    features = Features(config, None if places is None else places.numbers)
    # Aligned tiles have means of their own, and one covariance.
    subject = FREE if config.is_tiled else config.subject
    blocks, n_variants = blocks_of(config.head, subject), max(1, len(config.variants))
    return LinearHead(features.value_shape, config.n_latents, blocks, n_variants), features


def draw_eps(config: VAEConfig, seed: int) -> NDArray[np.float32]:
    """(noise_draws, zh, zw, latents) standard normal noise from a seed."""
    shape = (config.noise_draws, *latent_shape(config))
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def usual_of(network: VAE, eps: NDArray[np.float32], normals: PixelRows) -> Usual:
    """What is usual of a deep network's map, over normal images that it was not trained on.

    Args:
        network: a trained VAE.
        eps: (s, zh, zw, latents) the model's noise.
        normals: (n, h, w, c) pixels, or the features in their place.
    """
    config = network.config
    maps = _local_nelbo(network, eps, normals)
    if not config.is_pixels:
        return learn_usual(np.concatenate(list(maps)), config.smoothing_px // config.stride_px)[0]
    total, squares = np.zeros(network.value_shape[:2]), np.zeros(network.value_shape[:2])
    for some in maps:
        local = some.astype(np.float64)
        total += local.sum(axis=0)
        squares += np.square(local).sum(axis=0)
    return Usual(*(values.astype(np.float32) for values in pooled_mean_and_std(total, squares, len(normals))))


def _local_nelbo(network: VAE, eps: NDArray[np.float32], images: PixelRows) -> Iterator[NDArray[np.float32]]:
    """(k, h, w) nats of some images at a time."""
    local_nelbo, size = LocalNelbo(network, eps, network.config.of), images_at_once(default_batch_size(network.config))
    for start in range(0, len(images), size):
        some = to_unit(images[start : start + size])
        yield np.asarray(local_nelbo.predict_on_batch(padded(some, size)))[: len(some)]
