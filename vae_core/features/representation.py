"""Whitened features: what a VAE of the preset ``features`` models in the place of pixels.

A backbone's features are centred and whitened position by position, so that normal images lie about 0 with unit
variance in every direction; values farther off than 10 are clipped. A VAE that had learnt nothing, with a mean of 0 and
a sigma of 1, is then a Gaussian at each position; what it learns beyond that is which images and places vary more than
others.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from nelbo.vae_core.config import TrainConfig, VAEConfig
from nelbo.vae_core.device import images_at_once
from nelbo.vae_core.features.backbones import build_backbone
from nelbo.vae_core.features.pretext import give_weights
from nelbo.vae_core.linear.moments import MIN_IMAGES, Moments
from nelbo.vae_core.network.architecture import value_shape
from nelbo.vae_core.network.likelihoods import Tensor
from nelbo.vae_core.pixels import PixelRows, to_unit
from nelbo.vae_core.scoring import padded

#: Weights of the covariance of all positions in that of each, and shares of the mean variance that are added to every
#: direction; those under which held-out images are likeliest are used.
_POOLED = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_RIDGES = (0.003, 0.01, 0.03)
#: Parts of the training images, each whitened by the moments of the others.
_FOLDS = 5
#: Standard deviations at which a whitened feature is cut off. Single values of normal images lie at 80: squared, they
#: made a training's loss jump, and say no more than 10 does.
LIMIT = 10.0
#: Images that go through a backbone at a time, on a CPU.
_BATCH_SIZE = 16
#: Images whitened at a time.
_CHUNK = 64

Rows = NDArray[np.float32]


class Representation(keras.Model):
    """pixels (n, h, w, c) in [0, 1] -> whitened features (n, gh, gw, channels), at most `LIMIT` from 0.

    Nothing of it is trained here.

    Args:
        config: of the preset ``features``.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__(name="representation")
        self.backbone = build_backbone(config)
        self.backbone.trainable = False
        height, width, channels = value_shape(config)
        n = height * width
        self.centre = self.add_weight(name="centre", shape=(n, channels), initializer="zeros", trainable=False)
        self.whitening = self.add_weight(
            name="whitening", shape=(n, channels, channels), initializer="zeros", trainable=False
        )
        self.built = True

    def call(self, pixels: Tensor) -> Tensor:
        """Whitened features."""
        features = self.backbone(pixels, training=False)
        _, height, width, channels = features.shape
        rows = ops.reshape(features, (-1, height * width, channels)) - self.centre
        # One product for each position: (n_positions, n, channels) x (n_positions, channels, channels).
        whitened = ops.matmul(ops.transpose(rows, (1, 0, 2)), ops.transpose(self.whitening, (0, 2, 1)))
        limited = ops.clip(whitened, -LIMIT, LIMIT)
        return ops.reshape(ops.transpose(limited, (1, 0, 2)), (-1, height, width, channels))


class Values(NamedTuple):
    """What a VAE learns from: pixels, or whitened features in their place, (n, gh, gw, channels).

    train: whitened by the moments of other images; by its own, each image would be whiter than new ones.
    validation: whitened as new images will be.
    """

    train: PixelRows
    validation: PixelRows


