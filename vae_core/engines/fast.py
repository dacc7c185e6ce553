"""Scores by the fastest means that there are here, of a model that is not exported."""

from collections.abc import Callable
from typing import Any

from nelbo.vae_core.engines.conversion import suits_openvino, to_openvino
from nelbo.vae_core.engines.graphs import OpenVINOGraph
from nelbo.vae_core.model import Model
from nelbo.vae_core.scoring import Array, Graph, Score, default_batch_size, score_batches


def fast_scorer(model: Model) -> Callable[[Array], Score]:
    """Compile what scores many images; its numbers differ in the last digits from those of `vae_core.score`.

    OpenVINO computes a backbone several times as fast as TensorFlow does on a CPU, and takes seconds to compile it.

    Args:
        model: a trained model.

    Returns:
        A function of (n, h, w, c) float32 pixels in [0, 1], preprocessed as the model says. It gives no maps, and
        raises a FloatingPointError where a score is not finite.
    """
    graph = fast_graph(model)
    return lambda pixels: score_batches(graph, pixels)[0]


def fast_graph(model: Model) -> Graph:
    """What `fast_scorer` runs."""
    graph: Any = model.graph(maps=False)
    config = model.config
    if config.is_pixels or not suits_openvino():
        return graph
    shape = (config.height, config.width, config.channels)
    batch = model.batch_size or default_batch_size(config)
    return OpenVINOGraph(to_openvino(graph, (None, *shape)), shape=(batch, *shape))
