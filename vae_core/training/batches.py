"""Training images in batches, with all that is random about them."""

import keras
import numpy as np

from nelbo.vae_core.config import TrainConfig, VAEConfig
from nelbo.vae_core.features.defects import with_defects
from nelbo.vae_core.network.architecture import latent_shape
from nelbo.vae_core.pixels import PixelRows, to_unit
from nelbo.vae_core.training.augmentation import mirror_and_shift


class Batches(keras.utils.PyDataset):
    """Images, noise and weights, batch by batch; read ahead on threads.

    Order, noise, defects, flips and shifts come from the seed, the epoch and the batch's number alone, so that a
    training that was interrupted goes on with what it would have seen, on any number of devices.

    Args:
        pixels: the images.
        config: of the network, for the shape of the noise.
        train_config: batch size, devices, seed and what may be done to an image.
        validation: the same batches in each epoch, of images as they are.
    """

    def __init__(
        self, pixels: PixelRows, config: VAEConfig, train_config: TrainConfig, *, validation: bool = False
    ) -> None:
        # One worker: TensorFlow reads ahead on a thread of its own, and JAX computes while the next batch is made.
        # With more, Keras's queue carries batches over from one epoch to the next on JAX.
        super().__init__(workers=1)
        self.pixels, self.train_config, self.validation = pixels, train_config, validation
        self.latent_shape = latent_shape(config)
        self.start(0)

    def start(self, epoch: int) -> None:
        """Set the epoch that the batches belong to, before it begins."""
        self.epoch = epoch
        n = len(self.pixels)
        self.order = np.arange(n) if self.validation else self._random(0).permutation(n)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.pixels) // self.train_config.batch_size)

    def rows(self, index: int) -> np.ndarray:
        """Row numbers of the images in a batch of the epoch; ascending, because disks read in this order."""
        size = self.train_config.batch_size
        return np.sort(self.order[index * size : (index + 1) * size])

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray]]:
        """``pixels``, ``eps``, ``weight``, and ``seen`` where the encoder sees defects; padded for the devices."""
        settings = self.train_config
        rows = self.rows(index)
        random = self._random(1 + index)
        pixels = to_unit(self.pixels[rows])
        batch = {
            "eps": random.standard_normal((len(rows), *self.latent_shape), np.float32),
            "weight": np.full(len(rows), 1 / len(rows), np.float32),
        }
        if not self.validation:
            if settings.flip != "none" or settings.shift_px:
                pixels = mirror_and_shift(pixels, settings.flip, settings.shift_px, random)
            if settings.denoising:
                batch["seen"] = with_defects(pixels, settings.denoising, random)
        batch["pixels"] = pixels
        return ({name: _padded(values, settings.devices, name != "weight") for name, values in batch.items()},)

    def _random(self, stream: int) -> np.random.Generator:
        epoch = 0 if self.validation else 1 + self.epoch
        return np.random.default_rng([self.train_config.seed, epoch, stream])


def _padded(values: np.ndarray, n_devices: int, repeat: bool) -> np.ndarray:
    """As many rows as divide evenly over the devices: the first one repeated, or zeros."""
    n_padding = -len(values) % n_devices
    if not n_padding:
        return values
    first = values[:1] if repeat else np.zeros_like(values[:1])
    return np.concatenate([values, *[first] * n_padding])
