"""Scores a model that is not exported by the fastest means that this machine has."""

from collections.abc import Callable
from typing import Any

from nelbo.vae_core.engines.conversion import suits_openvino, to_openvino
from nelbo.vae_core.engines.graphs import OpenVINOGraph
from nelbo.vae_core.model import Model
from nelbo.vae_core.scoring import Array, Graph, Score, default_batch_size, score_batches


def fast_scorer(model: Model) -> Callable[[Array], Score]:
    """Compile a function that scores many images; its numbers differ in the last digits from those of `vae_core.score`.

    OpenVINO computes a backbone several times as fast as TensorFlow does on a CPU, and takes seconds to compile it.

    Args:
        model: a trained model.

    Returns:
        A function of (n, h, w, c) float32 pixels in [0, 1], preprocessed as the model says. It gives no maps, and
        raises a FloatingPointError where a score is not finite.

    >>> import numpy as np
    >>> from nelbo.vae_core import Model, VAEConfig
    >>> from nelbo.vae_core.model import draw_eps
    >>> from nelbo.vae_core.network.vae import VAE
    >>> config, ones = VAEConfig(height=16, width=16), np.ones((16, 16), np.float32)
    >>> untrained = Model(config, VAE(config), draw_eps(config, seed=0), 0 * ones, ones, {})
    >>> fast_scorer(untrained)(np.zeros((2, 16, 16, 1), np.float32)).nelbo.shape
    (2,)
    """
    graph = fast_graph(model)
    return lambda pixels: score_batches(graph, pixels)[0]


def fast_graph(model: Model) -> Graph:
    """The compiled function that `fast_scorer` runs.

    Args:
        model: a trained model.

    >>> import numpy as np
    >>> from nelbo.vae_core import Model, VAEConfig
    >>> from nelbo.vae_core.model import draw_eps
    >>> from nelbo.vae_core.network.vae import VAE
    >>> config, ones = VAEConfig(height=16, width=16), np.ones((16, 16), np.float32)
    >>> untrained = Model(config, VAE(config), draw_eps(config, seed=0), 0 * ones, ones, {})
    >>> scored = fast_graph(untrained)(np.zeros((1, 16, 16, 1), np.float32))
    """
    graph: Any = model.graph(maps=False)
    config = model.config
    if config.is_pixels or not suits_openvino():
        return graph
    shape = (config.height, config.width, config.channels)
    batch = model.batch_size or default_batch_size(config)
    return OpenVINOGraph(to_openvino(graph, (None, *shape)), shape=(batch, *shape))
