"""Fitting a linear head on tiles: moments over tiles, folds over images, and one map for each image.

Features lie in a file: the network computes each tile once, and a model of the other folds reads them again.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from nelbo.vae_core.config import ALIGNED, FREE, TrainConfig, VAEConfig
from nelbo.vae_core.features.extraction import Extractor
from nelbo.vae_core.features.features import Features
from nelbo.vae_core.features.pretext import give_weights
from nelbo.vae_core.linear.moments import MIN_IMAGES, Solution, solve_pooled
from nelbo.vae_core.linear.vae import LinearHead, blocks_of
from nelbo.vae_core.model import Model, draw_eps
from nelbo.vae_core.scoring import Score
from nelbo.vae_core.tiles.grid import Cut, Grid
from nelbo.vae_core.tiles.head import Head, Said
from nelbo.vae_core.tiles.whole import Positions, Stitched, WholeMap, learn_whole, local_nats, scores, stitch, unit_of

#: Tiles whose covariance is summed up: more say the same.
MOST_TILES = 20_000
#: Tiles at a time.
_CHUNK = 64


class TileMoments(NamedTuple):
    """Sums over n tiles: of their features at each position, (p, c), and of the products at all, (c, c)."""

    n: int
    values: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def summed(cls, some: Iterable["TileMoments"]) -> "TileMoments":
        """Of all tiles of some."""
        ns, values, products = zip(*some, strict=True)
        return cls(sum(ns), np.sum(values, axis=0), np.sum(products, axis=0))

    def with_tiles(self, tiles: NDArray[np.floating[Any]]) -> "TileMoments":
        """Of (t, p, c) features, too."""
        n, total, products = self
        for start in range(0, len(tiles), _CHUNK):
            values = np.asarray(tiles[start : start + _CHUNK], np.float64)
            flat = values.reshape(-1, values.shape[-1])
            n, total, products = n + len(values), total + values.sum(axis=0), products + flat.T @ flat
        return TileMoments(n, total, products)

    def solution(self) -> Solution:
        """The linear VAE of these tiles: a mean for each position, one covariance about them."""
        mean = self.values / self.n
        return solve_pooled(mean, (self.products / self.n - mean.T @ mean) / len(mean))


class SolvedTiles(NamedTuple):
    """What fitting gives.

    unseen: of each image, by a model of others.
    nelbo: mean of the images under models of others, in nats; seconds that it took.
    """

    model: Model
    unseen: Score
    nelbo: float
    seconds: float


class _Image(NamedTuple):
    """One image's features: where they begin in the file, and how its tiles lie."""

    start: int
    grid: Grid


def solve_tiles(
    wholes: Iterable[NDArray[Any]],
    config: VAEConfig,
    train_config: TrainConfig,
    *,
    preprocessing: Mapping[str, Any],
    folds: Sequence[int],
    aside: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> SolvedTiles:
    """Fit a linear head on the tiles of normal images.

    Args:
        wholes: images at their own resolution, see `nelbo.vae_core.tiles.scoring.score_tiles`; looked at once, in turn.
        config, train_config: of the network and its training.
        preprocessing: kept with the model.
        folds: the fold of each image.
        aside: a folder for the features, 0.11 MB a tile.
        advance: called with the number of images whose features have been computed since the last call.

    Raises:
        BackboneError: the backbone's weights are not there, or not its own.
        ValueError: too few images, or too few folds.
    """
    started = time.perf_counter()
    numbers = np.asarray(folds)
    if len(numbers) < MIN_IMAGES:
        raise ValueError(
            f"{len(numbers)} images to train on: the preset features expects {MIN_IMAGES} or more. Add normal images"
        )
    if len(np.unique(numbers)) < 2:
        raise ValueError("folds: expected at least 2, got 1. Give images of more than one group")
    features = Features(config)
    give_weights(features.backbone, np.empty((0, config.height, config.width, config.channels)), config, train_config)
    images, path = _look_at(features, wholes, config, aside / "features.bin", advance)
    height, width, channels = features.value_shape
    rows = np.memmap(path, np.float32, "r", shape=(sum(len(one.grid) for one in images), height, width, channels))
    each = max(1, -(-MOST_TILES // len(images)))
    none = TileMoments(0, np.zeros((height * width, channels)), np.zeros((channels, channels)))
    moments = dict.fromkeys(numbers.tolist(), none)
    for number, (fold, image) in enumerate(zip(numbers.tolist(), images, strict=True)):
        some = _some(_of(rows, image), each, train_config.seed + number)
        moments[fold] = moments[fold].with_tiles(some.reshape(len(some), -1, channels))
    said: dict[int, Said] = {}
    for fold in moments:
        head = Head(TileMoments.summed(of for other, of in moments.items() if other != fold).solution())
        said |= {number: head(_of(rows, images[number])) for number in np.flatnonzero(numbers == fold).tolist()}
    solution = TileMoments.summed(moments.values()).solution()
    positions = Positions.learnt([local_nats(one, config.of) for one in said.values()])
    stitched = [stitch(said[row], image.grid, positions, config.of) for row, image in enumerate(images)]
    model, unseen = _model(features, solution, positions, stitched, replace(config, subject=FREE), preprocessing)
    return SolvedTiles(model, unseen, float(unseen.nelbo.mean()), time.perf_counter() - started)


def _model(
    features: Features,
    solution: Solution,
    positions: Positions,
    stitched: list[Stitched],
    config: VAEConfig,
    preprocessing: Mapping[str, Any],
) -> tuple[Model, Score]:
    """The model of all images, and what models of others say of each."""
    config = replace(config, n_latents=solution.variances.shape[-1])
    side = config.smoothing_px // config.stride_px
    usual, parts = learn_whole([one.z for one in stitched], side, by_place=config.subject == ALIGNED)
    network = LinearHead(features.value_shape, config.n_latents or 0, blocks_of(config.head, FREE))
    network.assign([solution], None)
    model = Model(
        config,
        network,
        draw_eps(config, 0),
        positions.mean,
        positions.std,
        dict(preprocessing),
        representation=features,
        usual_statistics=usual.statistics,
        tiles=WholeMap.of(positions, usual, unit_of(stitched, parts.peak)),
    )
    return model, scores(stitched, parts, config.statistic)


def _look_at(
    features: Features, wholes: Iterable[NDArray[Any]], config: VAEConfig, path: Path, advance: Callable[[int], None]
) -> tuple[list[_Image], Path]:
    """The features of all tiles of all images, in a file."""
    pixels = features.backbone.input
    extractor = Extractor(keras.Model(pixels, [features(pixels)], name="looking"))
    images, done = [], 0
    with path.open("wb") as file:
        for whole in wholes:
            grid = Grid.of(whole.shape, config.height, config.tile_overlap or 0)
            for (some,) in extractor(Cut(whole, grid, config.height, config.channels)):
                file.write(np.ascontiguousarray(some, np.float32).data)
            images.append(_Image(done, grid))
            done += len(grid)
            advance(1)
    return images, path


def _of(rows: NDArray[np.float32], image: _Image) -> NDArray[np.float32]:
    return np.asarray(rows[image.start : image.start + len(image.grid)])


def _some(tiles: NDArray[np.float32], most: int, seed: int) -> NDArray[np.float32]:
    """At most so many tiles of an image, drawn at random."""
    if len(tiles) <= most:
        return tiles
    return tiles[np.sort(np.random.default_rng(seed).permutation(len(tiles))[:most])]
