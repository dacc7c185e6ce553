"""How fast a device trains and scores with the presets, and whether its scores are those of a CPU.

    KERAS_BACKEND=jax python -m benchmarks.gpu        or tensorflow; runs on a CPU, too

prints two tables, in some six minutes on one H200: presets of pixels at 64, 128 and 256 px, and models of features at
256 px. They have images/s, FLOP/s as a share of the fastest matrix product measured in the same run, and peak memory.
FLOPs are those of the convolutions (two for each multiply-add), three times the forward ones in training; XLA may need
fewer. For models of features the batch size doubles until speed or memory sets a limit. Their scores are compared with
those that a process without the accelerator computes from the same bundle; a share of at most 1e-5 counts as equal.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from benchmarks.rates import circumstances, peak_mib
from benchmarks.table import heads, row
from nelbo import vae_core
from nelbo.vae_core import TrainConfig, VAEConfig
from nelbo.vae_core.config import DEEP, LINEAR, LITE0, PRESETS, SELF_TRAINED
from nelbo.vae_core.device import compute_in_float32, jit_compile
from nelbo.vae_core.features.pretrained import find_weights
from nelbo.vae_core.model import draw_eps
from nelbo.vae_core.network.vae import VAE
from nelbo.vae_core.scorer import Scorer
from nelbo.vae_core.scoring import Score
from nelbo.vae_core.training.batches import Batches
from nelbo.vae_core.usual import Usual

REPEATS = 5
#: Images whose scores are compared.
N_COMPARED = 32
#: Environment that hides the accelerator from a process.
CPU_ONLY = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}


def forward_flops(network: VAE) -> int:
    """FLOPs of the convolutions on one image: 2 x kernel area x channels in x channels out x positions."""
    total = 0
    for part in (network.encoder, network.decoder):
        for layer in part.layers:
            if isinstance(layer, layers.Conv2D | layers.Conv2DTranspose):
                transposed = isinstance(layer, layers.Conv2DTranspose)
                positions = (layer.input if transposed else layer.output).shape[1:3]
                total += 2 * int(np.prod(layer.kernel.shape)) * int(np.prod(positions))
    return total


def matrix_product(dtype: str, seconds: float) -> float:
    """FLOP/s of the fastest of several square matrix products."""
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
    """Median time of a call until its result is there; the first one, which compiles, is left out."""
    times = []
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        # Fetching one number waits for the whole result, at hardly any cost of transfer.
        float(ops.convert_to_numpy(ops.sum(ops.cast(call()[:1, :1], "float32"))))
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))


def train_speed(config: VAEConfig, settings: TrainConfig, n: int) -> tuple[float, VAE]:
    """Images/s of the median epoch, without the first one, and the network."""
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
    """Images/s of the whole scoring function on full batches, including the transfer of pixels."""
    config = network.config
    ones = np.ones((config.height, config.width), np.float32)
    scorer = Scorer(config, network, draw_eps(config, 0), Usual(0 * ones, ones), maps=False)
    pixels = np.random.default_rng(0).random((batch_size, config.height, config.width, 1), np.float32)
    times = []
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        np.asarray(scorer.predict_on_batch(pixels)["nelbo"])
        times.append(time.perf_counter() - started)
    return batch_size / float(np.median(times[1:]))


def memory_mib() -> float:
    """Peak memory so far: of the device where it is known, else of the process."""
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


def feature_cells(config: VAEConfig, n: int, epochs: int) -> list[str]:
    """A row of the second table: a model of features trained on n images, its fastest batch, and its scores."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, config.height, config.width, 1), np.uint8)
    n_validation = n // 4
    training = vae_core.train(
        pixels[n_validation:], pixels[:n_validation], config, TrainConfig(epochs=epochs, patience=epochs)
    )
    some = pixels[:N_COMPARED].astype(np.float32) / 255
    exported = vae_core.export(training.model, "keras", some, model_id="m1")
    with tempfile.TemporaryDirectory(prefix="nelbo-") as folder:
        off = difference_from_cpu(training.model, some, exported.subtracted, Path(folder))
    return [
        f"{config.head} on {config.backbone}",
        f"{config.height}",
        f"{training.history['images_per_s'][-1]:,.0f}",
        f"{exported.batch_size}",
        f"{exported.images_per_s['keras']:,.0f}",
        f"{off:.1e}",
        f"{memory_mib():,.0f}",
    ]


