"""Features of a set of images, fitted by a head of nelbo or by a published method."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from scipy.ndimage import uniform_filter

from benchmarks.datasets import Dataset
from nelbo.data import folds
from nelbo.detectors import n_needed
from nelbo.vae_core import N_FOLDS, VAEConfig
from nelbo.vae_core.config import AUTO, FLOAT32, TrainConfig
from nelbo.vae_core.engines.quantising import N_RANGED, continued, quantised
from nelbo.vae_core.features.extraction import Extractor
from nelbo.vae_core.features.features import Features, gathered
from nelbo.vae_core.features.pretext import give_weights
from nelbo.vae_core.linear.solving import fit_features
from nelbo.vae_core.pixels import to_unit
from nelbo.vae_core.scoring import VARIANT, Score, anomaly_score

SIDE, FPR = 256, 0.05
_BATCH = 64


class Looked(NamedTuple):
    """A set as a head sees it.

    normals, test: (n, p, c) features; labels: (n,) of the test images; views: (n,) the part in each normal image.
    kinds: (n,) the kind of each test image; None where a set has only one.
    """

    normals: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    views: np.ndarray
    config: VAEConfig
    kinds: np.ndarray | None = None


def looked(
    name: str, load: Callable[[int], Dataset], backbone: str, folder: Path, side: int = SIDE, precision: str = FLOAT32
) -> Looked:
    """A set's features, computed unless they are in the folder."""
    config = VAEConfig(height=side, width=side, preset="features", backbone=backbone)
    kind = "" if precision == FLOAT32 else f", {precision}"
    path = folder / f"{name}, {backbone}{kind}.npz".replace(" ", "_")
    if not path.exists():
        data = load(side)
        features = Features(config)
        give_weights(features.backbone, data.train, config, TrainConfig())
        images = (np.concatenate([data.train, data.validation]), data.test)
        extractor = extractor_of(features, images[0], precision)
        normals, test = (np.concatenate([maps[0] for maps in extractor(some)]) for some in images)
        views = np.arange(len(normals)).astype(str) if data.views is None else data.views
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, normals=_rows(normals), test=_rows(test), labels=data.labels, views=views)
    kept = np.load(path)
    # ELPV is the only set with two kinds of normal images.
    kinds = load(64).groups if name == "ELPV" else None
    return Looked(kept["normals"], kept["test"], kept["labels"], kept["views"], config, kinds)


def extractor_of(features: Features, normals: np.ndarray, precision: str) -> Extractor:
    """The network that computes features; in 8 bits by the ranges of some normal images."""
    config = features.config
    if precision == FLOAT32:
        pixels = features.backbone.input
        return Extractor(keras.Model(pixels, [gathered(features.maps(pixels), config)]))
    some = normals[np.linspace(0, len(normals) - 1, min(len(normals), N_RANGED)).astype(int)]
    backbone = quantised(features.backbone, to_unit(some))
    network = continued(backbone, lambda maps: [gathered(maps, config)], features.backbone.outputs)
    return Extractor(network, some.shape[1:])


def _rows(maps: np.ndarray) -> np.ndarray:
    return maps.reshape(len(maps), -1, maps.shape[-1])


def folds_of(views: np.ndarray, seed: int) -> list[int]:
    """The fold of each image; views of one part share a fold."""
    n = min(N_FOLDS, len(np.unique(views)))
    return folds([str(i) for i in range(len(views))], views.tolist(), n, seed=seed)


class Judged(NamedTuple):
    """A fit's scores of images that it has not seen: new ones, and its own normal images by cross-fitting."""

    test: Score
    unseen: Score
    config: VAEConfig


def fitted(
    normals: np.ndarray,
    test: np.ndarray,
    numbers: list[int],
    config: VAEConfig,
    variants: int | str = AUTO,
    named: list[str] | None = None,
) -> Judged:
    """Fit and score as ``train`` and ``score`` do; `named` are the normals' variants where they are known."""
    shape = (config.height // config.stride_px, config.width // config.stride_px, normals.shape[-1])
    asked: dict[str, Any] = {"asked": variants, "variants": named, "images_of_variant": n_needed(FPR)}
    fit = fit_features(normals, shape, config, folds=numbers, **asked)
    chunks = [
        fit.head.evaluate(test[start : start + _BATCH].reshape(-1, *shape)) for start in range(0, len(test), _BATCH)
    ]
    found = {name: np.concatenate([np.asarray(chunk[name]) for chunk in chunks]) for name in chunks[0]}
    local = found["anomaly_map"] + (found["rate_map"] if config.of == "nelbo" else 0)
    own = found["variant"].astype(int) if "variant" in found else None
    parts = fit.usual.parts(local, config.smoothing_px // config.stride_px, own)._asdict()
    parts |= {name: found[name] for name in VARIANT if name in found}
    blank = dict.fromkeys(name for name in Score._fields if name not in parts)
    return Judged(Score(**blank | parts | {"anomaly_score": anomaly_score(parts, "joint")}), fit.unseen, fit.config)


def nearest(normals: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:  # noqa: ARG001 - as any other
    """The distance of the place that is farthest from its nearest neighbour among all places of all normal images."""
    bank = normals.reshape(-1, normals.shape[-1])
    squares = np.square(bank).sum(axis=1)
    found = []
    for image in test:
        distances = squares - 2 * image @ bank.T
        found.append(float((distances.min(axis=1) + np.square(image).sum(axis=1)).max()))
    return np.array(found)


def gaussian_of_each_place(normals: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """The largest Mahalanobis distance of a place, over 100 random features; 0.01 is added to the variances."""
    n_features = normals.shape[-1]
    drawn = np.random.default_rng(seed).permutation(n_features)[:100]
    learnt, judged = (rows[:, :, drawn].astype(np.float64) for rows in (normals, test))
    mean = learnt.mean(axis=0)
    centred = (learnt - mean).transpose(1, 0, 2)
    covariance = centred.transpose(0, 2, 1) @ centred / (len(learnt) - 1) + 0.01 * np.eye(len(drawn))
    off = (judged - mean).transpose(1, 0, 2)
    distances = np.einsum("pnc,pnc->np", off @ np.linalg.inv(covariance), off)
    side = int(np.sqrt(distances.shape[1]))
    return np.asarray(uniform_filter(distances.reshape(-1, side, side), (0, 3, 3)).max(axis=(1, 2)))
