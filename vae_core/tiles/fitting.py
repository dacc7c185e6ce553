"""Fitting a linear head on tiles: moments over tiles, folds over images, and one map for each image.

Features lie in a file: the network computes each tile once, and a model of the other folds reads them again.
"""

import errno
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from nelbo.vae_core.config import ALIGNED, FREE, SUBJECTS, TrainConfig, VAEConfig
from nelbo.vae_core.features.extraction import Extractor
from nelbo.vae_core.features.features import Features
from nelbo.vae_core.features.pretext import give_weights
from nelbo.vae_core.linear.moments import MIN_IMAGES, Solution, solve_pooled
from nelbo.vae_core.linear.vae import LinearHead, blocks_of
from nelbo.vae_core.model import Model, draw_eps
from nelbo.vae_core.scoring import Score
from nelbo.vae_core.tiles.grid import Cut, Grid
from nelbo.vae_core.tiles.head import Head, Said
from nelbo.vae_core.tiles.whole import Positions, WholeMap, learn_whole, local_nats, scores, stitch, unit_of

#: Tiles whose covariance is summed up: more say the same.
MOST_TILES = 20_000
#: Bytes of the means that aligned tiles have of their own; a bundle stays under 100 MB.
LARGEST_MEANS = 80 << 20
_UNALIGNED = (
    "subject=aligned needs training images of one size, and few enough tiles: these are taken as free, all places alike"
)
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
    warnings: what people should know of it.
    """

    model: Model
    unseen: Score
    nelbo: float
    seconds: float
    warnings: list[str]


class _Image(NamedTuple):
    """One image's features: where they begin in the file, how its tiles lie, and its height and width in pixels."""

    start: int
    grid: Grid
    shape: tuple[int, ...]


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
        preprocessing: kept with the model; where tiles are aligned, with the size that all images are brought to.
        folds: the fold of each image.
        aside: a folder for the features, 0.11 MB a tile.
        advance: called with the number of images whose features have been computed since the last call.

    Raises:
        BackboneError: the backbone's weights are not there, or not its own.
        OSError: the disk is too small for the features of all images.
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
    images, path = _look_at(features, wholes, len(numbers), aside / "features.bin", advance)
    rows = np.memmap(path, np.float32, "r").reshape(-1, *features.value_shape)
    fitted = _Images(rows, images, numbers, train_config.seed)
    can_align = fitted.have_one_grid and rows[: len(images[0].grid)].nbytes <= LARGEST_MEANS
    subjects = [one for one in SUBJECTS if config.subject in (None, one)] if can_align else [FREE]
    tried = {subject: fitted.aligned() if subject == ALIGNED else fitted.free() for subject in subjects}
    subject = min(tried, key=lambda one: tried[one].nats)
    warnings = [] if config.subject in (None, subject) else [_UNALIGNED]
    if subject == ALIGNED:
        preprocessing = {**preprocessing, "tile_image": list(images[0].shape)}
    model, unseen = _model(features, tried[subject], images, replace(config, subject=subject), preprocessing)
    return SolvedTiles(model, unseen, float(unseen.nelbo.mean()), time.perf_counter() - started, warnings)


class _Tried(NamedTuple):
    """A model of all images, and what models of the other folds say of the tiles of each.

    nats: of all of them together, as densities of features that are not whitened: each subject whitens in its own way.
    """

    solution: Solution
    said: list[Said]
    nats: float


