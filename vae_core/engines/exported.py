"""Models made ready for engines, as what scores. Nothing here needs Keras."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nelbo.vae_core.config import VAEConfig
from nelbo.vae_core.engines.difference import NUMBERS, coarse, differences, unmoved
from nelbo.vae_core.engines.graphs import OnnxGraph, OpenVINOGraph
from nelbo.vae_core.linear.detail import DetailMap
from nelbo.vae_core.scoring import Array, Graph, Scorable, Score, score_and_map
from nelbo.vae_core.tiles.whole import WholeMap

#: For an engine that cannot be used.
REMEDY = "Make it again with: nelbo export"


@dataclass(frozen=True)
class Engine:
    """What can compute scores.

    package: its distribution on PyPI.
    files: that hold its graph.
    compiled: makes a graph of the contents of those files and a batch's shape; None for Keras, which has the bundle.
    """

    package: str
    files: tuple[str, ...] = ()
    compiled: Callable[..., Graph] | None = None


ENGINES = {
    "keras": Engine("keras"),
    "openvino": Engine("openvino", ("scores.xml", "scores.bin"), OpenVINOGraph),
    "onnx": Engine("onnxruntime", ("scores.onnx",), OnnxGraph),
}


class EngineError(ValueError):
    """An engine is not installed, or does not give the scores that it has to give."""


@dataclass(frozen=True)
class Exported:
    """A model made ready for one engine. It scores and maps as a `Model` does, unless the engine is Keras.

    Arrays of pixels (`score` with ``maps=True``) are Keras's alone.

    engine: of `ENGINES`.
    made_with: version of the engine's package that it was made and checked with.
    model_id: of the bundle that it was made of.
    batch_size: images in a padded batch.
    tolerance: largest `difference` from Keras's scores that it may have.
    images_per_s: of the engine and of Keras, measured side by side when it was made, on the ``machine`` of that name.
    subtracted: standard deviations that `peak` is left of after subtraction, see `differences`.
    map_scales: see `Model.map_scales`.
    pixels: (n, h, w, c) reference images, and what Keras ``expected`` them to score, maps on a coarse grid.
    files: contents of its graph, by name.
    detail: of a linear head, what makes its map; tiles: of a model of tiles, what is known of whole images.
    """

    engine: str
    made_with: str
    model_id: str
    config: VAEConfig
    preprocessing: Mapping[str, Any]
    batch_size: int
    tolerance: float
    images_per_s: Mapping[str, float]
    machine: str
    subtracted: float
    map_scales: NDArray[np.float32]
    pixels: NDArray[np.float32] = field(repr=False)
    expected: Score = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)
    detail: DetailMap | None = field(repr=False, default=None)
    tiles: WholeMap | None = field(repr=False, default=None)

    def graph(self, maps: bool = False, eps: Array | None = None) -> Graph:  # noqa: ARG002 - it gives no arrays of pixels
        """The compiled scoring function, made once.

        Raises:
            ValueError: noise of the caller's was given; the model's own is a part of the graph.
            EngineError: the engine cannot compile it; when it runs, that it cannot compute it.
        """
        if eps is not None:
            raise ValueError(f"eps: engine {self.engine} has the model's noise built in. Score with engine keras")
        return self._graph

    @cached_property
    def _graph(self) -> Graph:
        engine = ENGINES[self.engine]
        if engine.compiled is None:
            raise ValueError(f"engine {self.engine} has no graph of its own. Score with the model")
        shape = (self.batch_size, self.config.height, self.config.width, self.config.channels)
        try:
            return _Guarded(engine.compiled(*(self.files[name] for name in engine.files), shape=shape), self._failed)
        except Exception as error:
            raise self._failed(error) from error

    def check(self, scored_by: Scorable) -> None:
        """See that each number and each map of the reference images is what it was.

        Raises:
            EngineError: one is not; it says by how much, and with which versions.
        """
        try:
            found = score_all(scored_by, self.pixels)
        except FloatingPointError as error:
            raise self.refused(f"gives scores that are NaN or infinite: {error}") from error
        self.compare(coarse(found), self.expected)

    def compare(self, found: Score, expected: Score) -> None:
        """See that an engine's scores of some images are those of Keras.

        Raises:
            EngineError: one differs by more than the tolerance, or is the same for all images and is not so in Keras.
        """
        names = unmoved(found, expected, self.subtracted)
        if names:
            raise self.refused(
                f"says the same of all {len(expected.nelbo)} reference images, or no number, in {', '.join(names)}"
            )
        shares = {name: float(share.max()) for name, share in differences(found, expected, self.subtracted).items()}
        # Not >: a difference that is no number is one, too.
        off = [name for name, share in shares.items() if not share <= self.tolerance]
        if off:
            worst = max(off, key=lambda name: math.inf if math.isnan(shares[name]) else shares[name])
            raise self.refused(
                f"scores the {len(expected.nelbo)} reference images of model {self.model_id} up to "
                f"{shares[worst]:.1e} off, relative to the scale of {worst}; at most {self.tolerance:.0e} is allowed"
            )

    def refused(self, why: str) -> EngineError:
        """An error that says which engine `why` is about, and what to do."""
        return EngineError(
            f"engine {self.engine} {version(ENGINES[self.engine].package)} {why}. It was made with version "
            f"{self.made_with}. {REMEDY} --model {self.model_id} --engine {self.engine}, or score with another engine"
        )

    def _failed(self, error: Exception) -> EngineError:
        # Of several lines: what C++ says with its stack.
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        return self.refused(f"cannot compute the scores of model {self.model_id} ({said})")


class _Guarded:
    """A graph of an engine's library whose errors, each library has its own, are those of the engine."""

    def __init__(self, graph: Graph, failed: Callable[[Exception], EngineError]) -> None:
        self._graph, self._failed = graph, failed
        self.batch_size, self.parallel = graph.batch_size, graph.parallel

    def run(self, pixels: Array) -> dict[str, Array]:
        """One batch, with a row for each image in every number."""
        try:
            found = self._graph.run(pixels)
            for name in NUMBERS:
                if found[name].shape != (len(pixels),):
                    raise ValueError(f"{name} has shape {found[name].shape} for {len(pixels)} images")
        except Exception as error:
            raise self._failed(error) from error
        return found


def score_all(model: Scorable, pixels: Array) -> Score:
    """Scores with the map of each image, and without arrays of pixels."""
    found, _, maps = score_and_map(model, pixels, lambda found: np.ones(len(found.nelbo), bool))
    return found._replace(local_nelbo=maps)


def is_installed(engine: str) -> bool:
    """Whether the package of an engine is there.

    >>> is_installed("keras")
    True
    """
    try:
        version(ENGINES[engine].package)
    except PackageNotFoundError:
        return False
    return True
