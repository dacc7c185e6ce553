"""Models made ready for an engine: as data on disk, and as what scores. Nothing here needs Keras.

An engine is a folder with ``engine.json``, its graphs, ``references.safetensors`` and ``checksums.json``. The
references are images and what Keras scored them when the engine was made.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vae_core.checksums import CHECKSUMS, BundleError, as_json, read_files, write_files
from vae_core.config import VAEConfig
from vae_core.graphs import OnnxGraph, OpenVINOGraph
from vae_core.pixels import to_unit
from vae_core.scoring import Array, Graph, Scorable, Score, score

FORMAT_VERSION = 1
#: Largest difference from Keras's scores that an engine may have, see `difference`.
TOLERANCE = 1e-5
#: What an engine on disk may ask for at most.
LARGEST_TOLERANCE, LARGEST_BATCH = 0.01, 1 << 16
_REFERENCES = "references.safetensors"
_REMEDY = "Make it again with: nelbo export"
#: What is compared of two scores of one image, in nats.
_COMPARED = ("nelbo", "distortion", "rate", "worst_pixels")
#: What is kept of the scores of the references: all but arrays of pixels.
_SCORED = Score._fields[:-4]
#: What else is kept, as JSON.
_FACTS = ("engine", "made_with", "model_id", "preprocessing", "batch_size", "tolerance", "images_per_s")


@dataclass(frozen=True)
class Engine:
    """What can compute scores.

    package: its distribution on PyPI.
    suffixes: of the files that hold a graph.
    compiled: makes a graph of the contents of those files and a batch's shape; None for Keras, which has the bundle.
    """

    package: str
    suffixes: tuple[str, ...] = ()
    compiled: Callable[..., Graph] | None = None

    def files(self, maps: bool) -> list[str]:
        """Names of the files of the graph with arrays of pixels, or of the one without."""
        return [("maps" if maps else "scores") + suffix for suffix in self.suffixes]


ENGINES = {
    "keras": Engine("keras"),
    "openvino": Engine("openvino", (".xml", ".bin"), OpenVINOGraph),
    "onnx": Engine("onnxruntime", (".onnx",), OnnxGraph),
}


class EngineError(ValueError):
    """An engine is not installed, or does not give the scores that it has to give."""


@dataclass(frozen=True)
class Exported:
    """A model made ready for one engine. It scores as a `Model` does, unless the engine is Keras.

    engine: of `ENGINES`.
    made_with: version of the engine's package that it was made and checked with.
    model_id: of the bundle that it was made of.
    batch_size: images in a padded batch.
    tolerance: largest `difference` from Keras's scores that it may have.
    images_per_s: of the engine and of Keras, measured side by side when it was made.
    pixels: (n, h, w, c) reference images, and what Keras ``expected`` them to score.
    files: contents of its graphs, by name.
    """

    engine: str
    made_with: str
    model_id: str
    config: VAEConfig
    preprocessing: Mapping[str, Any]
    batch_size: int
    tolerance: float
    images_per_s: Mapping[str, float]
    pixels: NDArray[np.float32] = field(repr=False)
    expected: Score = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)
    _compiled: dict[bool, Graph] = field(default_factory=dict, init=False, repr=False, compare=False)

    def graph(self, maps: bool, eps: Array | None = None) -> Graph:
        """The compiled scoring function, made once.

        Raises:
            ValueError: noise of the caller's was given; the model's own is a part of the graph.
        """
        if eps is not None:
            raise ValueError(f"eps: engine {self.engine} has the model's noise built in. Score with engine keras")
        if maps not in self._compiled:
            engine = ENGINES[self.engine]
            if engine.compiled is None:
                raise ValueError(f"engine {self.engine} has no graph of its own. Score with the model")
            shape = (self.batch_size, self.config.height, self.config.width, self.config.channels)
            self._compiled[maps] = engine.compiled(*(self.files[name] for name in engine.files(maps)), shape=shape)
        return self._compiled[maps]

    def check(self, scored_by: Scorable) -> None:
        """See that the reference images get the scores that they had.

        Raises:
            EngineError: they do not; it says by how much, and with which versions.
        """
        found = difference(score(scored_by, self.pixels, maps=False), self.expected)
        # Not >: a difference that is no number is one, too.
        if not found <= self.tolerance:
            raise EngineError(
                f"engine {self.engine} {version(ENGINES[self.engine].package)} scores the {len(self.pixels)} reference "
                f"images of model {self.model_id} up to {found:.1e} off, relative to |distortion| + rate; at most "
                f"{self.tolerance:.0e} is allowed. It was made with version {self.made_with}. "
                f"{_REMEDY} --model {self.model_id} --engine {self.engine}"
            )


def difference(found: Score, expected: Score) -> float:
    """Largest difference between two scores of the same images, relative to |distortion| + rate of the second.

    >>> one, zero = np.ones(1), np.zeros(1)
    >>> expected = Score(one, one, one, zero, zero, zero, one, one, None, None, None, None)
    >>> difference(expected._replace(nelbo=np.array([1.25])), expected)
    0.25
    """
    scale = np.abs(expected.distortion) + expected.rate
    return float(max(np.max(np.abs(getattr(found, name) - getattr(expected, name)) / scale) for name in _COMPARED))


def save_exported(exported: Exported, folder: Path) -> None:
    """Write an engine to a new folder."""
    levels = np.rint(exported.pixels * np.float32(255)).astype(np.uint8)
    # A quarter of the bytes, where nothing is lost.
    is_8_bit = np.array_equal(to_unit(levels), exported.pixels)
    references = {"pixels": levels if is_8_bit else exported.pixels}
    references |= {name: getattr(exported.expected, name) for name in _SCORED}
    description = {
        "format": "nelbo-engine",
        "format_version": FORMAT_VERSION,
        "config": exported.config.to_dict(),
        **{name: getattr(exported, name) for name in _FACTS},
    }
    write_files({"engine.json": as_json(description), _REFERENCES: save(references), **exported.files}, folder)


def exported_files(engine: str) -> list[str]:
    """Names of the files in an engine's folder.

    >>> exported_files("onnx")
    ['engine.json', 'scores.onnx', 'maps.onnx', 'references.safetensors', 'checksums.json']
    """
    made = ENGINES[engine]
    return ["engine.json", *made.files(False), *made.files(True), _REFERENCES, CHECKSUMS]


def load_exported(folder: Path) -> Exported:
    """Load an engine after checking every checksum; its graphs are compiled when they are first needed.

    Raises:
        BundleError: damaged, incomplete, or made by another version of nelbo.
        EngineError: the engine's package is not installed.
    """
    description = _read(folder, ["engine.json"])["engine.json"]
    try:
        facts = json.loads(description)
        engine = ENGINES[facts["engine"]]
        config = VAEConfig(**facts["config"])
        facts = {name: facts[name] for name in ("format_version", *_FACTS)}
        _check_numbers(facts)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{folder} is not an engine of a nelbo model: {error!r}. {_REMEDY}") from error
    if facts.pop("format_version") != FORMAT_VERSION:
        raise BundleError(f"{folder} was made by another version of nelbo. {_REMEDY}")
    if not is_installed(facts["engine"]):
        raise EngineError(
            f"engine {facts['engine']} needs {engine.package}, which is not installed. "
            f"Get it with: pip install 'nelbo[{facts['engine']}]'"
        )
    files = _read(folder, [*engine.files(False), *engine.files(True), _REFERENCES])
    try:
        references = load(files.pop(_REFERENCES))
        pixels = to_unit(references["pixels"])
        expected = Score._make([*(references[name] for name in _SCORED), None, None, None, None])
    except (KeyError, SafetensorError) as error:
        raise BundleError(f"{folder / _REFERENCES} is not what nelbo writes: {error!r}. {_REMEDY}") from error
    return Exported(**facts, config=config, pixels=pixels, expected=expected, files=files)


def _check_numbers(facts: Mapping[str, Any]) -> None:
    size, tolerance, speeds = facts["batch_size"], facts["tolerance"], facts["images_per_s"]
    if not (isinstance(size, int) and 1 <= size <= LARGEST_BATCH):
        raise ValueError(f"batch_size={size}: expected 1 to {LARGEST_BATCH}")
    if not 0 < tolerance <= LARGEST_TOLERANCE:
        raise ValueError(f"tolerance={tolerance}: expected at most {LARGEST_TOLERANCE}")
    if not all(0 < speeds[engine] < math.inf for engine in ("keras", facts["engine"])):
        raise ValueError(f"images_per_s={speeds}: expected a positive number for keras and {facts['engine']}")


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


def _read(folder: Path, names: list[str]) -> dict[str, bytes]:
    return read_files(folder, names, "engine", _REMEDY)
