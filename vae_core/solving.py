"""Fitting the linear heads: no noise, no epochs; an eigenvalue problem on a backbone's features."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from vae_core.config import TrainConfig, VAEConfig
from vae_core.crossfit import Fit, Unseen, default_folds, fit_folds
from vae_core.extraction import extract
from vae_core.features import DetailMap, Features, gathered, joined, joined_shape
from vae_core.linear import MIN_IMAGES, solve_shared
from vae_core.model import Model, draw_eps
from vae_core.pixels import PixelRows
from vae_core.pretext import give_weights
from vae_core.scoring import Score, n_worst
from vae_core.usual import Parts, learn_usual

#: Images that the map for people is made from: one covariance of all its positions needs no more.
_DETAILED = 128
#: Maps computed at a time.
_CHUNK = 16
#: Share of the normal images whose most unusual place sets the unit of the map for people.
_HIGH = 0.95


class Solved(NamedTuple):
    """What fitting gives.

    unseen: of each image, in the order given, by a model of others.
    nelbo: mean of the images under the model of all, in nats; seconds that it took.
    """

    model: Model
    unseen: Score
    nelbo: float
    seconds: float


def solve(
    images: Sequence[PixelRows],
    config: VAEConfig,
    train_config: TrainConfig,
    *,
    preprocessing: Mapping[str, Any],
    folds: Sequence[int] | None,
    aside: Path,
    checkpoint: Path | None = None,
    advance: Callable[[int], None] = lambda _: None,
    backbone_callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Solved:
    """Fit a linear head on normal images.

    Args:
        images: sets of (n, h, w, c), all of them fitted on.
        config, train_config: of the network and its training.
        preprocessing: kept with the model.
        folds: of all images together, or None.
        aside: a folder for the features, 0.08 MB an image of 256 x 256 pixels.
        checkpoint, backbone_callbacks: of the training of the backbone ``self_trained``.
        advance: called with the number of images whose features have been computed since the last call.

    Raises:
        BackboneError: the backbone's weights are not there, or not its own.
        ValueError: too few images, or too few folds.
    """
    started = time.perf_counter()
    n = sum(map(len, images))
    if n < MIN_IMAGES:
        raise ValueError(
            f"{n} images to train on: the preset features expects {MIN_IMAGES} or more. Add normal images, "
            "or take conv_1x1x16"
        )
    if folds is not None and len(folds) != n:
        raise ValueError(f"folds: expected {n}, one for each image, got {len(folds)}")
    features = Features(config)
    give_weights(features.backbone, images[0], config, train_config, checkpoint, backbone_callbacks)
    views = [Turned(some, quarter) for quarter in range(train_config.rotations) for some in images]
    rows, maps = _looked_at(features, views, aside / "features.npy", advance)
    fit = fit_folds(rows, features.value_shape, config, default_folds(n) if folds is None else folds)
    features.whitening.assign(fit.solution)
    n_latents = fit.solution.variances.shape[-1]
    config = VAEConfig(**config.to_dict() | {"subject": fit.subject, "n_latents": n_latents})
    local = fit.unseen.distortion_map + (fit.unseen.rate_map if config.of == "nelbo" else 0)
    usual, parts = learn_usual(local, config.smoothing_px // config.stride_px)
    model = Model(
        config,
        fit.network,
        draw_eps(config, train_config.seed),
        usual.mean,
        usual.std,
        dict(preprocessing),
        representation=features,
        usual_statistics=usual.statistics,
        detail=_detail(features, maps, config, parts.peak),
    )
    nelbo = _mean_nelbo(features, fit, rows)
    return Solved(model, _scores(fit.unseen, parts, config), nelbo, time.perf_counter() - started)


class Turned:
    """Images turned by a number of quarters, as they are read."""

    def __init__(self, images: PixelRows, quarter: int) -> None:
        self.images, self.quarter = images, quarter
        self.shape, self.dtype = images.shape, images.dtype

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """The images of a slice, or of an array of row numbers."""
        return np.rot90(self.images[rows], self.quarter, axes=(1, 2))


def _looked_at(
    features: Features, images: Sequence[PixelRows], path: Path, advance: Callable[[int], None]
) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """(n, p, c) features of all images, in a file that is as an array; and the backbone's maps of some images."""
    config = features.config
    pixels = features.backbone.input
    outputs = features.maps(pixels)
    network = keras.Model(pixels, [gathered(outputs, config), *outputs], name="looking")
    height, width, channels = features.value_shape
    n = sum(map(len, images))
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (n, height * width, channels))
    detailed = set(np.linspace(0, n - 1, min(n, _DETAILED)).astype(int).tolist())
    kept: list[list[NDArray[np.float32]]] = []
    done = 0
    for some in images:
        for gathered_, *maps in extract(network, some, advance):
            rows[done : done + len(gathered_)] = gathered_.reshape(len(gathered_), -1, channels)
            chosen = [row for row in range(len(gathered_)) if done + row in detailed]
            kept.append([one[chosen] for one in maps])
            done += len(gathered_)
    return rows, [np.concatenate(one) for one in zip(*kept, strict=True)]


