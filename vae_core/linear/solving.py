"""Fitting the linear heads: no noise, no epochs; an eigenvalue problem on a backbone's features."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from nelbo.vae_core.config import AUTO, TrainConfig, VAEConfig
from nelbo.vae_core.features.extraction import Extractor
from nelbo.vae_core.features.features import Features
from nelbo.vae_core.features.pretext import give_weights
from nelbo.vae_core.linear.clustering import LEARNT_FROM, find_variants, learn_places
from nelbo.vae_core.linear.crossfit import Unseen, default_folds, fit_folds
from nelbo.vae_core.linear.curve import LearningCurve
from nelbo.vae_core.linear.detail import DetailMap, joined
from nelbo.vae_core.linear.learning import learning_curve
from nelbo.vae_core.linear.moments import MIN_IMAGES, N_LATENTS, PooledSums, Solution
from nelbo.vae_core.linear.vae import LinearHead, blocks_of
from nelbo.vae_core.linear.variants import Places, Variants, check_variants, numbered
from nelbo.vae_core.model import Model, draw_eps
from nelbo.vae_core.pixels import PixelRows
from nelbo.vae_core.scoring import Score, anomaly_score, map_peaks, n_worst
from nelbo.vae_core.seen import Outside, SeenPlaces, places_of, seen_on
from nelbo.vae_core.usual import Parts, Usual, learn_usual

#: Images that the map for people is made from: one covariance of all its positions needs no more.
_DETAILED = 128
#: Maps computed at a time.
_CHUNK = 16
#: Share of images nearer to another variant than their own that is not worth a warning.
_FEW_ASTRAY = 0.02
#: Share of the normal images whose most unusual place sets the unit of the map for people.
_HIGH = 0.95


class Solved(NamedTuple):
    """What fitting gives.

    unseen: scores of each image, in the order given, by models of others.
    of_others: the model without the images of one fold; apart: (k,) rows of these images, which it has not seen.
    warnings: what people should know of it.
    nelbo: mean of the images under the model of all, in nats; seconds that it took.
    curve: what more images bring; None where there are too few to say.
    kinds: (n,) number of each image's kind, also of kinds too rare to be variants; None unless images decide on these.
    """

    model: Model
    unseen: Score
    of_others: Model
    apart: NDArray[np.int64]
    warnings: list[str]
    nelbo: float
    seconds: float
    curve: LearningCurve | None
    kinds: NDArray[np.int64] | None


def solve(
    images: Sequence[PixelRows],
    config: VAEConfig,
    train_config: TrainConfig,
    *,
    preprocessing: Mapping[str, Any],
    folds: Sequence[int] | None,
    variants: Sequence[str] | None,
    images_of_variant: int,
    aside: Path,
    outside: Outside | None = None,
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
        variants: the names of all images' variants; None where the setting says how many are to be found.
        images_of_variant: images that each variant needs, if the images decide how many variants there are.
        aside: a folder for the features, 0.08 MB for each image of 256 x 256 pixels.
        outside: see `Model.outside`.
        checkpoint, backbone_callbacks: of the training of the backbone ``self_trained``.
        advance: called with the number of images whose features have been computed since the last call.

    Raises:
        BackboneError: the backbone's weights are missing, or of another network.
        ValueError: too few images, of a variant or in all, or too few folds.
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
    places = places_of(config, outside)
    features = Features(config, None if places is None else places.numbers)
    give_weights(features.backbone, images[0], config, train_config, checkpoint, backbone_callbacks)
    pixels = features.backbone.input
    outputs = features.maps(pixels)
    looking = keras.Model(pixels, [features.gathered(outputs), *outputs], name="looking")
    views = views_of(images, train_config)
    numbers = default_folds(n) if folds is None else np.asarray(folds)
    rows, maps, detailed = looked_at(Extractor(looking), features.value_shape, views, aside / "features.npy", advance)
    fitted = fit_features(
        rows,
        features.value_shape,
        config,
        folds=numbers,
        asked=train_config.variants,
        variants=variants,
        images_of_variant=images_of_variant,
        places=places,
    )
    usual = fitted.usual
    detail, map_peak = detail_of(maps, detailed, fitted, numbers, outside)
    model = Model(
        fitted.config,
        fitted.head,
        draw_eps(fitted.config, train_config.seed),
        usual.mean,
        usual.std,
        dict(preprocessing),
        representation=features,
        usual_statistics=usual.statistics,
        detail=detail,
        outside=outside,
    )
    nelbo = _mean_nelbo(fitted.head, rows, features.value_shape)
    of_others = replace(model, network=fitted.of_others)
    seconds = time.perf_counter() - started
    return Solved(
        model,
        fitted.unseen._replace(map_peak=map_peak),
        of_others,
        fitted.apart,
        fitted.warnings,
        nelbo,
        seconds,
        fitted.curve,
        fitted.kinds,
    )


class Fitted(NamedTuple):
    """A linear head that was fitted on features of normal images.

    config: of the head, with what the images chose.
    usual: of the local nats, of each variant where there are several.
    unseen: what each image scores as a new one.
    of_others: the head without the images of one fold; apart: (k,) these images.
    variants: (n,) number of each image's variant.
    warnings: what people should know of it.
    curve: what more images bring; None where there are too few to say.
    kinds: (n,) number of each image's kind, also of kinds too rare to be variants; None unless images decide on these.
    """

    config: VAEConfig
    head: LinearHead
    usual: Usual
    unseen: Score
    of_others: LinearHead
    apart: NDArray[np.int64]
    variants: NDArray[np.int64]
    warnings: list[str]
    curve: LearningCurve | None
    kinds: NDArray[np.int64] | None


def fit_features(
    rows: NDArray[np.float32],
    shape: tuple[int, int, int],
    config: VAEConfig,
    *,
    folds: Sequence[int] | NDArray[np.int64],
    asked: int | str = 1,
    variants: Sequence[str] | None = None,
    images_of_variant: int = 0,
    places: SeenPlaces | None = None,
) -> Fitted:
    """Fit a linear head on features that have been computed.

    Args:
        rows: (n, p, c) features; (r n, p, c) where each image was turned r times, with all unturned images first.
        shape: (gh, gw, c), gh gw = p; (1, p, c) of some places.
        config: of the head.
        folds: (n,) the fold of each image.
        asked: how many variants there are, or "auto"; variants: (n,) their names, where they are known.
        images_of_variant: images that each variant needs, if the images decide how many variants there are.
        places: the places that the features are of; None for all.
    """
    numbers = np.asarray(folds)
    means = rows[: len(numbers)].mean(axis=1)
    found = _variants(means, variants, asked, numbers, images_of_variant)
    fit = fit_folds(rows, shape, config, numbers, found.own)
    n_latents = fit.solutions[0].variances.shape[-1]
    config = replace(config, subject=fit.subject, n_latents=n_latents, variants=found.names)
    head, of_others = (
        LinearHead(shape, n_latents, blocks_of(config.head, fit.subject), len(fit.solutions)) for _ in range(2)
    )
    head.assign(fit.solutions, found.where)
    of_others.assign(fit.of_others, found.where)
    local = fit.unseen.distortion_map + (fit.unseen.rate_map if config.of == "nelbo" else 0)
    side = config.smoothing_px // config.stride_px
    if places is not None:
        # Neighbours on the grid are not neighbours in a row.
        local, side = local @ places.smoothing(side).T, 1
    usual, parts = _usual(local, side, found.own)
    warnings = [] if found.where is None else _astray(found.where, means, found.own)
    unseen = _scores(fit.unseen, parts, config, found)
    curve = learning_curve(rows, shape, config, numbers, found.own, fit)
    kinds = find_variants(means, AUTO, numbers, MIN_IMAGES) if variants is None and asked == AUTO else None
    return Fitted(config, head, usual, unseen, of_others, fit.apart, found.own, warnings, curve, kinds)


class _Found(NamedTuple):
    """Variants among the images.

    own: (n,) number of each image's variant; names: of all variants, empty where there is only one.
    where: where they lie; beyond: (n,) how far from there each image lies. Both None where there is only one.
    """

    own: NDArray[np.int64]
    names: tuple[str, ...] = ()
    where: Variants | None = None
    beyond: Places | None = None


def _variants(
    means: NDArray[np.float32], given: Sequence[str] | None, asked: int | str, folds: NDArray[Any], least: int
) -> _Found:
    """The variants that are given, requested or found."""
    if given is None:
        own = find_variants(means, asked, folds, max(least, LEARNT_FROM))
        names = tuple(str(number) for number in range(1, 2 + own.max()))
    else:
        own, names = numbered(given)
    if len(names) == 1:
        return _Found(own)
    check_variants(own, names, folds)
    return _Found(own, names, *learn_places(means, own, folds))


def views_of(images: Sequence[PixelRows], train_config: TrainConfig) -> "list[Turned]":
    """Sets of images as they are, and then as they are turned."""
    return [Turned(some, quarter) for quarter in range(train_config.rotations) for some in images]


class Turned:
    """Images that are turned by a number of quarters when they are read."""

    def __init__(self, images: PixelRows, quarter: int) -> None:
        self.images, self.quarter = images, quarter
        self.shape, self.dtype = images.shape, images.dtype

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """The images of a slice, or of an array of row numbers."""
        return np.rot90(self.images[rows], self.quarter, axes=(1, 2))


def _astray(where: Variants, means: NDArray[np.float32], own: NDArray[np.int64]) -> list[str]:
    """A warning if images that are named as one variant look like another."""
    n = int((where.distances(means).argmin(axis=1) != own).sum())
    if n <= _FEW_ASTRAY * len(own):
        return []
    said = (
        f"{n} of {len(own)} images are nearer to another variant than to the one that is named for them, and new ones "
        "like them will be judged as that. Name variants that look different, or take variants=1"
    )
    return [said]


def looked_at(
    extractor: Extractor,
    shape: tuple[int, int, int],
    images: Sequence[PixelRows],
    path: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[NDArray[np.float32], list[NDArray[np.float32]], NDArray[np.int64]]:
    """(n, p, c) features of all images, in a file that is mapped; a backbone's maps of some images, and their rows.

    Args:
        extractor: of a network that gives features, `gathered`, and then a backbone's maps.
        shape: (gh, gw, c) of the features, or (1, p, c) of those that count.
    """
    height, width, channels = shape
    n = sum(map(len, images))
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (n, height * width, channels))
    detailed = np.unique(np.linspace(0, n - 1, min(n, _DETAILED)).astype(np.int64))
    kept: list[list[NDArray[np.float32]]] = []
    done = 0
    for some in images:
        for gathered_, *maps in extractor(some, advance):
            rows[done : done + len(gathered_)] = gathered_.reshape(len(gathered_), -1, channels)
            chosen = np.flatnonzero(np.isin(done + np.arange(len(gathered_)), detailed))
            kept.append([one[chosen] for one in maps])
            done += len(gathered_)
    return rows, [np.concatenate(one) for one in zip(*kept, strict=True)], detailed


def _usual(local: NDArray[np.float32], side: int, variants: NDArray[np.int64]) -> tuple[Usual, Parts]:
    """What is usual for each variant, stacked where there are several, and what each image scores."""
    images = [np.flatnonzero(variants == number) for number in range(1 + variants.max())]
    if len(images) == 1:
        return learn_usual(local, side)
    usual, parts = zip(*(learn_usual(local[mine], side) for mine in images), strict=True)
    order = np.argsort(np.concatenate(images))
    return (
        Usual(*(np.stack(values) for values in zip(*usual, strict=True))),
        Parts(*(np.concatenate(values)[order] for values in zip(*parts, strict=True))),
    )


class _Detailed(NamedTuple):
    """A backbone's maps of some normal images, one array for each scale; variants, folds: (n,) of each image.

    counted: (gh, gw) which places are not ignored.
    """

    maps: Sequence[NDArray[np.float32]]
    variants: NDArray[np.int64]
    folds: NDArray[Any]
    counted: NDArray[np.bool_]

    def chunks(self, rows: NDArray[np.int64]) -> Iterator[list[NDArray[np.float32]]]:
        """The maps of some images, a few at a time."""
        for start in range(0, len(rows), _CHUNK):
            yield [one[rows[start : start + _CHUNK]] for one in self.maps]

    def sums(self, rows: NDArray[np.int64]) -> PooledSums:
        """The moments of their features at all places; the products leave out ignored places."""
        return PooledSums.of((_positions(chunk) for chunk in self.chunks(rows)), self.counted.ravel())

    def nats(self, rows: NDArray[np.int64], solution: Solution) -> NDArray[np.float32]:
        """(k, gh, gw) what a solution says of them; NaN where they are ignored."""
        alone = DetailMap.of([solution], [(0.0, 1.0)])
        nats = np.concatenate([alone(chunk) for chunk in self.chunks(rows)])
        return np.where(self.counted, nats, np.float32(np.nan))


def _positions(maps: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """(k, p, c) features of all places."""
    on_one_grid = joined(maps)
    return on_one_grid.reshape(len(on_one_grid), -1, on_one_grid.shape[-1])


def detail_of(
    maps: Sequence[NDArray[np.float32]],
    detailed: NDArray[np.int64],
    fitted: Fitted,
    folds: NDArray[Any],
    outside: Outside | None,
) -> tuple[DetailMap, NDArray[np.float64]]:
    """The map for people, made of some normal images; and how high it reaches on each of them as on a new one.

    Args:
        maps, detailed: of these images, and their rows among all views; see `looked_at`.
        fitted: on all normal images; folds: (n,) of each.
        outside: what is ignored.

    Returns:
        The map; and (n,) its largest value on each image, by a map of the images of other folds, in units above what is
        usual. NaN where there are too few others, and for images that it was not made of.
    """
    n = len(fitted.variants)
    grid = maps[0].shape[1:3]
    counted = np.ones(grid, bool) if outside is None else seen_on(outside, grid)
    seen = _Detailed(maps, fitted.variants[detailed % n], folds[detailed % n], counted)
    detail, peaks = _detail(seen, fitted.unseen.peak, fitted.variants)
    # A turned image is not one of these.
    map_peak, upright = np.full(n, np.nan), detailed < n
    map_peak[detailed[upright]] = peaks[upright]
    return detail, map_peak


def _detail(
    seen: _Detailed, peaks: NDArray[np.float32], of_peaks: NDArray[np.int64]
) -> tuple[DetailMap, NDArray[np.float64]]:
    """The same, with (k,) values of the images that it was made of.

    Args:
        peaks, of_peaks: of all normal images, and their variants.
    """
    n_latents = min(N_LATENTS, sum(one.shape[-1] for one in seen.maps) - 1)
    solutions, scales, found = [], [], np.full(len(seen.folds), np.nan)
    for number in range(1 + int(of_peaks.max())):
        own = np.flatnonzero(seen.variants == number)
        # A rare variant has too few images to say what is usual where: all images are used for it.
        mine = own if len(own) >= MIN_IMAGES else np.arange(len(seen.variants))
        solution = seen.sums(mine).solution(n_latents)
        nats = seen.nats(mine, solution)
        usual, high = float(np.nanmean(nats)), float(np.quantile(np.nanmax(nats, axis=(1, 2)), _HIGH))
        unit = (high - usual) / max(float(np.quantile(peaks[of_peaks == number], _HIGH)), 1.0)
        solutions.append(solution)
        scales.append((usual, max(unit, float(np.finfo(np.float32).tiny))))
        sums = {fold: seen.sums(mine[seen.folds[mine] == fold]) for fold in np.unique(seen.folds[mine])}
        for fold in np.unique(seen.folds[own]):
            others = [one for other, one in sums.items() if other != fold]
            if sum(one.n for one in others) >= MIN_IMAGES:
                asked = own[seen.folds[own] == fold]
                nats = seen.nats(asked, PooledSums.summed(others).solution(n_latents))
                found[asked] = map_peaks(nats, np.array([scales[-1]]))
    return DetailMap.of(solutions, scales), found


def _mean_nelbo(head: LinearHead, rows: NDArray[np.float32], shape: tuple[int, int, int]) -> float:
    """Mean over images of what the model of all of them says, in nats."""
    total = 0.0
    for start in range(0, len(rows), _CHUNK):
        found = head.evaluate(ops.convert_to_tensor(rows[start : start + _CHUNK].reshape(-1, *shape)))
        total += float(ops.sum(found["anomaly_map"]) + ops.sum(found["rate"]))
    return total / len(rows)


def _scores(unseen: Unseen, parts: Parts, config: VAEConfig, variants: _Found) -> Score:
    """Scores of images by models that have not seen them, without maps."""
    distortion = unseen.distortion_map.sum(axis=(1, 2))
    rate = unseen.rate_map.sum(axis=(1, 2))
    positions = np.sort(unseen.distortion_map.reshape(len(distortion), -1), axis=1)
    beside = {}
    if variants.beyond is not None:
        beside = {"variant": variants.own.astype(np.float32), "variant_z": variants.beyond.astype(np.float32)}
    numbers = {"nelbo": distortion + rate, **parts._asdict(), **beside}
    return Score(
        anomaly_score=anomaly_score(numbers, config.statistic),
        distortion=distortion,
        rate=rate,
        z_mean_norm=unseen.z_mean_norm,
        z_log_var_sum=unseen.z_log_var_sum,
        worst_pixels=positions[:, -n_worst(positions.shape[1]) :].sum(axis=1),
        **numbers,
    )
