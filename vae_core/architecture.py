"""Encoders and decoders, by preset."""

import math
from collections.abc import Iterator

import keras
import numpy as np
from keras import layers

from vae_core.config import VAEConfig

LATENTS = 16
_FILTERS = (32, 64, 128, 128)
_KERNEL = 4
_LAST_SIDE = 4


def build_encoder(config: VAEConfig, seed: int = 0) -> keras.Model:
    """pixels (n, h, w, c) -> z_mean, z_log_var, each (n, 1, 1, 16).

    Convolutions of stride 2 until the longer side is 4 or less, then two layers whose kernel covers what is
    left: the 1x1x16 pair.
    """
    pixels = keras.Input((config.height, config.width, config.channels), name="pixels")
    x, weights = pixels, _initial_weights(seed)
    for i, _ in enumerate(_sides(config)[1:]):
        x = layers.Conv2D(
            _filters(i),
            _KERNEL,
            strides=2,
            padding="same",
            activation="relu",
            kernel_initializer=next(weights),
            name=f"encoder_conv_{i}",
        )(x)
    last = _sides(config)[-1]
    z_mean = layers.Conv2D(LATENTS, last, kernel_initializer=next(weights), name="z_mean")(x)
    z_log_var = layers.Conv2D(LATENTS, last, kernel_initializer=next(weights), name="z_log_var")(x)
    return keras.Model(pixels, [z_mean, z_log_var], name="encoder")


def build_decoder(config: VAEConfig, seed: int = 0) -> keras.Model:
    """z (n, 1, 1, 16) -> mean of the pixels (n, h, w, c), unbounded: the encoder's mirror image."""
    z = keras.Input((1, 1, LATENTS), name="z")
    sides = _sides(config)
    depth, weights = len(sides) - 1, _initial_weights(seed)
    x = layers.Conv2DTranspose(
        _filters(depth - 1), sides[-1], activation="relu", kernel_initializer=next(weights), name="decoder_first"
    )(z)
    for i in reversed(range(depth)):
        outermost = i == 0
        x = layers.Conv2DTranspose(
            config.channels if outermost else _filters(i - 1),
            _KERNEL,
            strides=2,
            padding="same",
            activation=None if outermost else "relu",
            kernel_initializer=next(weights),
            name=f"decoder_conv_{i}",
        )(x)
        # Halving an odd side rounds up, so doubling gives one pixel more.
        surplus = tuple((0, 2 * small - large) for small, large in zip(sides[i + 1], sides[i], strict=True))
        if surplus != ((0, 0), (0, 0)):
            x = layers.Cropping2D(surplus, name=f"decoder_crop_{i}")(x)
    return keras.Model(z, x, name="decoder")


def _sides(config: VAEConfig) -> list[tuple[int, int]]:
    """(height, width) of the input and after each halving."""
    sides = [(config.height, config.width)]
    while max(sides[-1]) > _LAST_SIDE:
        height, width = sides[-1]
        sides.append((math.ceil(height / 2), math.ceil(width / 2)))
    return sides


def _initial_weights(seed: int) -> Iterator[keras.initializers.Initializer]:
    """An initializer for each layer, seeded: Keras's own defaults draw from a generator that others use too."""
    random = np.random.default_rng(seed)
    while True:
        yield keras.initializers.GlorotUniform(seed=int(random.integers(2**31)))


def _filters(depth: int) -> int:
    return _FILTERS[min(depth, len(_FILTERS) - 1)]
