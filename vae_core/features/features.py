"""What a linear head sees of an image: a backbone's maps gathered on one grid."""

from collections.abc import Sequence

import keras
from keras import ops

from nelbo.vae_core.config import FILTERS, LINEAR_STRIDE_PX, LITE0, VAEConfig
from nelbo.vae_core.features.backbones import build_backbone
from nelbo.vae_core.linear.moments import Solution
from nelbo.vae_core.linear.vae import LinearVAE, Whitening, chosen, numbered_names
from nelbo.vae_core.network.likelihoods import Tensor
from nelbo.vae_core.network.objective import enlarge


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
        self.value_shape = gathered_shape(self.backbone, config)
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


def gathered_shape(backbone: keras.Model, config: VAEConfig) -> tuple[int, int, int]:
    """(gh, gw, channels) of `gathered`."""
    height, width, channels = ops.shape(gathered(backbone.outputs, config))[1:]
    return height, width, channels


def joined(maps: Sequence[Tensor]) -> Tensor:
    """All maps side by side on the grid of the finest: (n, fh, fw, channels)."""
    rows = maps[0].shape[1]
    return ops.concatenate([one if one.shape[1] == rows else _repeated(one, rows // one.shape[1]) for one in maps], -1)


def joined_shape(backbone: keras.Model) -> tuple[int, int, int]:
    """(fh, fw, channels) of `joined`."""
    height, width, channels = ops.shape(joined(backbone.outputs))[1:]
    return height, width, channels


def _repeated(x: Tensor, n: int) -> Tensor:
    return ops.repeat(ops.repeat(x, n, axis=1), n, axis=2)


class DetailMap(keras.Model):
    """A backbone's maps -> (n, h, w) how unusual each place is, finer than the scored grid; for people's eyes.

    Each position has a mean of its own, and all share one linear VAE: a covariance for each of 32 x 32 positions would
    be half a gigabyte. The local negative ELBO is brought by one offset and one unit, the same everywhere, to where
    normal images reach as high as they do in the statistic ``peak``.

    Args:
        shape: of `joined`.
        n_latents: of a position.
        size: (h, w) pixels of the image.
        n_variants: each has a map of its own.
    """

    def __init__(self, shape: tuple[int, int, int], n_latents: int, size: tuple[int, int], n_variants: int = 1) -> None:
        super().__init__(name="detail")
        self.size = size
        self.whitenings = [Whitening(shape, name) for name in numbered_names("detail_whitening", n_variants)]
        self.networks = [
            LinearVAE(shape, n_latents, "shared", name) for name in numbered_names("detail_vae", n_variants)
        ]
        own = (2,) if n_variants == 1 else (n_variants, 2)
        self.scale = self.add_weight(name="scale", shape=own, initializer="ones", trainable=False)
        self.built = True

    def assign(self, number: int, solution: Solution) -> None:
        """Take what was learnt of a variant."""
        self.whitenings[number].assign(solution)
        self.networks[number].assign(solution)

    def nats(self, maps: Sequence[Tensor], number: int) -> Tensor:
        """(n, fh, fw) local negative ELBO under a variant."""
        found = self.networks[number].evaluate(self.whitenings[number](joined(maps)))
        return found["anomaly_map"] + found["rate_map"]

    def call(self, maps: Sequence[Tensor], variant: Tensor | None = None) -> Tensor:
        """(n, h, w), in between linear; of each image under its own of several variants."""
        scales = ops.reshape(self.scale, (-1, 2))
        found = [
            (self.nats(maps, number) - scales[number, 0]) / scales[number, 1] for number in range(len(self.networks))
        ]
        return enlarge(found[0] if variant is None else chosen(found, variant), *self.size)