def difference_from_cpu(model: vae_core.Model, pixels: np.ndarray, subtracted: float, folder: Path) -> float:
    """The largest difference of a number as a share of its scale, see `vae_core.differences`."""
    bundle = folder / vae_core.save_bundle(model, folder)
    np.save(folder / "pixels.npy", pixels)
    command = [sys.executable, "-m", "benchmarks.gpu", "--reference", str(bundle)]
    subprocess.run(command, check=True, env=os.environ | CPU_ONLY)
    with np.load(folder / "scores.npz") as kept:
        expected = Score(**{name: kept.get(name) for name in Score._fields})
    found = vae_core.score(model, pixels, maps=False)
    return float(max(share.max() for share in vae_core.differences(found, expected, subtracted).values()))


def write_reference(bundle: Path) -> None:
    """Score the pixels beside a bundle in this process, and write the scores there."""
    score = vae_core.score(vae_core.load_bundle(bundle), np.load(bundle.parent / "pixels.npy"), maps=False)
    known = {name: value for name, value in score._asdict().items() if value is not None}
    np.savez(bundle.parent / "scores.npz", **known)


def pixel_cells(config: VAEConfig, settings: TrainConfig, n: int, peak: float) -> list[str]:
    """A row of the first table."""
    trained, network = train_speed(config, settings, n)
    scored = score_speed(network, settings.batch_size)
    flops = forward_flops(network)
    return [
        config.preset,
        f"{config.height}",
        f"{flops / 1e9:.3g}",
        f"{trained:,.0f}",
        f"{100 * 3 * flops * trained / peak:.1f} %",
        f"{scored:,.0f}",
        f"{100 * flops * scored / peak:.1f} %",
        f"{memory_mib():,.0f}",
    ]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512, help="in an epoch at 64 px; fewer at larger sizes")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", default="float32", help="of training")
    parser.add_argument("--smoke", action="store_true", help="a few small images, to see that it runs")
    parser.add_argument("--reference", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.reference is not None:
        write_reference(given.reference)
        return
    sides, n_learnt, feature_side = ((16,), 40, 64) if given.smoke else ((64, 128, 256), 200, 256)
    compute_in_float32()
    dtype = "bfloat16" if given.precision == "mixed_bfloat16" else "float32"
    # A CPU takes a minute for the largest product.
    peak = matrix_product(dtype, seconds=0 if given.smoke else 2)
    device = keras.distribution.list_devices() or [platform.machine()]
    print(
        f"{circumstances()}\nKeras {keras.__version__} on {keras.backend.backend()}, {device[0]}, {given.precision}; "
        f"matrix product {peak / 1e12:.3g} TFLOP/s; medians of {REPEATS}\n"
    )
    columns = ("preset", "px", "GFLOP/image", "train images/s", "of the product", "score images/s", "of the product")
    print("\n".join(heads(*columns, "peak MiB")))
    # The preset of features is trained differently; its table is below.
    for preset in (name for name in PRESETS if VAEConfig(preset=name).is_pixels):
        for side in sides:
            batch_size = 4 if given.smoke else max(4, given.batch_size * 64 * 64 // (side * side))
            n = 8 if given.smoke else max(2 * batch_size, given.images * 64 * 64 // (side * side))
            settings = TrainConfig(batch_size=batch_size, precision=given.precision)
            print(row(*pixel_cells(VAEConfig(side, side, preset=preset), settings, n, peak)), flush=True)
    columns = ("model", "px", "train images/s", "batch", "score images/s", "off the CPU's scores", "peak MiB")
    print("\n" + "\n".join(heads(*columns)))
    # A deep head needs the features of a network.
    network = LITE0 if find_weights() else SELF_TRAINED
    for head in (LINEAR, DEEP):
        config = VAEConfig(feature_side, feature_side, backbone=network, head=head)
        print(row(*feature_cells(config, n_learnt, epochs=3)), flush=True)


if __name__ == "__main__":
    main()
