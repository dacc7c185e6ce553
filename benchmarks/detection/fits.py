"""Features of a set of images, fitted by a head of nelbo's or by a method that others are known for."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from scipy.ndimage import uniform_filter

from benchmarks.datasets import Dataset
from nelbo.data import folds
from nelbo.detectors import n_needed
from nelbo.vae_core import N_FOLDS, VAEConfig
from nelbo.vae_core.config import AUTO, TrainConfig
from nelbo.vae_core.features.extraction import extract
from nelbo.vae_core.features.features import Features, gathered
from nelbo.vae_core.features.pretext import give_weights
from nelbo.vae_core.linear.solving import fit_features
from nelbo.vae_core.scoring import VARIANT, Score, anomaly_score

SIDE, FPR = 256, 0.05
_BATCH = 64


class Looked(NamedTuple):
    """A set as a head sees it.

    normals, test: (n, p, c) features; labels: (n,) of the test images; views: (n,) what part each normal shows.
    kinds: (n,) what kind each test image is of; None where a set has one.
    """

    normals: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    views: np.ndarray
    config: VAEConfig
    kinds: np.ndarray | None = None


def looked(name: str, load: Callable[[int], Dataset], backbone: str, folder: Path, side: int = SIDE) -> Looked:
    """A set's features, from the folder if they are there."""
    config = VAEConfig(height=side, width=side, preset="features", backbone=backbone)
    path = folder / f"{name}, {backbone}.npz".replace(" ", "_")
    if not path.exists():
        data = load(side)
        features = Features(config)
        give_weights(features.backbone, data.train, config, TrainConfig())
        network = keras.Model(features.backbone.input, [gathered(features.maps(features.backbone.input), config)])
        images = (np.concatenate([data.train, data.validation]), data.test)
        normals, test = (np.concatenate([maps[0] for maps in extract(network, some)]) for some in images)
        views = np.arange(len(normals)).astype(str) if data.views is None else data.views
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, normals=_rows(normals), test=_rows(test), labels=data.labels, views=views)
    kept = np.load(path)
    # The only set of two kinds of normal images.
    kinds = load(64).groups if name == "ELPV" else None
    return Looked(kept["normals"], kept["test"], kept["labels"], kept["views"], config, kinds)


def _rows(maps: np.ndarray) -> np.ndarray:
    return maps.reshape(len(maps), -1, maps.shape[-1])


def folds_of(views: np.ndarray, seed: int) -> list[int]:
    """Views of one part share a fold."""
    n = min(N_FOLDS, len(np.unique(views)))
    return folds([str(i) for i in range(len(views))], views.tolist(), n, seed=seed)


class Judged(NamedTuple):
    """What a fit says of images that it has not seen: new ones, and its own normals by the other folds."""

    test: Score
    unseen: Score
    config: VAEConfig


def fitted(
    normals: np.ndarray, test: np.ndarray, numbers: list[int], config: VAEConfig, variants: int | str = AUTO
) -> Judged:
    """Fit and score as ``train`` and ``score`` do."""
    shape = (config.height // config.stride_px, config.width // config.stride_px, normals.shape[-1])
    fit = fit_features(normals, shape, config, folds=numbers, asked=variants, images_of_variant=n_needed(FPR))
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
    """Distance of the place whose nearest neighbour, among all places of all normal images, is the furthest."""
    bank = normals.reshape(-1, normals.shape[-1])
    squares = np.square(bank).sum(axis=1)
    found = []
    for image in test:
        distances = squares - 2 * image @ bank.T
        found.append(float((distances.min(axis=1) + np.square(image).sum(axis=1)).max()))
    return np.array(found)


def gaussian_of_each_place(normals: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """The largest Mahalanobis distance of a place, over features drawn at random; the covariance gets 0.01 added."""
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
