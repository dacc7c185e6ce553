"""What a device makes of the presets: training and scoring at 64, 128 and 256 px.

    KERAS_BACKEND=jax python -m benchmarks.speed.gpu        or tensorflow; runs on a CPU too

Prints images/s, FLOP/s as a share of the fastest matrix product measured in the same run, and peak memory. FLOPs are
those of the convolutions (two a multiply-add), three times the forward ones in training; XLA may do fewer.
"""

import argparse
import platform
import time
from collections.abc import Callable

import keras
import numpy as np
from keras import layers, ops

from benchmarks.rates import peak_mib
from benchmarks.table import heads, row
from nelbo.vae_core import TrainConfig, VAEConfig
from nelbo.vae_core.config import PRESETS
from nelbo.vae_core.device import jit_compile
from nelbo.vae_core.model import draw_eps
from nelbo.vae_core.network.vae import VAE
from nelbo.vae_core.scorer import Scorer
from nelbo.vae_core.training.batches import Batches

REPEATS = 5


def forward_flops(network: VAE) -> int:
    """Of the convolutions of one image: 2 x kernel area x channels in x channels out x positions."""
    total = 0
    for part in (network.encoder, network.decoder):
        for layer in part.layers:
            if isinstance(layer, layers.Conv2D | layers.Conv2DTranspose):
                transposed = isinstance(layer, layers.Conv2DTranspose)
                positions = (layer.input if transposed else layer.output).shape[1:3]
                total += 2 * int(np.prod(layer.kernel.shape)) * int(np.prod(positions))
    return total


def matrix_product(dtype: str, seconds: float) -> float:
    """FLOP/s of the best of several square sizes."""
    best = 0.0
    for side in (1024, 2048, 4096, 8192):
        a = ops.cast(np.random.default_rng(0).random((side, side), np.float32), dtype)
        flops = 2 * side**3
        took = _seconds(lambda a=a: ops.matmul(a, a))
        best = max(best, flops / took)
        if took > seconds:
            break
    return best


def _seconds(call: Callable[[], object]) -> float:
    """Median time of a call whose result is waited for; the first one, which compiles, is left out."""
    times = []
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        # One number is brought over: that waits for all, at no cost of transfer.
        float(ops.convert_to_numpy(ops.sum(ops.cast(call()[:1, :1], "float32"))))
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))


def train_speed(config: VAEConfig, settings: TrainConfig, n: int) -> tuple[float, VAE]:
    """Images/s of the median epoch after the first, and the network."""
    network = VAE(config, objective=settings)
    network.compile(keras.optimizers.Adam(1e-4), jit_compile=jit_compile())
    pixels = np.random.default_rng(0).integers(0, 256, (n, config.height, config.width, 1), np.uint8)
    batches = Batches(pixels, config, settings)
    times = []
    for epoch in range(1 + REPEATS):
        batches.start(epoch)
        started = time.perf_counter()
        network.fit(batches, shuffle=False, verbose=0)
        times.append(time.perf_counter() - started)
    return n / float(np.median(times[1:])), network


def score_speed(network: VAE, batch_size: int) -> float:
    """Images/s of the whole scoring function on full batches, transfer of pixels included."""
    config = network.config
    ones = np.ones((config.height, config.width), np.float32)
    scorer = Scorer(network, draw_eps(config, 0), 0 * ones, ones, maps=False)
    pixels = np.random.default_rng(0).random((batch_size, config.height, config.width, 1), np.float32)
    times = []
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        np.asarray(scorer.predict_on_batch(pixels)["nelbo"])
        times.append(time.perf_counter() - started)
    return batch_size / float(np.median(times[1:]))


def memory_mib() -> float:
    """Peak so far: of the device where it says so, else of the process."""
    if keras.backend.backend() == "jax":
        import jax

        found = jax.devices()[0].memory_stats()
        if found:
            return found["peak_bytes_in_use"] / 2**20
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    return peak_mib()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512, help="in an epoch at 64 px; fewer at larger sizes")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128, 256])
    given = parser.parse_args()
    peak = matrix_product("bfloat16" if given.precision == "mixed_bfloat16" else "float32", seconds=2)
    device = keras.distribution.list_devices() or [platform.machine()]
    print(
        f"Keras {keras.__version__} on {keras.backend.backend()}, {device[0]}, {given.precision}; "
        f"matrix product {peak / 1e12:.3g} TFLOP/s; medians of {REPEATS}\n"
    )
    columns = ("preset", "px", "GFLOP/image", "train images/s", "of the product", "score images/s", "of the product")
    print("\n".join(heads(*columns, "peak MiB")))
    for preset in PRESETS:
        for side in given.sides:
            config = VAEConfig(height=side, width=side, preset=preset)
            if not config.is_pixels:
                # Its training is another one: of the backbone first, and then of a network that sees no pixels.
                continue
            batch_size = max(4, given.batch_size * 64 * 64 // (side * side))
            settings = TrainConfig(batch_size=batch_size, precision=given.precision)
            n = max(2 * batch_size, given.images * 64 * 64 // (side * side))
            trained, network = train_speed(config, settings, n)
            scored = score_speed(network, batch_size)
            flops = forward_flops(network)
            cells = [
                preset,
                f"{side}",
                f"{flops / 1e9:.3g}",
                f"{trained:,.0f}",
                f"{100 * 3 * flops * trained / peak:.1f} %",
                f"{scored:,.0f}",
                f"{100 * flops * scored / peak:.1f} %",
                f"{memory_mib():,.0f}",
            ]
            print(row(*cells), flush=True)


if __name__ == "__main__":
    main()