def _detail(
    features: Features, maps: Sequence[NDArray[np.float32]], config: VAEConfig, peaks: NDArray[np.float32]
) -> DetailMap:
    """The map for people, of the backbone's maps of some normal images."""
    shape = joined_shape(features.backbone)
    chunks = [[one[start : start + _CHUNK] for one in maps] for start in range(0, len(maps[0]), _CHUNK)]
    solution = solve_shared(np.asarray(joined(chunk)).reshape(len(chunk[0]), -1, shape[-1]) for chunk in chunks)
    detail = DetailMap(shape, solution.variances.shape[-1], (config.height, config.width))
    detail.whitening.assign(solution)
    detail.network.assign(solution)
    nats = np.concatenate([np.asarray(detail.nats(chunk)) for chunk in chunks])
    usual, high = float(nats.mean()), float(np.quantile(nats.max(axis=(1, 2)), _HIGH))
    unit = (high - usual) / max(float(np.quantile(peaks, _HIGH)), 1.0)
    detail.scale.assign([usual, max(unit, float(np.finfo(np.float32).tiny))])
    return detail


def _mean_nelbo(features: Features, fit: Fit, rows: NDArray[np.float32]) -> float:
    """Mean over images of what the model of all of them says, in nats."""
    total = 0.0
    for start in range(0, len(rows), _CHUNK):
        chunk = ops.convert_to_tensor(rows[start : start + _CHUNK].reshape(-1, *features.value_shape))
        found = fit.network.evaluate(features.whitening(chunk))
        total += float(ops.sum(found["anomaly_map"]) + ops.sum(found["rate"]))
    return total / len(rows)


def _scores(unseen: Unseen, parts: Parts, config: VAEConfig) -> Score:
    """Scores of images by models that have not seen them, without maps."""
    distortion = unseen.distortion_map.sum(axis=(1, 2))
    rate = unseen.rate_map.sum(axis=(1, 2))
    positions = np.sort(unseen.distortion_map.reshape(len(distortion), -1), axis=1)
    nelbo = distortion + rate
    named = {"joint": parts.joint, "peak": parts.peak, "nelbo": nelbo}
    return Score(
        anomaly_score=named[config.statistic],
        nelbo=nelbo,
        distortion=distortion,
        rate=rate,
        z_mean_norm=unseen.z_mean_norm,
        z_log_var_sum=unseen.z_log_var_sum,
        worst_pixels=positions[:, -n_worst(positions.shape[1]) :].sum(axis=1),
        **parts._asdict(),
        anomaly_map=None,
        rate_map=None,
        local_z=None,
        reconstruction=None,
    )
