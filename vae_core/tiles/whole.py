"""The one map of an image that is seen in tiles, and what is usual of it."""

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nelbo.vae_core.linear.moments import Solution
from nelbo.vae_core.scoring import Score, anomaly_score, n_worst
from nelbo.vae_core.seen import Outside
from nelbo.vae_core.tiles.grid import Grid
from nelbo.vae_core.tiles.head import Head, Said
from nelbo.vae_core.usual import (
    Parts,
    Usual,
    learn_usual,
    median_and_spread,
    pooled_mean_and_std,
    smoothed_maps,
    standardised,
    statistics_of,
)

#: Share of the normal images whose most unusual place sets the unit of the map for people.
_HIGH = 0.95

Plane = NDArray[np.float64]


class Stitched(NamedTuple):
    """What is said of a whole image.

    distortion, rate: (gh, gw) nats; NaN where nothing counts.
    z: (gh, gw) local nats in deviations from what is usual at a position of a tile.
    z_squared, z_log_var: of all tiles, see `Said`.
    """

    distortion: Plane
    rate: Plane
    z: Plane
    z_squared: float
    z_log_var: float


class Positions(NamedTuple):
    """(g, g) mean and deviation of the nats at each position of a tile: they differ, since networks pad with zeros."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    @classmethod
    def learnt(cls, local: Sequence[NDArray[np.floating[Any]]], seen: Sequence[NDArray[np.bool_]]) -> "Positions":
        """What is usual for the local nats of images, (t, g, g) for each, where they count."""
        counted = [np.where(mine, one, 0).astype(np.float64) for one, mine in zip(local, seen, strict=True)]
        n = np.sum([mine.sum(axis=0) for mine in seen], axis=0)
        total = np.sum([one.sum(axis=0) for one in counted], axis=0)
        squares = np.sum([np.square(one).sum(axis=0) for one in counted], axis=0)
        # A position that no training image shows gets the mean of the others: an image of another size may show it.
        total, squares = (np.where(n > 0, one, one.sum() / n.sum()) for one in (total, squares))
        mean, std = pooled_mean_and_std(total, squares, np.maximum(n, 1))
        return cls(mean.astype(np.float32), std.astype(np.float32))


def local_nats(said: Said, of: str) -> NDArray[np.float32]:
    """(t, g, g) the nats whose map is taken, see `VAEConfig.of`."""
    return said.distortion if of == "distortion" else said.distortion + said.rate


def stitch(said: Said, grid: Grid, positions: Positions, of: str) -> Stitched:
    """One map of all tiles; means where they overlap."""
    z = (local_nats(said, of) - positions.mean) / positions.std
    sums = float(said.z_squared.sum()), float(said.z_log_var.sum())
    return Stitched(grid.stitched(said.distortion), grid.stitched(said.rate), grid.stitched(z), *sums)


def learn_whole(maps: Sequence[Plane], side: int, *, by_place: bool) -> tuple[Usual, Parts]:
    """What is usual for the maps of whole images, and what each image scores by the others.

    Args:
        maps: of normal images, by models that have not seen them; three or more.
        side: of the box that smooths them.
        by_place: each place by itself, for images of one size; else all places alike, of images of any size.

    >>> maps = list(np.random.default_rng(0).normal(5.0, 2.0, (90, 6, 6)))
    >>> usual, parts = learn_whole([*maps[:-1], maps[-1][:3]], 1, by_place=False)
    >>> usual.mean.shape, bool(abs(usual.mean[0, 0] - 5) < 0.2), len(parts.peak)
    ((1, 1), True, 90)
    """
    if by_place:
        return learn_usual(np.stack(maps), side)
    smooth = [_counted(smoothed_maps(one[None], side)[0]) for one in maps]
    sizes, total, squares = np.array([(one.size, one.sum(), np.square(one).sum()) for one in smooth], np.float64).T
    found = []
    for row, one in enumerate(smooth):
        # If it counted itself, an image would look more usual than new ones.
        n = sizes.sum() - sizes[row]
        mean, std = _mean_and_std(total.sum() - total[row], squares.sum() - squares[row], n)
        found.append(statistics_of(((one - mean) / std)[None]))
    statistics = np.concatenate(found, axis=1)
    scales = median_and_spread(statistics)
    mean, std = _mean_and_std(total.sum(), squares.sum(), sizes.sum())
    usual = Usual(np.full((1, 1), mean, np.float32), np.full((1, 1), std, np.float32), scales.astype(np.float32))
    return usual, standardised(statistics, scales[:, :1], scales[:, 1:])


def _mean_and_std(total: float, squares: float, n: float) -> tuple[float, float]:
    mean = total / n
    return mean, math.sqrt(max(squares / n - mean**2, float(np.finfo(np.float32).tiny)))


def scores(maps: Sequence[Stitched], parts: Parts, statistic: str) -> Score:
    """The scores of images, without maps."""
    distortions, rates = ([_counted(plane) for plane in planes] for planes in list(zip(*maps, strict=True))[:2])
    worst = [np.sort(one)[-n_worst(one.size) :].sum() for one in distortions]
    distortion, rate = (np.array([one.sum() for one in some]) for some in (distortions, rates))
    numbers = {"nelbo": distortion + rate, **parts._asdict()}
    return Score(
        anomaly_score=np.asarray(anomaly_score(numbers, statistic)),
        distortion=distortion,
        rate=rate,
        z_mean_norm=np.sqrt([one.z_squared for one in maps]),
        z_log_var_sum=np.array([one.z_log_var for one in maps]),
        worst_pixels=np.array(worst),
        **numbers,
    )


def _counted(plane: Plane) -> Plane:
    """(k,) the numbers of a map."""
    return plane[~np.isnan(plane)]


def unit_of(maps: Sequence[Stitched], peaks: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """(1, 2) nats that are usual on the map for people, and one unit: in it, normal images reach their peaks."""
    planes = [_counted(one.distortion + one.rate) for one in maps]
    usual = float(np.mean([plane.mean() for plane in planes]))
    high = float(np.quantile([plane.max() for plane in planes], _HIGH))
    unit = (high - usual) / max(float(np.quantile(peaks, _HIGH)), 1.0)
    return np.array([[usual, max(unit, np.finfo(np.float32).tiny)]], np.float32)


class WholeMap:
    """What a tiled model has learnt of whole images, as a bundle and an engine hold it.

    Args:
        weights: arrays of float32, by the names that a bundle has for them; see `of`.
    """

    _NAMES = ("positions", "mean", "std", "statistics", "scales")
    _OF_HEAD = ("centre", "whitening", "directions", "variances", "noise")
    _OUTSIDE = "outside"

    def __init__(self, weights: dict[str, NDArray[np.float32]]) -> None:
        self.weights = weights

    @classmethod
    def of(
        cls,
        positions: Positions,
        usual: Usual,
        scales: NDArray[np.float32],
        solution: Solution | None = None,
        outside: Outside | None = None,
    ) -> "WholeMap":
        """The map of what was learnt.

        Args:
            positions: what is usual at each position of a tile.
            usual: what is usual for the whole map.
            scales: see `unit_of`.
            solution: of aligned tiles, each with means of its own; None where a graph computes what is said of tiles.
            outside: share of each part of the pictures that is ignored; None where all of them count.
        """
        values = (np.stack(positions), *usual, scales, *(solution or ()), *(() if outside is None else (outside,)))
        names = (*cls._NAMES, *(cls._OF_HEAD if solution else ()), *(() if outside is None else (cls._OUTSIDE,)))
        named = zip(names, values, strict=True)
        return cls({f"tiles/{name}": np.ascontiguousarray(one, np.float32) for name, one in named})

    @classmethod
    def taken_from(cls, tensors: dict[str, NDArray[np.float32]]) -> "WholeMap":
        """The map whose weights are in a bundle's tensors, from which they are removed.

        Raises:
            KeyError: one is not there.
        """
        more = (one for one in ((*cls._OF_HEAD,), (cls._OUTSIDE,)) if f"tiles/{one[0]}" in tensors)
        return cls({name: tensors.pop(name) for name in (f"tiles/{one}" for one in (*cls._NAMES, *chain(*more)))})

    @property
    def positions(self) -> Positions:
        """What is usual at each position of a tile."""
        return Positions(*self.weights["tiles/positions"])

    @property
    def usual(self) -> Usual:
        """What is usual for the whole map."""
        return Usual(*(self.weights[f"tiles/{name}"] for name in ("mean", "std", "statistics")))

    @property
    def scales(self) -> NDArray[np.float32]:
        """(1, 2) what is usual on the map for people, and one unit, in nats."""
        return self.weights["tiles/scales"]

    @property
    def outside(self) -> Outside | None:
        """(rows, columns) share of each part of the pictures that is ignored; None where all of them count."""
        return self.weights.get(f"tiles/{self._OUTSIDE}")

    @cached_property
    def head(self) -> Head | None:
        """What scores aligned tiles; None where the graph does."""
        if "tiles/centre" not in self.weights:
            return None
        return Head(Solution(*(self.weights[f"tiles/{name}"].astype(np.float64) for name in self._OF_HEAD)))
