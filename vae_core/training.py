"""Training on normal images."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from vae_core.config import TrainConfig, VAEConfig
from vae_core.device import jit_compile
from vae_core.model import Model, draw_eps, usual_local_nelbo
from vae_core.network import VAE
from vae_core.scoring import Array


class Training(NamedTuple):
    """What training gives: the model, and for each epoch the means over images of its parts, in nats."""

    model: Model
    history: dict[str, list[float]]


class StopAtNaN(keras.callbacks.Callback):
    """Ends training after an epoch whose loss is not finite; Keras's own callback prints to stdout."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:  # noqa: ARG002
        """Look at the epoch's loss."""
        if not np.isfinite(logs["loss"]):
            self.model.stop_training = True


class Batches(keras.utils.PyDataset):
    """The training images in batches, in another order each epoch that only seed and epoch decide."""

    def __init__(self, pixels: Array, batch_size: int, seed: int) -> None:
        super().__init__()
        self.pixels, self.batch_size, self.seed = pixels, batch_size, seed
        self.epoch = -1
        self.on_epoch_begin()

    def on_epoch_begin(self) -> None:
        """Draw the next order."""
        self.epoch += 1
        self.order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.pixels))

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.pixels) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[Array]:
        """One batch; Keras takes a tuple of one as images without targets."""
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return (self.pixels[rows],)


def train(
    pixels: Array,
    validation: Array,
    config: VAEConfig | None = None,
    train_config: TrainConfig | None = None,
    *,
    preprocessing: Mapping[str, Any] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Training:
    """Train a VAE on normal images and learn what is usual for each pixel.

    Args:
        pixels: (n, h, w, c) float32 in [0, 1], normal images.
        validation: (m, h, w, c), other normal images: they stop the training, and give the usual local
            negative ELBO. Neither set may hold an image that a threshold is calibrated on.
        config: the network; by default 64 x 64 grey.
        train_config: epochs, batches, seed.
        preprocessing: kept with the model, as it is.
        callbacks: further Keras callbacks.

    Raises:
        ValueError: an empty set, or a shape that is not the network's.
        FloatingPointError: the loss became NaN or infinite.

    >>> from vae_core import TrainConfig, VAEConfig, train
    >>> normals = np.random.default_rng(0).random((8, 16, 16, 1), np.float32)
    >>> training = train(normals[:6], normals[6:], VAEConfig(height=16, width=16), TrainConfig(epochs=2))
    >>> len(training.history["val_nelbo"])
    2
    """
    config, train_config = config or VAEConfig(), train_config or TrainConfig()
    for name, images in (("pixels", pixels), ("validation", validation)):
        if images.shape[1:] != (config.height, config.width, config.channels) or not len(images):
            expected = f"(n >= 1, {config.height}, {config.width}, {config.channels})"
            raise ValueError(f"{name} has shape {images.shape}, expected {expected}")
    network = VAE(config, seed=train_config.seed)
    network.compile(keras.optimizers.Adam(train_config.learning_rate), jit_compile=jit_compile())
    early_stopping = keras.callbacks.EarlyStopping(
        "val_nelbo", mode="min", patience=train_config.patience, restore_best_weights=True
    )
    history = network.fit(
        Batches(pixels, train_config.batch_size, train_config.seed),
        shuffle=False,
        epochs=train_config.epochs,
        validation_data=(validation,),
        validation_batch_size=train_config.batch_size,
        callbacks=[early_stopping, StopAtNaN(), *callbacks],
        verbose=0,
    ).history
    if not np.isfinite([*history["loss"], *history["val_loss"]]).all():
        raise FloatingPointError(
            f"the loss became NaN or infinite in epoch {len(history['loss'])}. "
            f"Train with a learning rate below {train_config.learning_rate}."
        )
    eps = draw_eps(config, train_config.seed)
    usual_mean, usual_std = usual_local_nelbo(network, eps, validation)
    model = Model(config, network, eps, usual_mean, usual_std, dict(preprocessing or {}))
    return Training(model, history)
