"""What a linear head sees of an image: a backbone's maps gathered on one grid."""

from collections.abc import Sequence

import keras
from keras import ops

from nelbo.vae_core.config import FILTERS, LINEAR_STRIDE_PX, LITE0, VAEConfig
from nelbo.vae_core.features.backbones import build_backbone
from nelbo.vae_core.network.likelihoods import Tensor


class Features(keras.Model):
    """pixels (n, h, w, c) in [0, 1] -> features (n, h / 32, w / 32, channels).

    Args:
        config: of the preset ``features`` with a linear head.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__(name="features")
        self.config = config
        self.backbone = build_backbone(config)
        self.backbone.trainable = False
        #: Of the features: (gh, gw, channels).
        _, height, width, channels = ops.shape(gathered(self.backbone.outputs, config))
        self.value_shape = (height, width, channels)
        self.built = True

    def call(self, pixels: Tensor) -> Tensor:
        """Features on one grid."""
        return gathered(self.maps(pixels), self.config)

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """The backbone's maps, the finest first."""
        found = self.backbone(pixels, training=False)
        # Keras hands out a list of one as that one.
        return list(found) if isinstance(found, list | tuple) else [found]


def gathered(maps: Sequence[Tensor], config: VAEConfig) -> Tensor:
    """The maps that a head sees, on one grid: (n, h / 32, w / 32, channels).

    Each is averaged over 3 x 3 of its own positions, so that a feature may lie a little beside where it usually does,
    and then over those of the grid. Filters come on the grid.
    """
    if config.backbone == FILTERS:
        return maps[0]
    chosen = maps[-2:] if config.backbone == LITE0 else maps
    grid = []
    for one in chosen:
        around = ops.average_pool(one, 3, strides=1, padding="same")
        n = one.shape[1] * LINEAR_STRIDE_PX // config.height
        grid.append(around if n == 1 else ops.average_pool(around, n, strides=n))
    return ops.concatenate(grid, axis=-1)
