"""Models made ready for engines, and scoring with them. Nothing here needs Keras."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nelbo.vae_core.config import FLOAT32, INT8, VAEConfig
from nelbo.vae_core.engines.difference import NUMBERS, coarse, differences, unmoved
from nelbo.vae_core.engines.graphs import OnnxGraph, OpenVINOGraph
from nelbo.vae_core.linear.detail import DetailMap
from nelbo.vae_core.scoring import Array, Graph, Scorable, Score, score_and_map, score_batches
from nelbo.vae_core.tiles.whole import WholeMap

#: The remedy for an engine that cannot be used.
REMEDY = "Make it again with: nelbo export"


@dataclass(frozen=True)
class Engine:
    """What can compute scores.

    package: its distribution on PyPI.
    files: names of the files that hold its graph.
    compiled: makes a graph from the contents of those files and a batch's shape; None for Keras, which has the bundle.
    """

    package: str
    files: tuple[str, ...] = ()
    compiled: Callable[..., Graph] | None = None


ENGINES = {
    "keras": Engine("keras"),
    "openvino": Engine("openvino", ("scores.xml", "scores.bin"), OpenVINOGraph),
    "onnx": Engine("onnxruntime", ("scores.onnx",), OnnxGraph),
}
#: All engines, including that of a second fit, which is not exported but fitted.
ALL_ENGINES = {**ENGINES, INT8: Engine("openvino", ("scores.xml", "scores.bin"), OpenVINOGraph)}
#: How far the features of a backbone in 8 bits may be from those that its head was fitted on, as a share of their size
#: (root mean square). With the same instructions they are the same to the bit, and with others 5 % off.
FEATURES_OFF = 0.01


class EngineError(ValueError):
    """An engine is not installed, or does not give the scores that it should give."""


@dataclass(frozen=True)
class Exported:
    """A model made ready for one engine. It scores and maps as a `Model` does, unless the engine is Keras.

    Only Keras gives arrays of pixels (`score` with ``maps=True``).

    engine: one of `ENGINES`.
    made_with: version of the engine's package that it was made and checked with.
    model_id: of the bundle that it was made from.
    batch_size: images in a padded batch.
    tolerance: largest `difference` from Keras's scores that it may have.
    images_per_s: of the engine and of Keras, measured side by side when it was made, on the ``machine`` of that name.
    subtracted: standard deviations that are subtracted on the way to `peak`, see `differences`.
    map_scales: see `Model.map_scales`.
    pixels: (n, h, w, c) reference images; expected: their scores by Keras, maps on a coarse grid.
    files: contents of its graph, by name.
    detail: for a linear head, what makes its map; tiles: for a model of tiles, what is known of whole images.
    features: for a fit of its own, the backbone's maps of the reference images: `tolerance` then applies to these, and
        ``expected`` are the scores of this fit. None where the scores are to be Keras's.
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
    features: tuple[NDArray[np.float32], ...] | None = field(repr=False, default=None)

    @cached_property
    def fit_id(self) -> str | None:
        """The id of a fit of its own, made from what it says of the reference images; None for the bundle's fit."""
        if self.features is None:
            return None
        digest = hashlib.sha256()
        # Not from the graph: its files hold names that differ each time.
        for values in (*self.features, *(getattr(self.expected, name) for name in NUMBERS)):
            digest.update(np.ascontiguousarray(values).tobytes())
        return "f" + digest.hexdigest()[:16]

    def graph(self, maps: bool = False, eps: Array | None = None) -> Graph:  # noqa: ARG002 - it gives no arrays of pixels
        """The compiled scoring function, made once.

        Args:
            maps: ignored: it gives no arrays of pixels.
            eps: (s, zh, zw, latents) noise, which is refused.

        Raises:
            ValueError: noise of the caller's was given; the model's own is a part of the graph.
            EngineError: the engine cannot compile it, or, when it runs, cannot compute it.
        """
        if eps is not None:
            raise ValueError(f"eps: engine {self.engine} has the model's noise built in. Score with engine keras")
        return self._graph

    @cached_property
    def _graph(self) -> Graph:
        engine = ALL_ENGINES[self.engine]
        if engine.compiled is None:
            raise ValueError(f"engine {self.engine} has no graph of its own. Score with the model")
        shape = (self.batch_size, self.config.height, self.config.width, self.config.channels)
        try:
            return _Guarded(engine.compiled(*(self.files[name] for name in engine.files), shape=shape), self._failed)
        except Exception as error:
            raise self._failed(error) from error

    def check(self, scored_by: Scorable) -> None:
        """Check that each number and each map of the reference images is what it was.

        Args:
            scored_by: what computes them: this engine, or for Keras the model.

        Raises:
            EngineError: one is not; the message says by how much, and with which versions.
        """
        try:
            if self.features is not None:
                self._check_features(self.features)
                return
            found = score_all(scored_by, self.pixels)
        except FloatingPointError as error:
            raise self.refused(f"gives scores that are NaN or infinite: {error}") from error
        self.compare(coarse(found), self.expected)

    def _check_features(self, expected: Sequence[Array]) -> None:
        """Check that the features are those that the head was fitted on."""
        scores, found = score_batches(self.graph(), self.pixels, seen=True)
        off = features_off(found, expected)
        # Not >: NaN counts as a difference, too.
        if not off <= self.tolerance:
            raise self.refused(
                f"computes features of the {len(self.pixels)} reference images of model {self.model_id} that are "
                f"{off:.1%} off; at most {self.tolerance:.1%} is allowed. This processor, or this version, rounds "
                "in another way"
            )
        if names := unmoved(scores, self.expected._replace(local_nelbo=None), self.subtracted):
            raise self.refused(f"says the same of all {len(self.pixels)} reference images in {', '.join(names)}")

    def compare(self, found: Score, expected: Score) -> None:
        """Check that an engine's scores of some images are those of Keras.

        Args:
            found: the engine's scores.
            expected: those of Keras, of the same images in the same order.

        Raises:
            EngineError: one differs by more than the tolerance, or is the same for all images but varies in Keras.
        """
        names = unmoved(found, expected, self.subtracted)
        if names:
            raise self.refused(
                f"says the same of all {len(expected.nelbo)} reference images, or no number, in {', '.join(names)}"
            )
        shares = {name: float(share.max()) for name, share in differences(found, expected, self.subtracted).items()}
        # Not >: NaN counts as a difference, too.
        off = [name for name, share in shares.items() if not share <= self.tolerance]
        if off:
            worst = max(off, key=lambda name: math.inf if math.isnan(shares[name]) else shares[name])
            raise self.refused(
                f"scores the {len(expected.nelbo)} reference images of model {self.model_id} up to "
                f"{shares[worst]:.1e} off, relative to the scale of {worst}; at most {self.tolerance:.0e} is allowed"
            )

    def refused(self, why: str) -> EngineError:
        """An error that says which engine `why` is about, and what to do."""
        remedy = f"{REMEDY} --model {self.model_id} --engine {self.engine}, or score with another engine"
        if self.features is not None:
            remedy = f"Train again here with: nelbo train --precision {self.engine}, or score with another engine"
        return EngineError(
            f"engine {self.engine} {version(ALL_ENGINES[self.engine].package)} {why}. It was made with version "
            f"{self.made_with}. {remedy}"
        )

    def _failed(self, error: Exception) -> EngineError:
        # The first line only: C++ adds its stack in further lines.
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        return self.refused(f"cannot compute the scores of model {self.model_id} ({said})")


