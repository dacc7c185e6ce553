"""Loading of models: a process compiles each model only once, however many workspaces hold it."""

import contextlib
import importlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nelbo import vae_core
from nelbo.data import COMMIT, Place, Preprocessing, publish_folder
from nelbo.flows.inference.cpus import follow_cpus
from nelbo.flows.inference.progress import progress
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.vae_core import Scorable, VAEConfig

log = logging.getLogger(__name__)

_importing = threading.Lock()
_loading = threading.Lock()

_BUNDLE = ("model.json", "weights.safetensors", COMMIT)
_RESTORE = "Restore it from a copy, or delete it and train again."
#: Most attempts to read an engine that is replaced meanwhile.
_READS = 5


def load_model(workspace: Workspace, model_id: str, engine: str = "keras") -> Scorable:
    """A model of the workspace for one engine, verified; one object for all threads of the process.

    An exported engine must give its reference images the scores that they had at export; else this is an EngineError.
    """
    made = workspace.engine(model_id, engine)
    checksums = made / COMMIT
    with _loading:
        return _load(workspace.models / model_id, made, checksums.read_bytes() if checksums.exists() else b"")


@dataclass(frozen=True)
class _Verified:
    """A model for an engine, its files checked: equal to any other with the same contents."""

    model_id: str
    engine: str
    checksums: bytes
    bundle: Place = field(compare=False)
    exported: "vae_core.Exported | None" = field(compare=False)


@lru_cache(maxsize=4)
def _load(bundle: Place, made: Place, checksums: bytes) -> Scorable:
    # `checksums` belong to the cache's key: an engine may be made again under the same name.
    engine = made.name
    with progress("loading the model"):
        exported = read_engine(made) if engine != "keras" or checksums else None
        model = _verified(bundle)
        if exported is not None and engine != "keras":
            _check_same(exported, model)
        return _compiled(_Verified(model["model_id"], engine, checksums, bundle, exported))


@lru_cache(maxsize=4)
def _compiled(verified: _Verified) -> Scorable:
    """What computes scores: compiled once for all workspaces that hold the same model."""
    exported = verified.exported
    if exported is not None and verified.engine != "keras":
        exported.check(exported)
        return exported
    model = read_bundle(verified.bundle)
    if exported is not None:
        model = replace(model, batch_size=exported.batch_size)
        exported.check(model)
    # This compiles the model now, at start-up: scoring no images runs one padded batch.
    config = model.config
    vae_core.score(model, np.empty((0, config.height, config.width, config.channels), np.float32), maps=False)
    return model


def read_bundle(folder: Place) -> "vae_core.Model":
    """The model in a folder, every file of it checked."""
    import_keras()
    with _on_disk(folder, _BUNDLE) as local:
        model = vae_core.load_bundle(local)
    _check_preprocessing(folder, model)
    return model


def _check_preprocessing(folder: Place, model: Scorable) -> None:
    """Check that files become what the network takes: a wrong size or colour would be noticed midway, or never."""
    try:
        made = Preprocessing(**model.preprocessing)
    except (TypeError, ValueError) as error:
        raise vae_core.BundleError(f"{folder}: nelbo does not know its preprocessing ({error}). {_RESTORE}") from error
    config = model.config
    found, expected = ((of.height, of.width, of.channels) for of in (made, config))
    if found != expected:
        raise vae_core.BundleError(
            f"{folder}: images are prepared as {found} (height, width, channels), but the network takes {expected}. "
            f"{_RESTORE}"
        )


def _check_same(exported: "vae_core.Exported", model: Mapping[str, Any]) -> None:
    """Check that an engine was made of the model in whose folder it lies, as the model is now."""
    if (exported.config, dict(exported.preprocessing)) != (
        VAEConfig.from_dict(model["config"]),
        model["preprocessing"],
    ):
        raise vae_core.EngineError(
            f"engine {exported.engine} of model {exported.model_id} was made of a model with another configuration. "
            f"Make it again with: nelbo export --model {exported.model_id} --engine {exported.engine}"
        )


