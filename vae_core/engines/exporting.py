"""Making a model ready for an engine: compile, choose the batch, compare with Keras."""

import importlib.util
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from nelbo.vae_core.config import VAEConfig
from nelbo.vae_core.device import has_accelerator, images_at_once
from nelbo.vae_core.engines.conversion import suits_openvino, to_openvino
from nelbo.vae_core.engines.difference import TOLERANCE, coarse
from nelbo.vae_core.engines.exported import ALL_ENGINES, ENGINES, EngineError, Exported, is_installed, score_all
from nelbo.vae_core.engines.graphs import import_openvino
from nelbo.vae_core.engines.speed import images_per_s, machine
from nelbo.vae_core.linear.vae import LinearHead
from nelbo.vae_core.model import Model
from nelbo.vae_core.scoring import Score, default_batch_size

#: A batch twice as large has to be faster by this share to be taken.
_WORTH = 0.05


def export(
    model: Model,
    engine: str,
    pixels: NDArray[np.float32],
    *,
    model_id: str,
    tolerance: float = TOLERANCE,
    aside: Path | None = None,
) -> Exported:
    """Compile a model's whole scoring function for an engine, and check it on reference images.

    Args:
        model: a trained model.
        engine: "openvino", "onnx"; or "keras", for which only the batch size and the references are determined.
        pixels: (n, h, w, c) float32 in [0, 1], reference images; they are kept with the engine.
        model_id: of the model's bundle.
        tolerance: largest `difference` from Keras's scores.
        aside: a folder for what is unfinished; by default the system's for temporary files.

    Returns:
        The engine, checked.

    Raises:
        EngineError: the engine, or what translates to it, is not installed; or a number or a map differs by more, or
            does not vary between images.
        ValueError: pixels that the model cannot score, or none.

    >>> from nelbo.vae_core import VAEConfig
    >>> from nelbo.vae_core.model import draw_eps
    >>> from nelbo.vae_core.network.vae import VAE
    >>> config, ones = VAEConfig(height=16, width=16), np.ones((16, 16), np.float32)
    >>> untrained = Model(config, VAE(config), draw_eps(config, seed=0), 0 * ones, ones, {})
    >>> exported = export(untrained, "keras", np.zeros((3, 16, 16, 1), np.float32), model_id="m1")
    >>> exported.engine, exported.expected.nelbo.shape, exported.batch_size
    ('keras', (3,), 256)
    """
    if not len(pixels):
        raise ValueError("pixels: expected at least one reference image, got none")
    _check_installed(engine)
    files = {} if engine == "keras" else _compile(model, engine, aside)
    expected = score_all(model, pixels)
    exported = described(model, engine, pixels, expected, files, model_id=model_id, tolerance=tolerance)
    if engine == "keras" and has_accelerator():
        exported = replace(exported, batch_size=_fastest_batch(model, pixels))
    scored_by = exported if files else replace(model, batch_size=exported.batch_size)
    exported.check(scored_by)
    # Compare pixel by pixel, too: maps in full are too large to be kept.
    exported.compare(score_all(scored_by, pixels), expected)
    return replace(exported, images_per_s=images_per_s({"keras": model, engine: scored_by}, pixels))


def described(
    model: Model,
    engine: str,
    pixels: NDArray[np.float32],
    expected: Score,
    files: Mapping[str, bytes],
    *,
    model_id: str,
    tolerance: float,
) -> Exported:
    """The description of an engine that was just made here; its speed is not measured yet.

    Args:
        pixels, expected: reference images, and the scores that they have.
        files: of the engine.
        tolerance: largest difference from these scores that passes.
    """
    return Exported(
        engine,
        version(ALL_ENGINES[engine].package),
        model_id,
        model.config,
        model.preprocessing,
        batch_size=default_batch_size(model.config),
        tolerance=tolerance,
        images_per_s={},
        machine=machine(),
        subtracted=_subtracted(model),
        map_scales=model.map_scales,
        pixels=pixels,
        expected=coarse(expected),
        files=files,
        detail=model.detail,
        tiles=model.tiles,
    )


