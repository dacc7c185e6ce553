"""A backbone's maps of many images, computed by the fastest means that this machine has."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from nelbo.vae_core.device import compute_in_float32, images_at_once
from nelbo.vae_core.engines.conversion import suits_openvino, to_openvino
from nelbo.vae_core.engines.graphs import OpenVINOGraph
from nelbo.vae_core.pixels import PixelRows, to_unit
from nelbo.vae_core.scoring import padded

#: Images that go through a CPU at a time.
_BATCH_SIZE = 8

Maps = list[NDArray[np.float32]]


class Extractor:
    """Computes a network's outputs for images, some at a time, in order.

    OpenVINO computes a convolutional network several times as fast as TensorFlow does on a CPU; its numbers differ in
    the last digits. It is used where it is installed and there is no accelerator.

    Args:
        network: of Keras or OpenVINO, with one input, (n, h, w, c), and a list of outputs; it is compiled once.
        shape: (h, w, c) of an image; by default that of a Keras network's input.
    """

    def __init__(self, network: Any, shape: tuple[int, ...] | None = None) -> None:
        compute_in_float32()
        self._run, self._parallel = _compiled(network, shape)
        self._batch_size = images_at_once(_BATCH_SIZE)

    def __call__(self, images: PixelRows, advance: Callable[[int], None] = lambda _: None) -> Iterator[Maps]:
        """The outputs for some of the images at a time.

        Args:
            images: of the network's size.
            advance: called with the number of images done since the last call.
        """
        size = self._batch_size
        with ThreadPoolExecutor(self._parallel) as pool:
            # A few ahead: this thread reads the images, and those that wait take memory.
            waiting = []
            for start in range(0, len(images), size):
                some = to_unit(images[start : start + size])
                waiting.append((len(some), pool.submit(self._run, padded(some, size))))
                if len(waiting) > self._parallel:
                    yield _first(waiting, advance)
            while waiting:
                yield _first(waiting, advance)


def _first(waiting: list[Any], advance: Callable[[int], None]) -> Maps:
    n, future = waiting.pop(0)
    maps = [one[:n] for one in future.result()]
    advance(n)
    return maps


def _compiled(network: Any, shape: tuple[int, ...] | None) -> tuple[Callable[[NDArray[np.float32]], Maps], int]:
    """A function that computes a batch, and how many batches it computes at once."""
    if isinstance(network, keras.Model):
        if not suits_openvino():
            return lambda pixels: [np.asarray(one) for one in network.predict_on_batch(pixels)], 1
        shape = network.input.shape[1:]
        network = to_openvino(network, (None, *shape))
    graph = OpenVINOGraph(network, shape=(_BATCH_SIZE, *(shape or ())))
    return graph.run_in_order, graph.parallel
