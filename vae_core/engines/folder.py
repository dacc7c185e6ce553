"""Engines on disk: data and no code, every byte of it checked.

An engine is a folder with ``engine.json``, its graph, ``references.safetensors`` and ``checksums.json``. The references
are images and what Keras scored them when the engine was made; beside them lies what its maps are made with. The
engine's id, which ``engine.json`` holds, is a hash of all its contents.
"""

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from nelbo.vae_core.checksums import CHECKSUMS, BundleError, as_json, read_files, write_files
from nelbo.vae_core.config import INT8, VAEConfig
from nelbo.vae_core.engines.difference import COMPARED, NUMBERS
from nelbo.vae_core.engines.exported import ALL_ENGINES, REMEDY, EngineError, Exported, is_installed, precision_of
from nelbo.vae_core.linear.detail import DetailMap
from nelbo.vae_core.pixels import to_unit
from nelbo.vae_core.scoring import Score
from nelbo.vae_core.tiles.whole import WholeMap

log = logging.getLogger(__name__)

#: Version 1 had no id, no ``machine`` and no ``subtracted``, and its graph gives nothing to make maps from.
FORMAT_VERSION, _READABLE = 3, (1, 3)
#: The largest tolerance and batch that an engine on disk may have.
LARGEST_TOLERANCE, LARGEST_BATCH = 0.01, 1 << 16
_REFERENCES = "references.safetensors"
#: The fields of an engine that are kept as JSON, besides the config.
_FACTS = (
    "engine",
    "made_with",
    "model_id",
    "preprocessing",
    "batch_size",
    "tolerance",
    "images_per_s",
    "machine",
    "subtracted",
)
#: `subtracted` of an engine of version 1: measured values go up to here.
_SUBTRACTED_IN_1 = 100.0
#: Prefixes in the file of references: of the names of the map's weights, and of the numbers of reference features.
_DETAIL, _FEATURES = "map/", "features/"


def save_exported(exported: Exported, folder: Path) -> None:
    """Write an engine to a new folder.

    Args:
        exported: the engine.
        folder: where it is written; it must not exist.

    >>> import tempfile
    >>> from nelbo.vae_core import Model, export
    >>> from nelbo.vae_core.model import draw_eps
    >>> from nelbo.vae_core.network.vae import VAE
    >>> config, ones = VAEConfig(height=16, width=16), np.ones((16, 16), np.float32)
    >>> untrained = Model(config, VAE(config), draw_eps(config, seed=0), 0 * ones, ones, {})
    >>> exported = export(untrained, "keras", np.zeros((3, 16, 16, 1), np.float32), model_id="m1")
    >>> folder = Path(tempfile.mkdtemp()) / "keras"
    >>> save_exported(exported, folder)
    >>> sorted(file.name for file in folder.iterdir())
    ['checksums.json', 'engine.json', 'references.safetensors']
    """
    levels = np.rint(exported.pixels * np.float32(255)).astype(np.uint8)
    # A quarter of the bytes, where nothing is lost.
    is_8_bit = np.array_equal(to_unit(levels), exported.pixels)
    references = {"pixels": levels if is_8_bit else exported.pixels}
    references |= {name: value for name, value in exported.expected._asdict().items() if value is not None}
    references |= {"map_scales": exported.map_scales}
    for beside in (exported.detail, exported.tiles):
        references |= {} if beside is None else {f"{_DETAIL}{name}": one for name, one in beside.weights.items()}
    references |= {f"{_FEATURES}{i}": one for i, one in enumerate(exported.features or ())}
    files = {_REFERENCES: save(references), **exported.files}
    description = {
        "format": "nelbo-engine",
        "format_version": FORMAT_VERSION,
        "config": exported.config.to_dict(),
        **{name: getattr(exported, name) for name in _FACTS},
    }
    description["engine_id"] = _engine_id(description, files)
    write_files({"engine.json": as_json(description), **files}, folder)