def fit_representation(
    pixels: PixelRows,
    validation: PixelRows,
    config: VAEConfig,
    train_config: TrainConfig,
    aside: Path,
    checkpoint: Path | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> tuple[Representation, Values]:
    """Train or load the backbone, and learn the mean and the covariance of its features over normal images.

    Args:
        pixels: (n, h, w, c), normal images, at least `MIN_IMAGES`.
        validation: (m, h, w, c), other normal images, which decide how much the positions have in common.
        config, train_config: of the network and its training.
        aside: a folder for the features, 0.2 MB for each image of 16 x 16 positions.
        checkpoint, callbacks: of the training of the backbone.

    Raises:
        BackboneError: the backbone's weights are missing, or of another network.
        ValueError: too few images.
    """
    if len(pixels) < MIN_IMAGES:
        raise ValueError(
            f"{len(pixels)} images to train on: the preset features expects {MIN_IMAGES} or more. Add normal images, "
            "or take conv_1x1x16"
        )
    representation = Representation(config)
    give_weights(representation.backbone, pixels, config, train_config, checkpoint, callbacks)
    train, held_out = (
        _features(representation.backbone, images, aside / f"{name}.npy")
        for name, images in (("train", pixels), ("validation", validation))
    )
    # The products, one for each position, are too small for several threads, which wait in loops: beside another
    # training they took a minute instead of a second.
    with threadpool_limits(1, "blas"):
        mean, whitening = _fit_whitening(train, held_out)
    representation.centre.assign(mean)
    representation.whitening.assign(whitening)
    shape = value_shape(config)
    return representation, Values(train.reshape(-1, *shape), held_out.reshape(-1, *shape))


def _fit_whitening(train: Rows, held_out: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and whitening of training images; both sets are whitened in place, see `Values`."""
    moments = Moments.of(train)
    shrinkage = max(
        itertools.product(_POOLED, _RIDGES),
        key=lambda weights: _log_likelihood(moments.mean, whitening_of(moments, *weights), held_out),
    )
    whitening = whitening_of(moments, *shrinkage)
    _whiten(held_out, moments.mean, whitening)
    for fold in range(_FOLDS):
        # A view.
        part = train[fold::_FOLDS]
        others = moments.without(Moments.of(part))
        _whiten(part, others.mean, whitening_of(others, *shrinkage))
    return moments.mean, whitening


def whitening_of(moments: Moments, pooled: float, ridge: float) -> NDArray[np.float64]:
    """(p, c, c) lower triangular L with L S L^T = 1, S each position's covariance drawn towards all positions'.

    Args:
        pooled: weight of the mean covariance of all positions, in [0, 1].
        ridge: share of the mean variance that is added to every direction.
    """
    covariance = moments.covariance
    common = covariance.mean(axis=0)
    added = ridge * np.trace(common) / len(common) * np.eye(len(common))
    drawn = (1 - pooled) * covariance + pooled * common + added
    return np.linalg.inv(np.linalg.cholesky(drawn))


def _features(backbone: keras.Model, images: PixelRows, path: Path) -> Rows:
    """(n, positions, channels) of all images, in a file that is mapped as an array."""
    _, height, width, channels = backbone.output.shape
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (len(images), height * width, channels))
    size = images_at_once(_BATCH_SIZE)
    for start in range(0, len(images), size):
        some = to_unit(images[start : start + size])
        features = np.asarray(backbone.predict_on_batch(padded(some, size)))
        rows[start : start + len(some)] = features[: len(some)].reshape(len(some), -1, channels)
    return rows


def _whitened(rows: Rows, mean: NDArray[np.float64], whitening: NDArray[np.float64]) -> Iterator[tuple[int, Rows]]:
    """Some rows at a time, with the number of the first."""
    turned = whitening.astype(np.float32).transpose(0, 2, 1)
    for start in range(0, len(rows), _CHUNK):
        centred = (rows[start : start + _CHUNK] - mean).astype(np.float32)
        yield start, np.matmul(centred.transpose(1, 0, 2), turned).transpose(1, 0, 2)


def _whiten(rows: Rows, mean: NDArray[np.float64], whitening: NDArray[np.float64]) -> None:
    """(n, p, c) features, in place."""
    for start, some in _whitened(rows, mean, whitening):
        rows[start : start + len(some)] = np.clip(some, -LIMIT, LIMIT)


def _log_likelihood(mean: NDArray[np.float64], whitening: NDArray[np.float64], rows: Rows) -> float:
    """Nats of all rows under a Gaussian for each position, without its constant."""
    squares = sum(float(np.square(some, dtype=np.float64).sum()) for _, some in _whitened(rows, mean, whitening))
    return len(rows) * float(np.log(np.diagonal(whitening, axis1=1, axis2=2)).sum()) - squares / 2
