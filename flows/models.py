"""Models and manifests, read for use: each model is loaded once a process."""

import contextlib
import importlib
import json
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data import (
    COMMIT,
    MEASURES,
    QUALITY,
    File,
    Images,
    Place,
    Preprocessing,
    image_quality,
    publish_folder,
    read_images,
)
from flows.errors import UsageError
from flows.settings import DecodingSettings
from flows.workspace import Workspace

if TYPE_CHECKING:
    import vae_core

log = logging.getLogger(__name__)

_importing = threading.Lock()
_loading = threading.Lock()

#: Hex digits of an image's content hash by which a model remembers that it has seen it.
SEEN_DIGITS = 16

#: Images decoded and scored at a time, at 64 x 64; fewer at larger sizes.
_CHUNK_PIXELS = 256 * 64 * 64


_BUNDLE = ("model.json", "weights.safetensors", COMMIT)


def load_model(workspace: Workspace, model_id: str) -> "vae_core.Model":
    """A model of the workspace, verified; one object for all threads of the process."""
    with _loading:
        return _load(workspace.models / model_id)


@lru_cache(maxsize=4)
def _load(folder: Place) -> "vae_core.Model":
    vae_core = import_vae_core()
    model = read_bundle(folder)
    # Compiles now, as a part of start-up: scoring no images runs one padded batch.
    config = model.config
    vae_core.score(model, np.empty((0, config.height, config.width, config.channels), np.float32), maps=False)
    return model


def read_bundle(folder: Place) -> "vae_core.Model":
    """A model, every file of it checked; one in an object store is fetched to a private folder for that."""
    vae_core = import_vae_core()
    if isinstance(folder, Path):
        return vae_core.load_bundle(folder)
    with tempfile.TemporaryDirectory(prefix="nelbo-") as aside:
        local = Path(aside) / folder.name
        local.mkdir()
        try:
            for name in _BUNDLE:
                # The check says what is missing.
                with contextlib.suppress(FileNotFoundError):
                    folder.fs.get_file((folder / name).path, str(local / name))
            return vae_core.load_bundle(local)
        except vae_core.BundleError as error:
            raise vae_core.BundleError(str(error).replace(str(local), str(folder))) from error


def keep_bundle(model: "vae_core.Model", workspace: Workspace, facts: dict[str, Any]) -> str:
    """Publish a model's folder, whole; an equal one that is there already is verified and kept. Its id."""
    vae_core = import_vae_core()
    if isinstance(workspace.models, Path):
        return vae_core.save_bundle(model, workspace.models, facts, workspace.local_staging)
    with tempfile.TemporaryDirectory(prefix="nelbo-") as aside:
        model_id = vae_core.save_bundle(model, Path(aside), facts)
        if model_id in workspace.model_ids():
            read_bundle(workspace.models / model_id)
        else:
            publish_folder(Path(aside) / model_id, workspace.models / model_id)
    return model_id


def import_vae_core() -> Any:
    """Import the VAE and its backend, without the lines that TensorFlow's C++ prints on stderr at its start.

    Raises:
        UsageError: the backend is not installed.
    """
    # Held back once, by one thread: file descriptor 2 belongs to all of them.
    with _importing:
        if "vae_core" in sys.modules:
            return sys.modules["vae_core"]
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        try:
            with _quiet_stderr():
                return importlib.import_module("vae_core")
        except ModuleNotFoundError as error:
            extra = "jax" if error.name == "jax" else "cpu]', or 'nelbo[gpu"
            raise UsageError(f"{error.name} is not installed. Get it with: pip install 'nelbo[{extra}]'") from error


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hold back what is written to file descriptor 2; it is shown after all if the block fails."""
    try:
        kept = os.dup(2)
    except OSError:
        # There is no stderr to keep quiet.
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except ModuleNotFoundError:
            raise
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def describe_model(workspace: Workspace, model_id: str) -> dict[str, Any]:
    """A model's ``model.json``, read without loading the model or its backend."""
    path = workspace.models / model_id / "model.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        return {name: description[name] for name in ("config", "preprocessing", "training")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is damaged ({error!r}). Restore it from a copy, or delete the folder and train again."
        ) from error