def usual_engines(config: VAEConfig) -> tuple[str, ...]:
    """The engines that a model of this `config` is made ready for by default.

    OpenVINO, where a backbone is slow in Keras; on an accelerator Keras itself, which finds the fastest batch.

    >>> usual_engines(VAEConfig(height=64, width=64))
    ()
    """
    if has_accelerator():
        return ("keras",)
    return ("openvino",) if suits_openvino() and not config.is_pixels else ()


def _subtracted(model: Model) -> float:
    """See `differences`."""
    ratio = np.abs(model.usual_mean.astype(np.float64)) / model.usual_std
    side = model.config.smoothing_px // model.config.stride_px
    # Each of several variants by itself.
    box = (0,) * (ratio.ndim - 2) + (side, side)
    largest = float(uniform_filter(ratio, box, mode="mirror").max())
    if model.usual_statistics is None:
        return largest
    if isinstance(model.network, LinearHead) and model.network.nearest is not None:
        # The logarithm of a distance that is off by a share is off by that share.
        largest = max(largest, 1 / float(np.min(model.network.nearest.usual[:, 1])))
    if model.tiles is not None:
        # Standardised a second time, as a whole.
        usual = model.tiles.usual
        largest = float(((largest + np.abs(usual.mean)) / usual.std).max())
    median, spread = np.moveaxis(model.usual_statistics.astype(np.float64), -1, 0)
    return float(max(largest, ((np.abs(median) + largest) / spread).max()))


def _check_installed(engine: str) -> None:
    if engine not in ENGINES:
        raise EngineError(f"engine={engine!r}: expected one of {', '.join(ENGINES)}")
    if engine == "keras":
        return
    if keras.backend.backend() != "tensorflow":
        raise EngineError(
            f"engine {engine} is made through TensorFlow, and KERAS_BACKEND is {keras.backend.backend()}. "
            "Export with KERAS_BACKEND=tensorflow: a bundle is the same for all backends"
        )
    needed = [ENGINES[engine].package] + ["tf2onnx"] * (engine == "onnx")
    if not is_installed(engine) or importlib.util.find_spec(needed[-1]) is None:
        raise EngineError(
            f"engine {engine} needs {' and '.join(needed)}, which cannot be found here. "
            f"Get what it needs with: pip install 'nelbo[{engine}]'"
        )


def _compile(model: Model, engine: str, aside: Path | None) -> dict[str, bytes]:
    """The contents of an engine's files, by name."""
    config = model.config
    pixels = keras.InputSpec(shape=(None, config.height, config.width, config.channels), dtype="float32", name="pixels")
    with tempfile.TemporaryDirectory(prefix="nelbo-", dir=aside) as folder:
        graph, names = model.graph(maps=False), ENGINES[engine].files
        written = Path(folder) / names[0]
        if engine == "openvino":
            converted = to_openvino(graph, (None, *pixels.shape[1:]))
            # Its own format cannot name further files.
            import_openvino().save_model(converted, written, compress_to_fp16=False)
        else:
            with warnings.catch_warnings():
                # Ignore warnings of NumPy and protobuf to tf2onnx.
                warnings.simplefilter("ignore")
                graph.export(written, format="onnx", verbose=False, input_signature=[pixels])
        return {name: written.with_name(name).read_bytes() for name in names}


def _fastest_batch(model: Model, pixels: NDArray[np.float32]) -> int:
    """Images in a batch, doubled until throughput stops rising or memory ends."""
    size = images_at_once(default_batch_size(model.config))
    speed = _speed(replace(model, batch_size=size), pixels)
    while True:
        try:
            faster = _speed(replace(model, batch_size=2 * size), pixels)
        except Exception as error:
            # What TensorFlow and JAX say when memory ends; each has an error class of its own.
            if "ResourceExhausted" not in type(error).__name__ and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return size
        if faster < (1 + _WORTH) * speed:
            return size
        size, speed = 2 * size, faster


def _speed(model: Model, pixels: NDArray[np.float32]) -> float:
    return images_per_s({"keras": model}, pixels)["keras"]
