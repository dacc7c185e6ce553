"""Models on disk: JSON and safetensors with checksums, no code.

A bundle is a folder with ``model.json``, ``weights.safetensors`` and ``checksums.json``. Its id is a hash of
config, preprocessing and weights: it identifies the content, and loading detects a changed bundle.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from nelbo.vae_core.checksums import BundleError, as_json, read_files, write_files
from nelbo.vae_core.config import VAEConfig
from nelbo.vae_core.linear.detail import DetailMap
from nelbo.vae_core.seen import check_outside, places_of
from nelbo.vae_core.tiles.whole import WholeMap

if TYPE_CHECKING:
    from nelbo.vae_core.model import Model

FORMAT_VERSION = 1
_FILES = ("model.json", "weights.safetensors")
_EXTRA = ("eps", "usual_mean", "usual_std")
#: What models of features have besides, since version 0.2.
_OPTIONAL = ("usual_statistics", "outside")
_RESTORE = "Restore it from a copy, or delete it and train again."


def save_bundle(
    model: "Model", models: Path, training: Mapping[str, Any] | None = None, staging: Path | None = None
) -> str:
    """Write a model below the folder `models`.

    The folder appears whole: it is written aside and renamed. A bundle that is there already is left alone.

    Args:
        model: what to keep.
        models: the folder of all bundles.
        training: facts about the training (data, sizes) kept in ``model.json``; not part of the id.
        staging: a folder on the same file system for the unfinished bundle; by default `models`.

    Returns:
        Its id, which is its folder's name.

    Raises:
        BundleError: a bundle with that id is there already, and damaged.

    >>> import tempfile
    >>> from nelbo.vae_core import Model
    >>> from nelbo.vae_core.network.vae import VAE
    >>> config, ones = VAEConfig(height=16, width=16), np.ones((16, 16), np.float32)
    >>> model = Model(config, VAE(config), np.zeros((1, 1, 1, 16), np.float32), ones, ones, {})
    >>> folder = Path(tempfile.mkdtemp())
    >>> load_bundle(folder / save_bundle(model, folder)).config == config
    True
    """
    variables = _variables(model.network, model.representation)
    arrays = {path: np.asarray(variable) for path, variable in variables.items()}
    for beside in (model.detail, model.tiles):
        arrays |= {} if beside is None else beside.weights
    arrays |= {name: value for name in (*_EXTRA, *_OPTIONAL) if (value := getattr(model, name)) is not None}
    weights = save(arrays)
    content = {"config": model.config.to_dict(), "preprocessing": dict(model.preprocessing)}
    model_id = _model_id(content, weights)
    folder = models / model_id
    if folder.exists():
        verify_bundle(folder)
        return model_id
    description = {
        "format": "nelbo-model",
        "format_version": FORMAT_VERSION,
        "model_id": model_id,
        "training": dict(training or {}),
        **content,
    }
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=staging or models, prefix=".bundle-", ignore_cleanup_errors=True) as aside:
        unfinished = Path(aside) / model_id
        write_files({"model.json": as_json(description), "weights.safetensors": weights}, unfinished)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            # Another training of the same model was faster.
            verify_bundle(folder)
    return model_id


def verify_bundle(folder: Path) -> dict[str, Any]:
    """The parsed ``model.json`` of a bundle whose files fit their checksums and its id.

    Args:
        folder: of the bundle.

    Raises:
        BundleError: what is wrong, and what to do.

    >>> import tempfile
    >>> from nelbo.vae_core import Model
    >>> from nelbo.vae_core.network.vae import VAE
    >>> config, ones = VAEConfig(height=16, width=16), np.ones((16, 16), np.float32)
    >>> model = Model(config, VAE(config), np.zeros((1, 1, 1, 16), np.float32), ones, ones, {})
    >>> folder = Path(tempfile.mkdtemp())
    >>> verify_bundle(folder / save_bundle(model, folder))["format"]
    'nelbo-model'
    """
    description, _ = _read(folder)
    return description


def load_bundle(folder: Path) -> "Model":
    """The model of a bundle, after every checksum was compared; nothing in a bundle is executed.

    Args:
        folder: of the bundle.

    Raises:
        BundleError: damaged, incomplete, or made for another version. A ValueError.

    >>> import tempfile
    >>> try:
    ...     load_bundle(Path(tempfile.mkdtemp()))
    ... except BundleError as error:
    ...     print(type(error).__name__)
    BundleError
    """
    # Without Keras, a bundle can still be checked, and an exported model can score.
    from nelbo.vae_core.features.backbones import assign_weights
    from nelbo.vae_core.model import Model, untrained
    from nelbo.vae_core.network.architecture import latent_shape

    description, tensors = _read(folder)
    try:
        config = VAEConfig.from_dict(description["config"])
        network, representation = untrained(config, tensors.get("outside"))
        extra = {name: tensors.pop(name) for name in _EXTRA}
        optional = {name: tensors.pop(name, None) for name in _OPTIONAL}
        if extra["eps"].shape != (config.noise_draws, *latent_shape(config)):
            raise ValueError(f"eps has shape {extra['eps'].shape}, expected {config.noise_draws} draws of the latents")
        tiles = WholeMap.taken_from(tensors) if config.is_tiled else None
        has_detail = config.is_linear and not config.is_tiled
        detail = DetailMap.taken_from(tensors, max(1, len(config.variants))) if has_detail else None
        assign_weights(_variables(network, representation), tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{folder} does not describe a model of this version: {error}. Train again.") from error
    eps, usual_mean, usual_std = (extra[name] for name in _EXTRA)
    preprocessing = description["preprocessing"]
    parts = {"representation": representation, "detail": detail, "tiles": tiles, **optional}
    return Model(config, network, eps, usual_mean, usual_std, preprocessing, **parts)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    files = read_files(folder, _FILES, "bundle", _RESTORE)
    try:
        description = json.loads(files["model.json"])
        tensors = load(files["weights.safetensors"])
        version = description["format_version"]
        content = {key: description[key] for key in ("config", "preprocessing")}
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BundleError(f"{folder} is not a nelbo model: {error!r}. Restore it from a copy.") from error
    if version != FORMAT_VERSION:
        raise BundleError(f"{folder} has format version {version}, this nelbo reads {FORMAT_VERSION}. Update nelbo.")
    model_id = _model_id(content, files["weights.safetensors"])
    if not model_id == folder.name == description.get("model_id"):
        raise BundleError(
            f"{folder} holds model {model_id} and says that it is {description.get('model_id')}: it was changed or "
            f"moved after it was made. {_RESTORE}"
        )
    _check_consistent(folder, description, tensors)
    return description, tensors


def _check_consistent(folder: Path, description: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Check that config, preprocessing and weights can be those of one trained model, as far as that needs no Keras.

    Raises:
        BundleError: they are not; an id tells that a bundle is what was written, not that it makes sense.
    """
    try:
        config = VAEConfig.from_dict(description["config"])
        _check_prepared(config, description["preprocessing"])
        for name, values in tensors.items():
            if values.dtype != np.float32:
                raise ValueError(f"weights {name} are {values.dtype}, expected float32")
            if not np.isfinite(values).all():
                raise ValueError(f"weights {name} are NaN or infinite in {(~np.isfinite(values)).sum()} places")
        several = (len(config.variants),) if config.variants else ()
        expected = (*several, *_grid(config, description["preprocessing"], tensors))
        for name in ("usual_mean", "usual_std"):
            if tensors[name].shape != expected:
                raise ValueError(f"{name} has shape {tensors[name].shape}, expected {expected}")
        if not (tensors["usual_std"] > 0).all():
            raise ValueError("usual_std is not positive everywhere")
        _check_statistics(config, tensors.get("usual_statistics"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{folder} does not describe one trained model: {error}. {_RESTORE}") from error


def _grid(config: VAEConfig, preprocessing: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> tuple[int, int]:
    """The grid of what is usual: all positions, or a row of those that are not ignored."""
    outside = tensors.get("tiles/outside" if config.is_tiled else "outside")
    if (outside is not None) != ((preprocessing.get("area") or {}).get("mask") is not None):
        raise ValueError("weights and preprocessing do not agree on what is ignored")
    if outside is not None:
        check_outside(outside)
    if not config.is_tiled and (places := places_of(config, outside)) is not None:
        return 1, len(places.numbers)
    return config.height // config.stride_px, config.width // config.stride_px


def _check_prepared(config: VAEConfig, preprocessing: Mapping[str, Any]) -> None:
    for name in ("height", "width", "channels"):
        found, expected = preprocessing.get(name), getattr(config, name)
        if found not in (None, expected):
            raise ValueError(f"images are prepared with {name} {found}, and the network takes {expected}")
    if config.is_tiled != (preprocessing.get("tile_scale") is not None):
        raise ValueError("config and preprocessing do not agree on tiles")


def _check_statistics(config: VAEConfig, statistics: NDArray[Any] | None) -> None:
    if statistics is None:
        if config.is_linear or config.statistic == "joint":
            raise ValueError("usual_statistics is not there")
        return
    expected = (len(config.variants), 3, 2) if config.variants else (3, 2)
    if statistics.shape != expected or not (statistics[..., 1] > 0).all():
        raise ValueError(
            f"usual_statistics has shape {statistics.shape}, expected {expected}, the last column positive"
        )


def _model_id(content: Mapping[str, Any], weights: bytes) -> str:
    return "m" + hashlib.sha256(as_json(content) + weights).hexdigest()[:16]


def _variables(network: Any, representation: Any) -> dict[str, Any]:
    """All variables that a score depends on, by the names that a bundle has for them."""
    # A solved network has no trainable variables.
    own = network.trainable_variables or network.weights
    others = [] if representation is None else representation.weights
    return {variable.path: variable for variable in (*own, *others)}
