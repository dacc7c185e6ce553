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
from nelbo.vae_core.scoring import Score, map_peaks
from nelbo.vae_core.seen import Outside
from nelbo.vae_core.tiles.grid import Cut, Grid
from nelbo.vae_core.tiles.head import Head, Said
from nelbo.vae_core.tiles.scoring import map_of
from nelbo.vae_core.tiles.whole import Positions, WholeMap, learn_whole, local_nats, scores, stitch, unit_of

#: The most tiles whose covariance is summed up: more change nothing.
MOST_TILES = 20_000
#: The most bytes of the means that aligned tiles have of their own: a bundle stays under 100 MB.
LARGEST_MEANS = 80 << 20
_UNALIGNED = (
    "subject=aligned needs training images of one size, and few enough tiles: these are taken as free, all places alike"
)
#: Tiles at a time.
_CHUNK = 64


class TileMoments(NamedTuple):
    """Sums over tiles, (p,) at each position: of their features there, (p, c), and of the products at all, (c, c)."""

    n: NDArray[np.int64]
    values: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def summed(cls, some: Iterable["TileMoments"]) -> "TileMoments":
        """The moments of all tiles together."""
        return cls(*(np.sum(sums, axis=0) for sums in zip(*some, strict=True)))

    def with_tiles(self, tiles: NDArray[np.floating[Any]], seen: NDArray[np.bool_]) -> "TileMoments":
        """The moments with (t, p, c) features of more tiles, of those (t, p) positions that count."""
        n, total, products = self
        for start in range(0, len(tiles), _CHUNK):
            some = slice(start, start + _CHUNK)
            values = np.where(seen[some][..., None], tiles[some], np.float64(0))
            flat = values.reshape(-1, values.shape[-1])
            n, total, products = n + seen[some].sum(axis=0), total + values.sum(axis=0), products + flat.T @ flat
        return TileMoments(n, total, products)

    def solution(self) -> Solution:
        """The linear VAE of these tiles: a mean for each position, one covariance about them."""
        n = self.n[:, None]
        # A position that no training image shows gets the mean of the others: an image of another size may show it.
        mean = np.where(n > 0, self.values / np.maximum(n, 1), self.values.sum(axis=0) / n.sum())
        return solve_pooled(mean, (self.products - (n * mean).T @ mean) / n.sum())


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
    outside: Outside | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> SolvedTiles:
    """Fit a linear head on the tiles of normal images.

    Args:
        wholes: images at their own resolution, see `nelbo.vae_core.tiles.scoring.score_tiles`; read once, in turn.
        config, train_config: of the network and its training.
        preprocessing: kept with the model; where tiles are aligned, with the size that all images are resized to.
        folds: the fold of each image.
        aside: a folder for the features, 0.08 MB for each tile.
        outside: share of each part of the images that is ignored; tiles that are ignored as a whole are not computed.
        advance: called with the number of images whose features have been computed since the last call.

    Raises:
        BackboneError: the backbone's weights are missing, or of another network.
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
    images, path = _look_at(features, wholes, len(numbers), aside / "features.bin", outside, advance)
    rows = np.memmap(path, np.float32, "r").reshape(-1, *features.value_shape)
    fitted = _Images(rows, images, numbers, train_config.seed)
    can_align = fitted.have_one_grid and rows[: len(images[0].grid)].nbytes <= LARGEST_MEANS
    subjects = [one for one in SUBJECTS if config.subject in (None, one)] if can_align else [FREE]
    tried = {subject: fitted.aligned() if subject == ALIGNED else fitted.free() for subject in subjects}
    subject = min(tried, key=lambda one: tried[one].nats)
    warnings = [] if config.subject in (None, subject) else [_UNALIGNED]
    if subject == ALIGNED:
        preprocessing = {**preprocessing, "tile_image": list(images[0].shape)}
    config = replace(config, subject=subject)
    model, unseen = _model(features, tried[subject], images, config, preprocessing, outside)
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
        images: where the tiles of each image are.
        folds: (n,) of each image.
        seed: of the choice of tiles whose covariance is summed up: in images of one size the same ones.
    """

    def __init__(self, rows: NDArray[np.float32], images: list[_Image], folds: NDArray[Any], seed: int) -> None:
        self.rows, self.images, self.folds = rows, images, folds
        self.have_one_grid = len({one.shape for one in images}) == 1
        _, height, width, channels = rows.shape
        each = max(1, -(-MOST_TILES // len(images)))
        n_positions = height * width
        sums = np.zeros((n_positions, channels)), np.zeros((channels, channels))
        none = TileMoments(np.zeros(n_positions, np.int64), *sums)
        self.moments = dict.fromkeys(folds.tolist(), none)
        for number, fold in enumerate(folds.tolist()):
            self.some = _some(len(images[number].grid), each, seed if self.have_one_grid else seed + number)
            self.moments[fold] = self.moments[fold].with_tiles(self.of(number)[self.some], self.seen(number)[self.some])

    def of(self, number: int) -> NDArray[np.float32]:
        """(t, p, c) features of an image."""
        image = self.images[number]
        found = self.rows[image.start : image.start + len(image.grid)]
        return np.asarray(found).reshape(len(found), -1, found.shape[-1])

    def seen(self, number: int) -> NDArray[np.bool_]:
        """(t, p) which positions of an image count."""
        found = self.images[number].grid.seen
        return found.reshape(len(found), -1)

    def free(self) -> _Tried:
        """A model of tiles that share all: a mean for each position, and a covariance."""
        return self._tried(lambda fold: self._without(fold).solution())

    def aligned(self) -> _Tried:
        """A model of tiles that have means of their own, and share a covariance about them."""
        sums = {fold: self._summed(fold) for fold in self.moments}

        def solution(fold: Any) -> Solution:
            others, n = self._without(fold), int((self.folds != fold).sum())
            others_sums = np.stack([one for other, one in sums.items() if other != fold])
            means = others_sums.sum(axis=0, dtype=np.float64) / n
            about = means[self.some][self.seen(0)[self.some]]
            covariance = (others.products - n * about.T @ about) / ((n - 1) * len(about))
            return solve_pooled(means, covariance)

        return self._tried(solution)

    def _summed(self, fold: int) -> NDArray[np.float32]:
        """(t, p, c) sums over the images of a fold, in 32 bits like their features."""
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
                counted = (found.distortion + found.rate - stretched)[self.images[number].grid.seen]
                nats += float(counted.sum(dtype=np.float64))
                said[number] = found
        # No image has the fold None: this is the model of all.
        return _Tried(solution(None), [said[number] for number in range(len(self.images))], nats)


def _model(
    features: Features,
    tried: _Tried,
    images: list[_Image],
    config: VAEConfig,
    preprocessing: Mapping[str, Any],
    outside: Outside | None,
) -> tuple[Model, Score]:
    """The model of all images, and what models of others say of each."""
    solution, said, _ = tried
    config = replace(config, n_latents=solution.variances.shape[-1])
    positions = Positions.learnt([local_nats(one, config.of) for one in said], [one.grid.seen for one in images])
    stitched = [stitch(one, image.grid, positions, config.of) for one, image in zip(said, images, strict=True)]
    aligned = config.subject == ALIGNED
    side = config.smoothing_px // config.stride_px
    usual, parts = learn_whole([one.z for one in stitched], side, by_place=aligned)
    network = LinearHead(features.value_shape, config.n_latents or 0, blocks_of(config.head, FREE))
    scales = unit_of(stitched, parts.peak)
    map_peak = np.concatenate([map_peaks(map_of(one)[None], scales) for one in stitched])
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
        tiles=WholeMap.of(positions, usual, scales, solution if aligned else None, outside),
    )
    return model, scores(stitched, parts, config.statistic)._replace(map_peak=map_peak)


def _look_at(
    features: Features,
    wholes: Iterable[NDArray[Any]],
    n: int,
    path: Path,
    outside: Outside | None,
    advance: Callable[[int], None],
) -> tuple[list[_Image], Path]:
    """The features of all tiles of all n images, in a file."""
    config, pixels = features.config, features.backbone.input
    extractor = Extractor(keras.Model(pixels, [features(pixels)], name="looking"))
    images, done = [], 0
    with path.open("wb") as file:
        for whole in wholes:
            grid = Grid(whole.shape, config.height, config.tile_overlap or 0, outside)
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
    """At most `most` of n tiles, drawn at random."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:most])