def _verified(bundle: Place) -> dict[str, Any]:
    """A bundle's ``model.json``, every file of it checked."""
    with _on_disk(bundle, _BUNDLE) as local:
        return vae_core.verify_bundle(local)


def verify_engine(workspace: Workspace, model_id: str, engine: str) -> None:
    """Check an engine's files, and that it was made of this model; nothing is compiled."""
    _check_same(read_engine(workspace.engine(model_id, engine)), _verified(workspace.models / model_id))


def read_engine(folder: Place) -> "vae_core.Exported":
    """An exported engine, every file of it checked; read again if it is replaced meanwhile."""
    engine, model_id = folder.name, folder.parent.name
    again = f"nelbo export --model {model_id} --engine {engine}"
    if engine == vae_core.INT8:
        # This engine is fitted in training, not exported.
        again = f"nelbo train --precision {engine}"
    for left in reversed(range(_READS)):
        try:
            before = (folder / COMMIT).read_bytes()
        except FileNotFoundError as error:
            raise UsageError(
                f"model {model_id} has no engine {engine}. Make it with: {again}, or use --engine auto."
            ) from error
        try:
            with _on_disk(folder, vae_core.exported_files(engine)) as local:
                exported = vae_core.load_exported(local)
            break
        except vae_core.BundleError:
            if not left or (folder / COMMIT).read_bytes() == before:
                raise
    _check_preprocessing(folder, exported)
    if (exported.engine, exported.model_id) != (engine, model_id):
        raise UsageError(
            f"{folder} holds engine {exported.engine} of model {exported.model_id}. Make it again with: {again}"
        )
    return exported


@contextlib.contextmanager
def _on_disk(folder: Place, names: Sequence[str]) -> Iterator[Path]:
    """The folder itself, or a temporary folder with these files of it, fetched from an object store."""
    if isinstance(folder, Path):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="nelbo-") as aside:
        local = Path(aside) / folder.name
        local.mkdir()
        for name in names:
            # The check that follows says which files are missing.
            with contextlib.suppress(FileNotFoundError):
                folder.fs.get_file((folder / name).path, str(local / name))
        try:
            yield local
        except vae_core.BundleError as error:
            raise vae_core.BundleError(str(error).replace(str(local), str(folder))) from error


def keep_bundle(model: "vae_core.Model", workspace: Workspace, facts: dict[str, Any]) -> str:
    """Publish a model's folder as a whole, and return its id; an equal one that exists is verified and kept."""
    if isinstance(workspace.models, Path):
        return vae_core.save_bundle(model, workspace.models, facts, workspace.local_staging)
    with tempfile.TemporaryDirectory(prefix="nelbo-") as aside:
        model_id = vae_core.save_bundle(model, Path(aside), facts)
        if model_id in catalog.model_ids(workspace):
            read_bundle(workspace.models / model_id)
        else:
            publish_folder(Path(aside) / model_id, workspace.models / model_id)
    return model_id


def import_keras() -> None:
    """Import Keras and its backend, without the lines that TensorFlow's C++ code prints on stderr at its start.

    Raises:
        UsageError: the backend is not installed.
    """
    # Only one thread may hold stderr back: file descriptor 2 belongs to all of them.
    with _importing:
        if "keras" in sys.modules:
            return
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        follow_cpus()
        try:
            with progress("loading Keras"), _quiet_stderr():
                importlib.import_module("keras")
        except ModuleNotFoundError as error:
            extra = "jax" if error.name == "jax" else "cpu]', or 'nelbo[gpu"
            raise UsageError(f"{error.name} is not installed. Get it with: pip install 'nelbo[{extra}]'") from error


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hold back what is written to file descriptor 2; show it if the block fails."""
    try:
        kept = os.dup(2)
    except OSError:
        # The process has no stderr.
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except ModuleNotFoundError:
            raise
        except Exception:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
