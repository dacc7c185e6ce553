"""Training a backbone on normal images alone: it learns to find simulated defects and to tell mirror images apart.

For that it must know the texture of normal images and its orientation, which its feature maps then describe.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from PIL import Image

from nelbo.vae_core.config import FILTERS, SELF_TRAINED, TrainConfig, VAEConfig
from nelbo.vae_core.device import jit_compile, keep_freed_memory
from nelbo.vae_core.features.backbones import load_weights, self_trained_maps
from nelbo.vae_core.features.defects import break_image
from nelbo.vae_core.network.architecture import initial_weights
from nelbo.vae_core.network.likelihoods import Tensor
from nelbo.vae_core.pixels import PixelRows, fingerprint, to_unit
from nelbo.vae_core.training.checkpoint import Checkpoint

log = logging.getLogger(__name__)

#: Batches that count as one epoch: after each epoch the state is saved.
STEPS_AN_EPOCH = 100
BATCH_SIZE = 32
#: Pixels along a side of what one prediction of a defect covers.
_STRIDE_PX = 8
#: Share of those pixels above which a defect counts as there.
_COVERED = 0.08
#: Shares of the crops with a defect, and of those turned or mirrored at random.
_DEFECTS, _TURNED = 0.75, 0.7
_N_ORIENTATIONS = 8
_ORIENTATION_WEIGHT = 0.1
_FILTERS = 64
_LEARNING_RATE, _WEIGHT_DECAY = 2e-3, 1e-4


class Crops(keras.utils.PyDataset):
    """Crops with simulated defects, in one of eight orientations; an epoch is some batches.

    A crop is a square of half to the whole of the image's shorter side, resized to half of that side: things appear at
    the size at which the backbone sees whole images afterwards, and up to twice that.

    Random choices depend on the seed, the epoch and the batch's number only.

    Args:
        pixels: normal images.
        n_steps: batches in all.
        seed: of all choices.
    """

    def __init__(self, pixels: PixelRows, n_steps: int, seed: int) -> None:
        super().__init__(workers=1)
        self.pixels, self.n_steps, self.seed = pixels, n_steps, seed
        self.side = min(pixels.shape[1:3]) // 2
        self.epoch = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return min(STEPS_AN_EPOCH, self.n_steps)

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Crops (n, side, side, c) in [0, 1]; where the defects are, and the orientation."""
        random = np.random.default_rng([self.seed, 2, self.epoch, index])
        made = [self._crop(random) for _ in range(BATCH_SIZE)]
        crops, defective, orientations = (np.stack(column) for column in zip(*made, strict=True))
        return crops, {"defect": defective[..., None], "orientation": orientations}

    def _crop(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        crop, defective = self._cut(random), np.zeros((self.side, self.side), bool)
        if random.random() < _DEFECTS:
            crop, defective = break_image(crop, self._cut(random), random)
        orientation = int(random.integers(_N_ORIENTATIONS)) if random.random() < _TURNED else 0
        n = self.side // _STRIDE_PX
        covered = _oriented(defective, orientation).reshape(n, _STRIDE_PX, n, _STRIDE_PX).mean(axis=(1, 3))
        return _oriented(crop, orientation), np.asarray(covered > _COVERED, np.float32), orientation

    def _cut(self, random: np.random.Generator) -> np.ndarray:
        row, side = random.integers(len(self.pixels)), round(self.side * 2 ** random.random())
        top, left = (random.integers(length - side + 1) for length in self.pixels.shape[1:3])
        image = self.pixels[row : row + 1][0]
        return _shrunk(to_unit(image[top : top + side, left : left + side]), self.side)


class _Epochs(keras.callbacks.Callback):
    """Tells the crops their epoch, and logs the progress."""

    def __init__(self, crops: Crops, n_epochs: int, rows: list[dict[str, float]]) -> None:
        super().__init__()
        self.crops, self.n_epochs, self.rows = crops, n_epochs, rows

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras names them
        self.crops.epoch = epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self.rows.append({name: float(value) for name, value in logs.items()})
        loss, right = logs["defect_loss"], logs["orientation_accuracy"]
        log.info(
            "backbone: epoch %d of %d, defects %.4f nats, orientation %.0f %%",
            epoch + 1,
            self.n_epochs,
            loss,
            100 * right,
        )
        if not np.isfinite(logs["loss"]):
            raise FloatingPointError(f"the backbone's loss became NaN or infinite in epoch {epoch + 1}")


def give_weights(
    backbone: keras.Model,
    pixels: PixelRows,
    config: VAEConfig,
    train_config: TrainConfig,
    checkpoint: Path | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Train a backbone that learns from the normal images, or load the weights of another; filters need neither.

    Args:
        backbone: from `nelbo.vae_core.features.backbones.build_backbone`; it is changed in place.
        pixels: (n, h, w, c), normal images.
        config: of the network.
        train_config: `pretext_steps` and `seed` are read, or `backbone_weights`.
        checkpoint: a file written after every epoch, from which an interrupted training goes on.
        callbacks: further callbacks of Keras for the training.

    Raises:
        BackboneError: the weights are missing, or of another network.
        FloatingPointError: the loss became NaN or infinite.

    Source: Schlueter et al. 2022, "Natural synthetic anomalies" (defects to be found, of the images themselves);
    Golan and El-Yaniv 2018, "Deep anomaly detection using geometric transformations".
    """
    if config.backbone == FILTERS:
        return
    if config.backbone != SELF_TRAINED:
        path = train_config.backbone_weights
        load_weights(backbone, config, None if path is None else Path(path))
        return
    crops = Crops(pixels, train_config.pretext_steps, train_config.seed)
    n_epochs = n_pretext_epochs(config, train_config)
    network = _network(crops.side, config.channels, n_epochs * len(crops), train_config.seed)
    rows: list[dict[str, float]] = []
    own: list[keras.callbacks.Callback] = [_Epochs(crops, n_epochs, rows)]
    if checkpoint is not None:
        facts = {"pretext": [config.to_dict(), train_config.to_dict()], "images": fingerprint(pixels)}
        kept = Checkpoint(checkpoint, facts, None, rows)
        kept.restore(network)
        own.append(kept)
    network.fit(crops, shuffle=False, epochs=n_epochs, initial_epoch=len(rows), callbacks=[*own, *callbacks], verbose=0)
    for layer in backbone.layers:
        if layer.weights:
            layer.set_weights(network.get_layer(layer.name).get_weights())


def n_pretext_epochs(config: VAEConfig, train_config: TrainConfig) -> int:
    """Epochs of the training of the backbone that come before those of the VAE; 0 where none is trained.

    Args:
        config: the network.
        train_config: the training.

    >>> from nelbo.vae_core import TrainConfig, VAEConfig
    >>> n_pretext_epochs(VAEConfig(backbone="filters"), TrainConfig())
    0
    """
    return -(-train_config.pretext_steps // STEPS_AN_EPOCH) if config.backbone == SELF_TRAINED else 0


def _network(side: int, channels: int, n_steps: int, seed: int) -> keras.Model:
    """Crops -> logits of a defect at each 8 x 8 pixels, and of the orientation; compiled."""
    keep_freed_memory()
    crops = keras.Input((side, side, channels), name="crops")
    weights = initial_weights(seed).__next__

    def conv(x: Tensor, filters: int, kernel: int, name: str, activation: str | None = None) -> Tensor:
        return layers.Conv2D(
            filters, kernel, padding="same", activation=activation, kernel_initializer=weights(), name=name
        )(x)

    fine, *maps = self_trained_maps(crops, weights)
    n = side // _STRIDE_PX
    maps = [layers.AveragePooling2D(2)(fine), *maps]
    joined = layers.Add(name="joined")(
        [_enlarged(conv(x, _FILTERS, 1, f"map_{depth}"), n) for depth, x in enumerate(maps)]
    )
    defect = conv(conv(layers.ReLU()(joined), _FILTERS, 3, "head", "relu"), 1, 1, "defect")
    dense = layers.Dense(_N_ORIENTATIONS, kernel_initializer=weights(), name="orientation")
    orientation = dense(layers.GlobalAveragePooling2D()(maps[-1]))
    network = keras.Model(crops, {"defect": defect, "orientation": orientation})
    schedule = keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, n_steps)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=_WEIGHT_DECAY)
    # TensorFlow would trace a step twice that creates variables.
    optimizer.build(network.trainable_variables)
    network.compile(
        optimizer,
        loss={
            "defect": keras.losses.BinaryCrossentropy(from_logits=True),
            "orientation": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        },
        loss_weights={"defect": 1.0, "orientation": _ORIENTATION_WEIGHT},
        metrics={"orientation": "accuracy"},
        jit_compile=jit_compile(),
    )
    return network


def _enlarged(x: Tensor, side: int) -> Tensor:
    """(n, side, side, c), interpolated linearly; halving an odd side has rounded up, and the surplus is cut off."""
    times = -(-side // x.shape[1])
    if times == 1:
        return x
    x = layers.UpSampling2D(times, interpolation="bilinear")(x)
    surplus = x.shape[1] - side
    return layers.Cropping2D(((0, surplus), (0, surplus)))(x) if surplus else x


def _shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """(side, side, c) of a larger square, by area."""
    # Not by NumPy's products, whose threads keep TensorFlow's from working. Pillow takes floats of one channel only.
    channels = (Image.fromarray(image[..., channel]) for channel in range(image.shape[-1]))
    return np.stack([np.asarray(one.resize((side, side), Image.Resampling.BOX)) for one in channels], axis=-1)


def _oriented(image: np.ndarray, orientation: int) -> np.ndarray:
    """One of the eight ways in which a square can lie."""
    turned = np.rot90(image, orientation % 4)
    return turned[:, ::-1] if orientation >= 4 else turned
