"""A backbone's maps of many images, by the fastest means that there are here."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from nelbo.vae_core.engines.conversion import suits_openvino, to_openvino
from nelbo.vae_core.engines.graphs import OpenVINOGraph
from nelbo.vae_core.pixels import PixelRows, to_unit
from nelbo.vae_core.scoring import padded

#: Images that go through at a time.
_BATCH_SIZE = 8

Maps = list[NDArray[np.float32]]


class Extractor:
    """What a network gives for images, some at a time, in order.

    OpenVINO computes a convolutional network several times as fast as TensorFlow does on a CPU; its numbers differ in
    the last digits. It is used where it is installed and there is no accelerator.

    Args:
        network: of one input, (n, h, w, c), and a list of outputs; compiled once.
    """

    def __init__(self, network: keras.Model) -> None:
        self._run, self._parallel = _compiled(network)

    def __call__(self, images: PixelRows, advance: Callable[[int], None] = lambda _: None) -> Iterator[Maps]:
        """Its outputs for some of the images at a time.

        Args:
            images: of the network's size.
            advance: called with the number of images done since the last call.
        """
        starts = range(0, len(images), _BATCH_SIZE)
        with ThreadPoolExecutor(self._parallel) as pool:
            # A few ahead: the images are read by this thread, and what waits is memory.
            waiting = []
            for start in starts:
                some = to_unit(images[start : start + _BATCH_SIZE])
                waiting.append((len(some), pool.submit(self._run, padded(some, _BATCH_SIZE))))
                if len(waiting) > self._parallel:
                    yield _first(waiting, advance)
            while waiting:
                yield _first(waiting, advance)


def extract(network: keras.Model, images: PixelRows, advance: Callable[[int], None] = lambda _: None) -> Iterator[Maps]:
    """The same for one set of images; see `Extractor`."""
    return Extractor(network)(images, advance)


def _first(waiting: list[Any], advance: Callable[[int], None]) -> Maps:
    n, future = waiting.pop(0)
    maps = [one[:n] for one in future.result()]
    advance(n)
    return maps


def _compiled(network: keras.Model) -> tuple[Callable[[NDArray[np.float32]], Maps], int]:
    """What computes a batch, and how many at once."""
    if not suits_openvino():
        return lambda pixels: [np.asarray(one) for one in network.predict_on_batch(pixels)], 1
    shape = network.input.shape[1:]
    graph = OpenVINOGraph(to_openvino(network, (None, *shape)), shape=(_BATCH_SIZE, *shape))
    return graph.run_in_order, graph.parallel
