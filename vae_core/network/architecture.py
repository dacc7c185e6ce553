"""Encoders and decoders, by preset."""

import math
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import layers, ops

from nelbo.vae_core.config import LINEAR_IMAGE, VAEConfig
from nelbo.vae_core.network.likelihoods import Tensor

#: Latents of ``conv_1x1x16``, and of each position of the maps of the other presets.
LATENTS = {"conv_1x1x16": 16, "conv_spatial": 8, "resnet": 16, "features": 16}
#: Halvings of the presets with a map of latents.
_HALVINGS = {"conv_spatial": 3, "resnet": 4}
#: Channels of the features of any backbone.
N_FEATURES = 192
#: Largest log variance; the prior's is 0. An image unlike any other might get one so large that its rate is infinite.
_MAX_LOG_VAR = 20.0
_FILTERS = (32, 64, 128, 128)
_KERNEL = 4
_LAST_SIDE = 4
_GROUPS = 8


#: Presets whose latents are of the whole image.
_WHOLE = ("conv_1x1x16", "features")
#: Filters and kernel of the network between features and latents.
_FEATURE_FILTERS = 32
_FEATURE_KERNEL = 4


def latent_shape(config: VAEConfig) -> tuple[int, int, int]:
    """(zh, zw, c) of z: a map of positions, 1 x 1 where the latents have none."""
    if config.is_linear:
        whole = config.head == LINEAR_IMAGE
        height, width = (1, 1) if whole else (config.height // config.stride_px, config.width // config.stride_px)
        return height, width, config.n_latents or 0
    height, width = (1, 1) if config.preset in _WHOLE else _sides(config)[-1]
    return height, width, LATENTS[config.preset]


def value_shape(config: VAEConfig) -> tuple[int, int, int]:
    """(h, w, c) of the values that the likelihood is of: the pixels, or a map of features."""
    if config.is_pixels:
        return config.height, config.width, config.channels
    return config.height // config.stride_px, config.width // config.stride_px, N_FEATURES


def build_encoder(config: VAEConfig, seed: int = 0, precision: str = "float32") -> keras.Model:
    """pixels (n, h, w, c) -> z_mean, z_log_var, each (n, zh, zw, latents), in float32."""
    pixels = keras.Input(value_shape(config), name="pixels")
    part = _Part(config, "encoder", seed, precision)
    if config.preset == "features":
        return _feature_encoder(pixels, part)
    x = _standardised(pixels, config)
    if config.preset == "resnet":
        x = part.conv(x, _filters(0), 3, "stem")
    for depth, _ in enumerate(_sides(config)[1:]):
        x = part.down(x, depth)
    # The 1x1x16 pair covers what is left of the image; a map of latents sees one position's neighbourhood.
    kernel = _sides(config)[-1] if config.preset == "conv_1x1x16" else 3
    padding = "valid" if config.preset == "conv_1x1x16" else "same"
    return keras.Model(pixels, _posterior(x, part, kernel, padding), name="encoder")


def build_decoder(config: VAEConfig, n_outputs: int, seed: int = 0, precision: str = "float32") -> keras.Model:
    """z (n, zh, zw, latents) -> (n, h, w, n_outputs), unbounded, in float32: the encoder's mirror image."""
    z = keras.Input(latent_shape(config), name="z")
    part = _Part(config, "decoder", seed, precision)
    if config.preset == "features":
        return _feature_decoder(z, part, n_outputs)
    sides = _sides(config)
    depth = len(sides) - 1
    if config.preset == "conv_1x1x16":
        first = layers.Conv2DTranspose(
            _filters(depth - 1),
            sides[-1],
            activation="relu",
            kernel_initializer=part.weights(),
            dtype=precision,
            name="decoder_first",
        )
        x = first(z)
    else:
        x = part.conv(z, _filters(depth - 1), 3, "first")
    for i in reversed(range(depth)):
        x = part.up(x, i, n_outputs if i == 0 else _filters(i - 1))
        # Halving an odd side rounds up, so doubling gives one pixel more.
        surplus = tuple((0, 2 * small - large) for small, large in zip(sides[i + 1], sides[i], strict=True))
        if surplus != ((0, 0), (0, 0)):
            x = layers.Cropping2D(surplus, name=f"decoder_crop_{i}")(x)
    return keras.Model(z, x, name="decoder")


def _standardised(pixels: Tensor, config: VAEConfig) -> Tensor:
    """Pixels around 0 with a standard deviation of about 1; in models of version 0.1 as they are."""
    if config.pixel_mean is None or config.pixel_std is None:
        return pixels
    scale = 1 / config.pixel_std
    return layers.Rescaling(scale, -scale * config.pixel_mean, name="standardised")(pixels)


def _feature_encoder(features: Tensor, part: "_Part") -> keras.Model:
    """Each position is mixed down to a few channels, then each 4 x 4 positions, then all."""
    x = part.conv(features, _FEATURE_FILTERS, 1, "mix")
    x = part.conv(x, _FEATURE_FILTERS, _FEATURE_KERNEL, "conv", strides=_FEATURE_KERNEL)
    x = layers.Conv2D(
        _FEATURE_FILTERS,
        x.shape[1:3],
        activation="silu",
        kernel_initializer=part.weights(),
        dtype=part.precision,
        name="encoder_whole",
    )(x)
    return keras.Model(features, _posterior(x, part, 1, "valid"), name="encoder")


def _posterior(x: Tensor, part: "_Part", kernel: int | tuple[int, int], padding: str) -> tuple[Tensor, Tensor]:
    """z_mean and z_log_var."""
    latents = LATENTS[part.config.preset]
    z_mean, z_log_var = (
        layers.Conv2D(latents, kernel, padding=padding, kernel_initializer=part.weights(), name=name)(x)
        for name in ("z_mean", "z_log_var")
    )
    return z_mean, ops.minimum(z_log_var, _MAX_LOG_VAR)


def _feature_decoder(z: Tensor, part: "_Part", n_outputs: int) -> keras.Model:
    """Coarse positions from z, made finer twice. Untrained, it gives 0 everywhere: one Gaussian for each position."""
    height, width, _ = value_shape(part.config)
    coarse = (math.ceil(height / _FEATURE_KERNEL), math.ceil(width / _FEATURE_KERNEL))
    x = layers.Conv2DTranspose(
        _FEATURE_FILTERS // 2,
        coarse,
        activation="silu",
        kernel_initializer=part.weights(),
        dtype=part.precision,
        name="decoder_whole",
    )(z)
    x = layers.UpSampling2D(2, interpolation="bilinear", dtype=part.precision)(x)
    x = part.conv(x, _FEATURE_FILTERS // 2, 3, "conv")
    x = layers.UpSampling2D(2, interpolation="bilinear", dtype=part.precision)(x)
    surplus = tuple((0, _FEATURE_KERNEL * small - large) for small, large in zip(coarse, (height, width), strict=True))
    if surplus != ((0, 0), (0, 0)):
        x = layers.Cropping2D(surplus, name="decoder_crop")(x)
    return keras.Model(
        z, layers.Conv2D(n_outputs, 1, kernel_initializer="zeros", name="decoder_mix")(x), name="decoder"
    )


class _Part:
    """The blocks of an encoder or a decoder, in the order in which they draw their initial weights."""

    def __init__(self, config: VAEConfig, name: str, seed: int, precision: str) -> None:
        self.config, self.name, self.precision = config, name, precision
        self.weights: Callable[[], keras.initializers.Initializer] = initial_weights(seed).__next__

    def conv(self, x: Tensor, filters: int, kernel: int, name: str, strides: int = 1) -> Tensor:
        """A convolution that keeps the size, or divides it; with a nonlinearity except in residual blocks."""
        return layers.Conv2D(
            filters,
            kernel,
            strides=strides,
            padding="same",
            activation={"resnet": None, "features": "silu"}.get(self.config.preset, "relu"),
            kernel_initializer=self.weights(),
            dtype=self.precision,
            name=f"{self.name}_{name}",
        )(x)

    def down(self, x: Tensor, depth: int) -> Tensor:
        """Half the size; `_filters(depth)` channels."""
        x = self.conv(x, _filters(depth), _KERNEL, f"conv_{depth}", strides=2)
        return self.residual(x, f"block_{depth}") if self.config.preset == "resnet" else x

    def up(self, x: Tensor, depth: int, filters: int) -> Tensor:
        """Twice the size; the outermost one gives the likelihood's parameters."""
        outermost = depth == 0
        linear = outermost or self.config.preset == "resnet"
        if self.config.preset == "resnet":
            x = self.residual(x, f"block_{depth}")
        return layers.Conv2DTranspose(
            filters,
            _KERNEL,
            strides=2,
            padding="same",
            activation=None if linear else "relu",
            kernel_initializer=self.weights(),
            # The likelihood divides its error by sigma: bfloat16 has too few digits for that.
            dtype="float32" if outermost else self.precision,
            name=f"{self.name}_conv_{depth}",
        )(x)

    def residual(self, x: Tensor, name: str) -> Tensor:
        """x + conv(silu(norm(conv(silu(norm(x))))), the pre-activation block of He et al. 2016b with GroupNorm."""
        y = x
        for i in (0, 1):
            y = layers.GroupNormalization(_GROUPS, dtype=self.precision, name=f"{self.name}_{name}_norm_{i}")(y)
            y = layers.Activation("silu", dtype=self.precision, name=f"{self.name}_{name}_silu_{i}")(y)
            y = self.conv(y, x.shape[-1], 3, f"{name}_conv_{i}")
        return layers.Add(dtype=self.precision, name=f"{self.name}_{name}")([x, y])


def _sides(config: VAEConfig) -> list[tuple[int, int]]:
    """(height, width) of the input and after each halving."""
    sides = [(config.height, config.width)]
    halvings = _HALVINGS.get(config.preset)
    while len(sides) <= halvings if halvings else max(sides[-1]) > _LAST_SIDE:
        height, width = sides[-1]
        sides.append((math.ceil(height / 2), math.ceil(width / 2)))
    return sides


def initial_weights(seed: int) -> Iterator[keras.initializers.Initializer]:
    """An initializer for each layer, seeded: Keras's own defaults draw from a generator that others use too."""
    random = np.random.default_rng(seed)
    while True:
        yield keras.initializers.GlorotUniform(seed=int(random.integers(2**31)))


def _filters(depth: int) -> int:
    return _FILTERS[min(depth, len(_FILTERS) - 1)]
