"""How many images per second engines compute, measured side by side, and the machine that this was measured on."""

import os
import platform
import re
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from joblib import cpu_count
from numpy.typing import NDArray

from nelbo.vae_core.scoring import Scorable, score_batches

#: Seconds that each engine computes for in its turn, at least, and how many turns each has.
_SECONDS, _ROUNDS = 0.2, 5


def images_per_s(engines: Mapping[str, Scorable], pixels: NDArray[np.float32]) -> dict[str, float]:
    """The median speed of each engine, in images a second, over a few turns in which all compute one after the other.

    Whatever else the machine does meanwhile slows all of them alike.

    Args:
        engines: models for the same images, by name.
        pixels: (n, h, w, c) some of these images.

    >>> from nelbo.vae_core import Model, VAEConfig
    >>> from nelbo.vae_core.model import draw_eps
    >>> from nelbo.vae_core.network.vae import VAE
    >>> config, ones = VAEConfig(height=16, width=16), np.ones((16, 16), np.float32)
    >>> untrained = Model(config, VAE(config), draw_eps(config, seed=0), 0 * ones, ones, {})
    >>> images_per_s({"keras": untrained}, np.zeros((4, 16, 16, 1), np.float32))["keras"] > 0
    True
    """
    speeds: dict[str, list[float]] = {name: [] for name in engines}
    for model in engines.values():
        _speed(model, pixels, 0)
    for _ in range(_ROUNDS):
        for name, model in engines.items():
            speeds[name].append(_speed(model, pixels, _SECONDS))
    return {name: float(np.median(found)) for name, found in speeds.items()}


def _speed(model: Scorable, pixels: NDArray[np.float32], seconds: float) -> float:
    graph = model.graph(maps=False)
    n = graph.batch_size * graph.parallel
    several = np.resize(pixels, (n, *pixels.shape[1:]))
    done, started = 0, time.perf_counter()
    while not done or time.perf_counter() - started < seconds:
        score_batches(graph, several)
        done += n
    return done / (time.perf_counter() - started)


def machine() -> str:
    """Name, processor and cores of this machine: where any differs, other engines may be the fastest.

    >>> machine().endswith("cores")
    True
    """
    return f"{platform.node() or 'unnamed'}, {_processor()}, {cpu_count()} of {os.cpu_count()} cores"


def _processor() -> str:
    """The first processor as Linux describes it; elsewhere its architecture."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