class _Guarded:
    """A graph that turns the errors of its library, which differ from library to library, into an `EngineError`."""

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


def features_off(found: Sequence[Array], expected: Sequence[Array]) -> float:
    """The largest difference between maps of the same images, as a share of their size; infinite where one is missing.

    >>> features_off([np.array([3.0, 4.0])], [np.array([3.0, 5.0])]) == 1 / 34**0.5
    True
    """
    if [one.shape for one in found] != [one.shape for one in expected]:
        return math.inf
    pairs = [(one.astype(np.float64), other.astype(np.float64)) for one, other in zip(found, expected, strict=True)]
    # From a map of zeros, all that is not zero is far off.
    tiny = np.finfo(np.float64).tiny
    # NumPy's max, which is NaN if any of them is NaN.
    return float(np.max([np.linalg.norm(one - other) / max(np.linalg.norm(other), tiny) for one, other in pairs]))


def precision_of(engine: str) -> str:
    """Which of a model's fits an `engine` scores with: ``float32``, the bundle's, or ``int8``.

    >>> precision_of("openvino"), precision_of("int8")
    ('float32', 'int8')
    """
    return INT8 if engine == INT8 else FLOAT32


def score_all(model: Scorable, pixels: Array) -> Score:
    """Scores with the map of each image, and without arrays of pixels."""
    found, _, maps = score_and_map(model, pixels, lambda found: np.ones(len(found.nelbo), bool))
    return found._replace(local_nelbo=maps)


def is_installed(engine: str) -> bool:
    """Whether the package of an `engine` is installed.

    >>> is_installed("keras")
    True
    """
    try:
        version(ALL_ENGINES[engine].package)
    except PackageNotFoundError:
        return False
    return True
