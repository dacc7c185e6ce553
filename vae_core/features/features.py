"""What a linear head sees of an image: a backbone's maps gathered on one grid."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from nelbo.vae_core.config import AROUND, BESIDE, FILTERS, LINEAR_STRIDE_PX, LITE0, VAEConfig
from nelbo.vae_core.features.backbones import build_backbone
from nelbo.vae_core.network.likelihoods import Tensor


class Features(keras.Model):
    """pixels (n, h, w, c) in [0, 1] -> features (n, h / 32, w / 32, channels), or (n, 1, k, channels) of some places.

    Args:
        config: of the preset ``features`` with a linear head.
        places: (k,) numbers of the places that are seen, counted row by row; None sees all.
    """

    def __init__(self, config: VAEConfig, places: NDArray[np.integer[Any]] | None = None) -> None:
        super().__init__(name="features")
        self.config, self.places = config, places
        self.backbone = build_backbone(config)
        self.backbone.trainable = False
        #: Shape of the features: (gh, gw, channels).
        _, height, width, channels = ops.shape(gathered(self.backbone.outputs, config))
        self.value_shape = (height, width, channels) if places is None else (1, len(places), channels)
        self.built = True

    def call(self, pixels: Tensor) -> Tensor:
        """Features on one grid."""
        return self.gathered(self.maps(pixels))

    def gathered(self, maps: Sequence[Tensor]) -> Tensor:
        """The backbone's maps on one grid, at the places that are seen."""
        found = gathered(maps, self.config)
        if self.places is None:
            return found
        rows = ops.reshape(found, (-1, 1, found.shape[1] * found.shape[2], found.shape[3]))
        return ops.take(rows, self.places, axis=2)

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """The backbone's maps, the finest first."""
        found = self.backbone(pixels, training=False)
        # Keras returns a list of one map as that map.
        return list(found) if isinstance(found, list | tuple) else [found]


def gathered(maps: Sequence[Tensor], config: VAEConfig) -> Tensor:
    """The maps that a head sees, on one grid as `config.pooling` says: (n, h / 32, w / 32, channels).

    Filters are on the grid already.
    """
    if config.backbone == FILTERS:
        return maps[0]
    if config.pooling == BESIDE:
        return ops.concatenate([_beside(one, config) for one in maps], axis=-1)
    chosen = maps[-2:] if config.backbone == LITE0 else maps
    return ops.concatenate([_averaged(one, config) for one in chosen], axis=-1)


def _averaged(one: Tensor, config: VAEConfig) -> Tensor:
    """Means over the positions of a map that lie in one of the grid."""
    around = ops.average_pool(one, 3, strides=1, padding="same") if config.pooling == AROUND else one
    n = _along(one, config)
    return around if n == 1 else ops.average_pool(around, n, strides=n)


def _beside(one: Tensor, config: VAEConfig) -> Tensor:
    """The positions of a map that lie in one of the grid, as channels side by side."""
    n = _along(one, config)
    return ops.concatenate([one[:, row::n, column::n] for row in range(n) for column in range(n)], axis=-1)


def _along(one: Tensor, config: VAEConfig) -> int:
    """Positions of a map along a side of one of the grid."""
    return one.shape[1] * LINEAR_STRIDE_PX // config.height
