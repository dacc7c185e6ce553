"""Training throughput: nelbo's pipeline against a bare Keras ``fit`` of the same network, side by side.

    python -m benchmarks.speed.training

nelbo's pipeline reads a memory-mapped uint8 cache on disk in another order each epoch, and feeds the noise with the
batch; the bare one is a plain Keras model of the same encoder, decoder and loss on a float32 array in memory, which
draws its noise itself. Epochs of the two alternate, so that other load of the machine affects both; the first epoch of
each, which compiles, is left out. The script also prints the share of a step that the model waits for its data.
"""

import argparse
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from keras import ops
from PIL import Image

from benchmarks.table import heads, row
from nelbo.data import CachedPixels, Preprocessing, cache_images
from nelbo.vae_core import Sampling, TrainConfig, VAEConfig, kl_divergence
from nelbo.vae_core.device import jit_compile
from nelbo.vae_core.network.architecture import build_decoder, build_encoder
from nelbo.vae_core.network.layers import make_likelihood
from nelbo.vae_core.network.likelihoods import sum_per_image
from nelbo.vae_core.network.vae import VAE
from nelbo.vae_core.training.batches import Batches

ROUNDS = 7


class Bare(keras.Model):
    """The shortest Keras VAE of the same network: no options, no history of its parts, noise drawn inside."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.encoder, self.decoder = build_encoder(config), build_decoder(config, config.channels)
        self.sampling, self.likelihood = Sampling(0), make_likelihood(config)
        self.likelihood.build(None)

    def call(self, pixels: np.ndarray) -> object:
        """(n,) nelbo."""
        z_mean, z_log_var = self.encoder(pixels)
        mean = self.decoder(self.sampling([z_mean, z_log_var]))
        return kl_divergence(z_mean, z_log_var) - sum_per_image(self.likelihood([pixels, mean]))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):  # type: ignore[no-untyped-def]  # noqa: ARG002
        """Mean over the batch."""
        return ops.mean(y_pred)


class Seconds(keras.callbacks.Callback):
    """Time of one epoch."""

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        self.seconds = time.perf_counter() - self.started


def cached(folder: Path, n: int, side: int) -> CachedPixels:
    """A cache of n random images, made as training does."""
    random = np.random.default_rng(0)
    files = [folder / f"{i}.png" for i in range(n)]
    for file in files:
        Image.fromarray(random.integers(0, 256, (side, side), np.uint8)).save(file)
    return cache_images(files, Preprocessing(side, side), folder / "cache").pixels


def epoch_of(model: keras.Model, data: object, epoch: int, batch_size: int | None) -> float:
    """Train for one more epoch, and return its seconds."""
    timer = Seconds()
    arguments = {"batch_size": batch_size} if batch_size else {"shuffle": False}
    if isinstance(data, Batches):
        data.start(epoch)
    model.fit(data, verbose=0, callbacks=[timer], **arguments)
    return timer.seconds


def compare(side: int, n: int, batch_size: int) -> list[str]:
    """Cells of one row."""
    config, settings = VAEConfig(height=side, width=side, preset="conv_1x1x16"), TrainConfig(batch_size=batch_size)
    with tempfile.TemporaryDirectory() as folder:
        pixels = cached(Path(folder), n, side)
        ours, bare = VAE(config), Bare(config)
        for model in (ours, bare):
            model.compile(keras.optimizers.Adam(1e-4), jit_compile=jit_compile())
        batches, array = Batches(pixels, config, settings), pixels[:] / np.float32(255)
        ratios, speeds = [], []
        for round_ in range(1 + ROUNDS):
            pair = (epoch_of(ours, batches, round_, None), epoch_of(bare, array, round_, batch_size))
            if round_:
                ratios.append(pair[1] / pair[0])
                speeds.append(n / pair[0])
        started = time.perf_counter()
        for i in range(len(batches)):
            batches[i]
        data_share = (time.perf_counter() - started) / (n / np.median(speeds))
    low, high = np.quantile(ratios, [0.25, 0.75])
    return [
        f"{side} x {side}, batch {batch_size}",
        f"{np.median(speeds):,.0f}",
        f"{np.median(ratios):.3f} [{low:.3f}, {high:.3f}]",
        f"{100 * data_share:.2g} %",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=960)
    n = parser.parse_args().images
    print(
        f"Keras {keras.__version__} on {keras.backend.backend()}; medians of {ROUNDS} epochs, quartiles in brackets\n"
    )
    columns = ("input", "nelbo, images/s", "nelbo / bare Keras fit", "making batches, as a share of a step")
    print("\n".join(heads(*columns)))
    for side, batch_size in ((64, 32), (64, 128), (128, 32)):
        images = n if side == 64 else n // 4
        print(row(*compare(side, images, batch_size)), flush=True)


if __name__ == "__main__":
    main()