class _Images:
    """Features of images, and their moments, fold by fold.

    Args:
        rows: (t, g, g, c) of all tiles.
        images: where each one's are.
        folds: (n,) of each.
        seed: of the tiles whose covariance is summed up: in images of one size the same ones.
    """

    def __init__(self, rows: NDArray[np.float32], images: list[_Image], folds: NDArray[Any], seed: int) -> None:
        self.rows, self.images, self.folds = rows, images, folds
        self.have_one_grid = len({one.shape for one in images}) == 1
        _, height, width, channels = rows.shape
        each = max(1, -(-MOST_TILES // len(images)))
        none = TileMoments(0, np.zeros((height * width, channels)), np.zeros((channels, channels)))
        self.moments = dict.fromkeys(folds.tolist(), none)
        for number, fold in enumerate(folds.tolist()):
            self.some = _some(len(images[number].grid), each, seed if self.have_one_grid else seed + number)
            self.moments[fold] = self.moments[fold].with_tiles(self.of(number)[self.some])

    def of(self, number: int) -> NDArray[np.float32]:
        """(t, p, c) of an image."""
        image = self.images[number]
        found = self.rows[image.start : image.start + len(image.grid)]
        return np.asarray(found).reshape(len(found), -1, found.shape[-1])

    def free(self) -> _Tried:
        """Tiles that share all, but for a mean for each position."""
        return self._tried(lambda fold: self._without(fold).solution())

    def aligned(self) -> _Tried:
        """Tiles that have means of their own, and share a covariance about them."""
        sums = {fold: self._summed(fold) for fold in self.moments}

        def solution(fold: Any) -> Solution:
            others, n = self._without(fold), int((self.folds != fold).sum())
            others_sums = np.stack([one for other, one in sums.items() if other != fold])
            means = others_sums.sum(axis=0, dtype=np.float64) / n
            about = means[self.some].reshape(-1, means.shape[-1])
            covariance = (others.products - n * about.T @ about) / ((n - 1) * len(about))
            return solve_pooled(means, covariance)

        return self._tried(solution)

    def _summed(self, fold: int) -> NDArray[np.float32]:
        """(t, p, c) sums over the images of a fold; their features have 32 bits, too."""
        total = np.zeros((len(self.images[0].grid), *self.moments[fold].values.shape))
        for number in np.flatnonzero(self.folds == fold).tolist():
            total += self.of(number)
        return total.astype(np.float32)

    def _without(self, fold: Any) -> TileMoments:
        return TileMoments.summed(one for other, one in self.moments.items() if other != fold)

    def _tried(self, solution: Callable[[Any], Solution]) -> _Tried:
        said: dict[int, Said] = {}
        nats = 0.0
        for fold in self.moments:
            solved = solution(fold)
            head, stretched = Head(solved), np.log(np.diag(solved.whitening)).sum()
            for number in np.flatnonzero(self.folds == fold).tolist():
                features = self.of(number)
                found = head(features.reshape(len(features), *self.rows.shape[1:]))
                nats += float((found.distortion + found.rate - stretched).sum(dtype=np.float64))
                said[number] = found
        # No image is of no fold.
        return _Tried(solution(None), [said[number] for number in range(len(self.images))], nats)


def _model(
    features: Features,
    tried: _Tried,
    images: list[_Image],
    config: VAEConfig,
    preprocessing: Mapping[str, Any],
) -> tuple[Model, Score]:
    """The model of all images, and what models of others say of each."""
    solution, said, _ = tried
    config = replace(config, n_latents=solution.variances.shape[-1])
    positions = Positions.learnt([local_nats(one, config.of) for one in said])
    stitched = [stitch(one, image.grid, positions, config.of) for one, image in zip(said, images, strict=True)]
    aligned = config.subject == ALIGNED
    side = config.smoothing_px // config.stride_px
    usual, parts = learn_whole([one.z for one in stitched], side, by_place=aligned)
    network = LinearHead(features.value_shape, config.n_latents or 0, blocks_of(config.head, FREE))
    shared = solution.centre.mean(axis=0) if aligned else solution.centre
    network.assign([solution._replace(centre=shared)], None)
    model = Model(
        config,
        network,
        draw_eps(config, 0),
        positions.mean,
        positions.std,
        dict(preprocessing),
        representation=features,
        usual_statistics=usual.statistics,
        tiles=WholeMap.of(positions, usual, unit_of(stitched, parts.peak), solution if aligned else None),
    )
    return model, scores(stitched, parts, config.statistic)


def _look_at(
    features: Features, wholes: Iterable[NDArray[Any]], n: int, path: Path, advance: Callable[[int], None]
) -> tuple[list[_Image], Path]:
    """The features of all tiles of all n images, in a file."""
    config, pixels = features.config, features.backbone.input
    extractor = Extractor(keras.Model(pixels, [features(pixels)], name="looking"))
    images, done = [], 0
    with path.open("wb") as file:
        for whole in wholes:
            grid = Grid.of(whole.shape, config.height, config.tile_overlap or 0)
            for (some,) in extractor(Cut(whole, grid, config.height, config.channels)):
                file.write(np.ascontiguousarray(some, np.float32).data)
            images.append(_Image(done, grid, whole.shape[:2]))
            done += len(grid)
            if len(images) == 1:
                _check_space((n - 1) * file.tell(), path.parent)
            advance(1)
    return images, path


def _check_space(needed: int, folder: Path) -> None:
    """Raise an OSError where the features of images like the first one would fill the disk."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"the features of all tiles need about {needed / 1e6:,.0f} MB more, and {folder} has {free / 1e6:,.0f} MB "
            "free. Free some, put the workspace on another disk, train on fewer images, or take a smaller scale",
        )


def _some(n: int, most: int, seed: int) -> NDArray[np.int64]:
    """At most so many of n tiles, drawn at random."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:most])