def _engine_id(description: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """A hash of what an engine is made of: the rest of ``engine.json``, and the other files."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    said = {name: value for name, value in description.items() if name != "engine_id"}
    return "e" + hashlib.sha256(as_json(said) + as_json(sums)).hexdigest()[:16]


def exported_files(engine: str) -> list[str]:
    """Names of the files in the folder of an `engine`.

    >>> exported_files("onnx")
    ['engine.json', 'scores.onnx', 'references.safetensors', 'checksums.json']
    """
    return ["engine.json", *ALL_ENGINES[engine].files, _REFERENCES, CHECKSUMS]


def load_exported(folder: Path) -> Exported:
    """The engine in a folder, after every checksum was compared; its graphs are compiled when they are first needed.

    Args:
        folder: of the engine.

    Raises:
        BundleError: damaged, incomplete, or made by another version of nelbo.
        EngineError: the engine's package is not installed.

    >>> import tempfile
    >>> from nelbo.vae_core import Model, export
    >>> from nelbo.vae_core.model import draw_eps
    >>> from nelbo.vae_core.network.vae import VAE
    >>> config, ones = VAEConfig(height=16, width=16), np.ones((16, 16), np.float32)
    >>> untrained = Model(config, VAE(config), draw_eps(config, seed=0), 0 * ones, ones, {})
    >>> exported = export(untrained, "keras", np.zeros((3, 16, 16, 1), np.float32), model_id="m1")
    >>> folder = Path(tempfile.mkdtemp()) / "keras"
    >>> save_exported(exported, folder)
    >>> load_exported(folder).model_id
    'm1'
    """
    content = read_files(folder, ["engine.json"], "engine", REMEDY)["engine.json"]
    try:
        description = json.loads(content)
        engine = ALL_ENGINES[description["engine"]]
        config = VAEConfig.from_dict(description["config"])
        version = description["format_version"]
        facts = _facts(description)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{folder} is not an engine of a nelbo model: {error!r}. {REMEDY}") from error
    if version not in _READABLE:
        raise BundleError(f"{folder} was made by another version of nelbo. {REMEDY}")
    if not is_installed(facts["engine"]):
        raise EngineError(
            f"engine {facts['engine']} needs {engine.package}, which is not installed. "
            f"Get it with: pip install 'nelbo[{facts['engine']}]'"
        )
    files = read_files(folder, [*engine.files, _REFERENCES], "engine", REMEDY)
    _check_id(folder, description, files)
    try:
        references = load(files.pop(_REFERENCES))
        pixels = to_unit(references["pixels"])
        # The numbers that every score has must be there.
        expected = Score(*(references[name] for name in NUMBERS))
        expected = expected._replace(**{name: references.get(name) for name in COMPARED})
        weights = {name.removeprefix(_DETAIL): references[name] for name in references if name.startswith(_DETAIL)}
        tiles = WholeMap.taken_from(weights) if config.is_tiled else None
        has_detail = config.is_linear and not config.is_tiled
        detail = DetailMap.taken_from(weights, max(1, len(config.variants))) if has_detail else None
        facts["features"] = _features(facts["engine"], references)
        facts["map_scales"] = references["map_scales"] if version > 1 else np.full((1, 2), np.nan, np.float32)
    except (KeyError, SafetensorError) as error:
        raise BundleError(f"{folder / _REFERENCES} is not what nelbo writes: {error!r}. {REMEDY}") from error
    return Exported(**facts, config=config, pixels=pixels, expected=expected, files=files, detail=detail, tiles=tiles)


def _features(engine: str, references: Mapping[str, NDArray[np.float32]]) -> tuple[NDArray[np.float32], ...] | None:
    """Reference features of a fit of its own; None for other engines.

    Raises:
        KeyError: they are missing.
    """
    if precision_of(engine) != INT8:
        return None
    n = sum(name.startswith(_FEATURES) for name in references)
    return tuple(references[f"{_FEATURES}{i}"] for i in range(max(n, 1)))


def _facts(description: Mapping[str, Any]) -> dict[str, Any]:
    """What ``engine.json`` says besides the config; for version 1, completed with what it did not say."""
    if description["format_version"] == 1:
        # No machine has an empty name: the speeds are measured again.
        description = {**description, "machine": "", "subtracted": _SUBTRACTED_IN_1}
    facts = {name: description[name] for name in _FACTS}
    _check_numbers(facts)
    return facts


def _check_id(folder: Path, description: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    if description["format_version"] == 1:
        _warn_of_version_1(folder)
        return
    found, expected = _engine_id(description, files), description.get("engine_id")
    if found != expected:
        raise BundleError(
            f"{folder}: its contents are those of engine {found}, and engine.json says {expected}: it was changed "
            f"after it was made. {REMEDY}"
        )


@cache
def _warn_of_version_1(folder: Path) -> None:
    log.warning("%s was made by nelbo 0.1, without an id: whether it was changed since cannot be told", folder)
    if folder.name != "keras":
        log.warning("scored with it, flagged images get no map. %s", REMEDY)


def _check_numbers(facts: Mapping[str, Any]) -> None:
    size, tolerance, speeds = facts["batch_size"], facts["tolerance"], facts["images_per_s"]
    if not (isinstance(size, int) and 1 <= size <= LARGEST_BATCH):
        raise ValueError(f"batch_size={size}: expected 1 to {LARGEST_BATCH}")
    if not 0 < tolerance <= LARGEST_TOLERANCE:
        raise ValueError(f"tolerance={tolerance}: expected at most {LARGEST_TOLERANCE}")
    if not all(0 < speeds[engine] < math.inf for engine in ("keras", facts["engine"])):
        raise ValueError(f"images_per_s={speeds}: expected a positive number for keras and {facts['engine']}")
    if not (isinstance(facts["machine"], str) and 0 <= facts["subtracted"] < math.inf):
        raise ValueError(
            f"machine={facts['machine']!r}, subtracted={facts['subtracted']}: expected a name and a number"
        )