def seen_in_training(workspace: Workspace, model_id: str) -> set[str]:
    """Beginnings of the content hashes of the images that the model was trained or stopped on."""
    seen = describe_model(workspace, model_id)["training"].get("seen")
    if seen is None:
        log.warning("%s does not say what it was trained on: overlap with those images is not checked", model_id)
    return set(seen or ())


def unseen_in_training(table: pa.Table, workspace: Workspace, model_id: str) -> pa.Table:
    """The rows of images that the model may be judged on: it was neither trained nor stopped on them."""
    seen = pa.array(seen_in_training(workspace, model_id), pa.string())
    return table.filter(pc.invert(pc.is_in(pc.utf8_slice_codeunits(table["image_id"], 0, SEEN_DIGITS), seen)))


class Scored(NamedTuple):
    """Scores of the readable files among those given.

    columns: ``MEASURES`` and ``QUALITY``, float64; NaN for a file without a score.
    reasons: None or why a file has no score.
    """

    columns: dict[str, np.ndarray]
    reasons: list[str | None]


def score_files(model: "vae_core.Model", files: Sequence[File], decoding: DecodingSettings) -> Iterator[Scored]:
    """Decode and score files, chunk by chunk, in order."""
    vae_core = import_vae_core()
    n_values = Preprocessing(**model.preprocessing).n_values
    likelihood = model.network.likelihood
    for images in map(partial(_supported, model), _decoded(model, files, decoding)):
        score = vae_core.score(model, images.pixels, maps=False)
        bits = vae_core.bits_per_dim(score.nelbo, n_values, density=likelihood.is_density)
        found = {
            "nelbo_nats": score.nelbo,
            "distortion_nats": score.distortion,
            "rate_nats": score.rate,
            "bits_per_dim": bits,
            "z_mean_norm": score.z_mean_norm,
            "z_log_var_sum": score.z_log_var_sum,
            "worst_pixels_nats": score.worst_pixels,
            "peak": score.peak,
            **image_quality(images.pixels),
        }
        readable = np.array([reason is None for reason in images.reasons])
        columns = {}
        for name in (*MEASURES, *QUALITY):
            columns[name] = np.full(len(readable), np.nan)
            columns[name][readable] = np.asarray(found[name], np.float64)
        yield Scored(columns, images.reasons)


class Look(NamedTuple):
    """Pictures of one image: ``local_z`` (h, w) in standard deviations, ``reconstruction`` (h, w, c)."""

    local_z: np.ndarray
    reconstruction: np.ndarray


def look_again(model: "vae_core.Model", files: Sequence[File], decoding: DecodingSettings) -> Iterator[Look | None]:
    """A second look at a few files, in order; None for one that cannot be read any more."""
    for images in map(partial(_supported, model), _decoded(model, files, decoding)):
        score = import_vae_core().score(model, images.pixels)
        looks = map(Look, score.local_z, score.reconstruction)
        for reason in images.reasons:
            yield next(looks) if reason is None else None


def _supported(model: "vae_core.Model", images: Images) -> Images:
    """Without the images whose values the model's likelihood is not defined for: they get a reason instead."""
    sound = model.network.likelihood.supports(images.pixels)
    found = iter(sound)
    return Images(
        images.pixels[sound], [reason or (None if next(found) else "unsupported") for reason in images.reasons]
    )


def _decoded(model: "vae_core.Model", files: Sequence[File], decoding: DecodingSettings) -> Iterator[Images]:
    """Files in chunks that fit in memory."""
    preprocessing = Preprocessing(**model.preprocessing)
    size = max(4, _CHUNK_PIXELS // (preprocessing.height * preprocessing.width))
    for start in range(0, len(files), size):
        yield read_images(files[start : start + size], preprocessing, limits=decoding.limits, workers=decoding.workers)
