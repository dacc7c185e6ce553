"""Scoring by the model alone, by engine: images/s, share of the fastest matrix product, memory, latency.

    python -m benchmarks.speed.scoring

Each engine runs in a separate process, so that its memory can be measured; they take turns, so that other load of the
machine affects all of them. "predict" is Keras's own loop over the same graph, as a user would write it. The network is
untrained: the arithmetic is the same.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from joblib import cpu_count

from benchmarks.rates import REPEATS, Rate, circumstances, peak_mib
from benchmarks.speed.limits import MATRIX_SIDES, Ceiling, matrix_ceiling
from benchmarks.table import heads, row
from nelbo.vae_core import ENGINES, VAEConfig, is_installed, load_bundle, load_exported
from nelbo.vae_core.config import PRESETS
from nelbo.vae_core.scoring import score_batches

SIDES = (64, 128, 256)
BATCHES = (1, 32, 256)
PREDICT = "predict"
#: Runs of one image each, for its latency.
N_LATENCIES = 200
#: Least number of 64 x 64 images in one measurement; fewer if they are larger.
N_IMAGES = 512

#: Scores pixels.
Run = Callable[[np.ndarray], object]


def work(kind: str, folder: Path, pipe: Connection) -> None:
    """The process of one engine: for each task (batch, images, runs) it sends the runs' seconds; at last its memory."""
    model: Any = load_exported(folder) if kind not in (PREDICT, "keras") else load_bundle(folder)
    runs: dict[int, Run] = {}
    while (task := pipe.recv()) is not None:
        batch, n, times = task
        pixels = np.random.default_rng(0).random((n, *_shape(model.config)), np.float32)
        if batch not in runs:
            runs[batch] = _run(kind, model, batch)
            # This compiles the graph.
            runs[batch](pixels)
        pipe.send([_seconds(runs[batch], pixels) for _ in range(times)])
    pipe.send(peak_mib())


def _run(kind: str, model: Any, batch: int) -> Run:
    graph = replace(model, batch_size=batch).graph(maps=False)
    if kind == PREDICT:
        return lambda pixels: graph.predict(pixels, batch_size=batch, verbose=0)
    return lambda pixels: score_batches(graph, pixels)


def _seconds(run: Run, pixels: np.ndarray) -> float:
    started = time.perf_counter()
    run(pixels)
    return time.perf_counter() - started


def _shape(config: VAEConfig) -> tuple[int, int, int]:
    return config.height, config.width, config.channels


def make(config: VAEConfig, folder: Path) -> tuple[dict[str, Path], float]:
    """What each engine loads, and the FLOPs of one image."""
    from benchmarks.gpu import forward_flops
    from nelbo.vae_core import Model, export, save_bundle, save_exported
    from nelbo.vae_core.model import draw_eps
    from nelbo.vae_core.network.vae import VAE

    ones = np.ones((config.height, config.width), np.float32)
    model = Model(config, VAE(config), draw_eps(config, 0), 0 * ones, ones, {})
    bundle = folder / save_bundle(model, folder)
    folders = {PREDICT: bundle, "keras": bundle}
    for engine in ENGINES:
        if engine != "keras" and is_installed(engine):
            folders[engine] = folder / engine
            pixels = np.random.default_rng(0).random((4, *_shape(config)), np.float32)
            save_exported(export(model, engine, pixels, model_id=bundle.name), folders[engine])
    return folders, forward_flops(model.network)


def compare(folders: Mapping[str, Path], tasks: Sequence[tuple[int, int, int]], rounds: int) -> dict[str, Any]:
    """For each engine the seconds of its runs by task, and its peak memory."""
    context = get_context("spawn")
    pipes = {}
    for kind, folder in folders.items():
        pipes[kind], other = context.Pipe()
        context.Process(target=work, args=(kind, folder, other), daemon=True).start()
    found: dict[str, Any] = {kind: {task: [] for task in tasks} for kind in folders}
    for task in tasks:
        for _ in range(rounds):
            for kind, pipe in pipes.items():
                pipe.send(task)
                found[kind][task] += pipe.recv()
    for kind, pipe in pipes.items():
        pipe.send(None)
        found[kind]["MiB"] = pipe.recv()
    return found


def rows(config: VAEConfig, ceiling: Ceiling, batches: Sequence[int], n_images: int, rounds: int) -> list[str]:
    """Lines of the table for one size of input."""
    with tempfile.TemporaryDirectory() as folder:
        folders, flops = make(config, Path(folder))
        fewer = max(1, config.height * config.width // 64**2)
        # Every core gets a batch; batches of one image, which are slow, are measured on fewer images.
        n_images_of = {batch: n_images // fewer // (8 if batch == 1 else 1) for batch in batches}
        tasks = {batch: (batch, max(batch * cpu_count(), n), 1) for batch, n in n_images_of.items()}
        latency = (1, 1, N_LATENCIES // fewer if rounds > 1 else 3)
        found = compare(folders, [*tasks.values(), latency], rounds)
    lines = []
    for kind, measured in found.items():
        rates = {batch: Rate.of(task[1], measured[task]) for batch, task in tasks.items()}
        best = max(rates.values())
        p50, p99 = 1000 * np.percentile(measured[latency], [50, 99])
        cells = [config.preset, f"{config.height}", kind, *(f"{rate:,.0f}" for rate in rates.values())]
        baseline = max(Rate.of(task[1], found[PREDICT][task]) for task in tasks.values())
        cells += [f"{best.median / baseline.median:.2f}", f"{best.median * flops / ceiling.flops.median:.0%}"]
        lines.append(row(*cells, f"{p50:.1f}", f"{p99:.1f}", f"{measured['MiB']:,.0f}"))
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="conv_1x1x16")
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round: whether it runs, not how fast")
    given = parser.parse_args()
    rounds = 1 if given.smoke else REPEATS
    ceiling = matrix_ceiling("float32", (64,) if given.smoke else MATRIX_SIDES, rounds)
    assert ceiling is not None
    batches = (1, 4) if given.smoke else BATCHES
    print(f"{circumstances()}; medians of {rounds} rounds, the range in brackets; float32")
    print(f"matrix product {ceiling.flops / 1e12:.3f} TFLOP/s ({ceiling.library})\n")
    columns = ["preset", "px", "engine", *(f"batch {n}, images/s" for n in batches), "best / predict", "of the product"]
    print("\n".join(heads(*columns, "p50 ms", "p99 ms", "peak MiB")))
    for side in (16,) if given.smoke else given.sides:
        config = VAEConfig(height=side, width=side, preset=given.preset)
        for line in rows(config, ceiling, batches, 8 if given.smoke else N_IMAGES, rounds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
