"""Scores of images under a trained model: deterministic, and independent of the neighbours in a batch.

Nothing here needs Keras: what computes a batch is a compiled graph.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from nelbo.vae_core.config import VAEConfig
from nelbo.vae_core.linear.detail import DetailMap
from nelbo.vae_core.pixels import PixelRows, supported

if TYPE_CHECKING:
    from nelbo.vae_core.tiles.whole import WholeMap

#: Share of the pixels, the worst ones, whose distortion is reported separately.
WORST_PIXELS = 0.1

#: Parts of the statistic ``joint``.
JOINT = ("peak_z", "worst_z", "mean_z")
#: Further numbers of models of several variants.
VARIANT = ("variant", "variant_z")
#: Prefix of the names of those outputs of a graph that `local_maps` are made from.
SEEN = "seen_"

Array = NDArray[np.floating[Any]]


class Score(NamedTuple):
    """Scores of images; in nats, higher = more anomalous.

    anomaly_score: (n,) value of the model's statistic.
    nelbo, distortion, rate: (n,) nats; nelbo is the sum of the others.
    z_mean_norm: (n,) Euclidean norm of the posterior mean.
    z_log_var_sum: (n,) sum of the log posterior variances.
    worst_pixels: (n,) nats, distortion of the worst tenth of the pixels, or of the positions of a map of features.
    peak: (n,) maximum of `local_z`, in standard deviations; of features, before that is enlarged to pixels.
    peak_z, worst_z, mean_z: (n,) the peak, the mean of the worst tenth of the scored map and its mean, each in robust
        standard deviations from what is usual; None in models that have no statistic ``joint``, which is their sum.
    anomaly_map: (n, h, w) nats a pixel, sums to the distortion; those of a position of features are spread smoothly.
    rate_map: (n, h, w) nats a pixel, sums to the rate: each latent position's, over the pixels below it.
    local_z: (n, h, w) local negative ELBO (the two maps' sum) in standard deviations from what is usual for that
        pixel, smoothed.
    reconstruction: (n, h, w, c) the likelihood's mean; None for a likelihood of features. The four arrays of pixels are
        None unless requested, and in exported models.
    local_nelbo: (n, gh, gw) nats on the map's own grid, see `local_maps`; None unless requested.
    variant: (n,) number of the variant that each image is nearest to, from 0; variant_z: (n,) deviations by which it is
        farther from that than usual, beyond three; they count in `joint` and `peak`. None where there is one variant.
    map_peak: (n,) largest value of the local map in units above what is usual, see `Scorable.map_scales`; NaN where no
        map was made. Only known for images that were cross-fitted, else None.
    """

    anomaly_score: Array
    nelbo: Array
    distortion: Array
    rate: Array
    z_mean_norm: Array
    z_log_var_sum: Array
    worst_pixels: Array
    peak: Array
    peak_z: Array | None = None
    worst_z: Array | None = None
    mean_z: Array | None = None
    anomaly_map: Array | None = None
    rate_map: Array | None = None
    local_z: Array | None = None
    reconstruction: Array | None = None
    variant: Array | None = None
    variant_z: Array | None = None
    local_nelbo: Array | None = None
    map_peak: Array | None = None


def anomaly_score(found: Mapping[str, Any], statistic: str) -> Any:
    """(n,) the value of a statistic.

    Args:
        found: columns of `Score`: parts of the statistic, and ``variant_z`` where there are several variants.
        statistic: one of `nelbo.vae_core.config.STATISTICS`.

    >>> anomaly_score({"peak": 3.0, "variant_z": 0.5}, "peak")
    3.5
    """
    score = sum(found[name] for name in JOINT) if statistic == "joint" else found[statistic]
    # An image that is near no variant is anomalous; a nelbo is in nats, and cannot be added to.
    return score + found["variant_z"] if "variant_z" in found and statistic != "nelbo" else score


def n_worst(n_values: int) -> int:
    """How many of `n_values` values are the worst ones: a tenth, and at least one.

    >>> n_worst(64), n_worst(4)
    (6, 1)
    """
    return max(1, round(WORST_PIXELS * n_values))


class Graph(Protocol):
    """A compiled scoring function.

    batch_size: images in one padded batch.
    parallel: batches that it computes at once.
    """

    batch_size: int
    parallel: int

    def run(self, pixels: Array) -> dict[str, Array]:
        """The columns of `Score` for one batch, (`batch_size`, h, w, c) float32; and what `local_maps` are made of."""


class Scorable(Protocol):
    """A trained model, in Keras or exported."""

    @property
    def config(self) -> VAEConfig:
        """The network's configuration."""

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """How files become pixels."""

    @property
    def detail(self) -> DetailMap | None:
        """What makes the map of a linear head."""

    @property
    def tiles(self) -> "WholeMap | None":
        """What is known of whole images where they are seen in tiles."""

    @property
    def map_scales(self) -> Array:
        """(v, 2) for each variant, what is usual in `local_maps`, and one unit, in nats."""

    @property
    def fit_id(self) -> str | None:
        """The id of a fit that is not the bundle's own; None where it is."""

    def graph(self, maps: bool, eps: Array | None = None) -> Graph:
        """What scores a batch, with arrays of pixels or without; made once.

        Args:
            maps: whether it also gives arrays of pixels.
            eps: (s, zh, zw, latents) noise instead of the model's own.
        """


def score(model: Scorable, pixels: Array, *, eps: Array | None = None, maps: bool = True) -> Score:
    """Score images; the same image gets the same number, whatever else is in the batch.

    Args:
        model: a trained model.
        pixels: (n, h, w, c) float32 in [0, 1], preprocessed as the model says.
        eps: (s, zh, zw, latents) standard normal noise instead of the model's own.
        maps: also return the arrays of pixels (memory: 3 to 5 times the pixels').

    Returns:
        The numbers of each image, see `Score`.

    Raises:
        ValueError: wrong shape, pixels that are NaN or outside [0, 1], or that the likelihood is not defined for.
        FloatingPointError: a score is not finite.

    >>> from nelbo.vae_core import Model, VAEConfig
    >>> from nelbo.vae_core.model import draw_eps
    >>> from nelbo.vae_core.network.vae import VAE
    >>> config, ones = VAEConfig(height=16, width=16), np.ones((16, 16), np.float32)
    >>> untrained = Model(config, VAE(config), draw_eps(config, seed=0), 0 * ones, ones, {})
    >>> scored = score(untrained, np.zeros((2, 16, 16, 1), np.float32))
    >>> scored.anomaly_map.shape, bool(np.allclose(scored.nelbo, scored.distortion + scored.rate))
    ((2, 16, 16), True)
    """
    check_pixels(model.config, pixels)
    found, seen = score_batches(model.graph(maps, eps), pixels, seen=maps)
    return found._replace(local_nelbo=local_maps(model, seen, found.variant)) if maps else found


def score_and_map(
    model: Scorable, pixels: Array, chosen: Callable[[Score], NDArray[np.bool_]]
) -> tuple[Score, NDArray[np.intp], NDArray[np.float32] | None]:
    """Score images, and map some of them.

    Args:
        model: a trained model.
        pixels: (n, h, w, c) float32 in [0, 1], preprocessed as the model says.
        chosen: which images are mapped, (n,), by the scores of all.

    Returns:
        The scores; (k,) rows of the chosen images; and (k, gh, gw) their maps, see `local_maps`.

    Raises:
        ValueError, FloatingPointError: as in `score`.

    >>> from nelbo.vae_core import Model, VAEConfig
    >>> from nelbo.vae_core.model import draw_eps
    >>> from nelbo.vae_core.network.vae import VAE
    >>> config, ones = VAEConfig(height=16, width=16), np.ones((16, 16), np.float32)
    >>> untrained = Model(config, VAE(config), draw_eps(config, seed=0), 0 * ones, ones, {})
    >>> pixels = np.stack([np.zeros((16, 16, 1), np.float32), np.ones((16, 16, 1), np.float32)])
    >>> scored, rows, maps = score_and_map(untrained, pixels, lambda all: all.nelbo > all.nelbo[0])
    >>> rows.tolist(), maps.shape
    ([1], (1, 16, 16))
    """
    check_pixels(model.config, pixels)
    found, seen = score_batches(model.graph(maps=False), pixels, seen=True)
    rows = np.flatnonzero(chosen(found))
    of_rows = None if found.variant is None else found.variant[rows]
    return found, rows, local_maps(model, [one[rows] for one in seen], of_rows)


def local_maps(model: Scorable, seen: Sequence[Array], variant: Array | None) -> NDArray[np.float32] | None:
    """(n, gh, gw) local negative ELBO in nats on the map's own grid: not in deviations from what is usual at a place.

    For a linear head, that grid is finer than the one that is scored; for others it is the scored map, smoothed. None
    for an engine of version 0.1.

    Args:
        seen: what a graph gives besides the scores of the images.
        variant: (n,) number of each image's variant, if there are several.
    """
    if not seen:
        return None
    return np.asarray(seen[0] if model.detail is None else model.detail(seen, variant), np.float32)


def map_units(maps: Array, scales: Array) -> Array:
    """Local maps in units above what is usual.

    Args:
        maps: (n, gh, gw) nats.
        scales: (n, 2) for each map what is usual, and one unit, in nats; see `Scorable.map_scales`.

    >>> map_units(np.array([[[1.0, 7.0]]]), np.array([[1.0, 2.0]])).tolist()
    [[[0.0, 3.0]]]
    """
    return np.asarray((maps - scales[:, :1, None]) / scales[:, 1:, None])


def map_peaks(maps: Array, scales: Array) -> Array:
    """(n,) the largest value of each map in units above what is usual; NaN is ignored.

    Args:
        maps: (n, gh, gw) nats.
        scales: (n, 2) for each map what is usual, and one unit, in nats; see `Scorable.map_scales`.

    >>> map_peaks(np.array([[[1.0, 7.0, np.nan]]]), np.array([[1.0, 2.0]])).tolist()
    [3.0]
    """
    return np.asarray(np.nanmax(map_units(maps, scales), axis=(1, 2), initial=-np.inf))


def score_batches(graph: Graph, pixels: Array, *, seen: bool = False) -> tuple[Score, list[Array]]:
    """Score in batches of one fixed shape, the last one padded; without images, one batch runs and gives no scores.

    Args:
        seen: also give what `local_maps` are made from: 0.3 MB for each image with a linear head.

    Returns:
        The scores, and what `local_maps` are made from.

    Raises:
        FloatingPointError: a score is NaN or infinite.
    """

    columns = run_batches(graph, pixels, lambda name: seen or not name.startswith(SEEN))
    for key in ("anomaly_score", "nelbo"):
        check_finite(key, columns[key])
    of_maps = [columns[name] for name in sorted(columns) if name.startswith(SEEN)]
    return Score(**{name: columns.get(name) for name in Score._fields}), of_maps  # type: ignore[arg-type]


def run_batches(graph: Graph, pixels: PixelRows, wanted: Callable[[str], bool]) -> dict[str, Array]:
    """The outputs of a graph for images, in batches of one shape, the last one padded; without images, one batch runs.

    Args:
        pixels: (n, h, w, c) float32 in [0, 1]; read batch by batch.
        wanted: which of its outputs are kept, by their names.
    """

    def run(start: int) -> dict[str, Array]:
        some = pixels[start : start + graph.batch_size]
        found = graph.run(padded(some, graph.batch_size)).items()
        return {key: value[: len(some)] for key, value in found if wanted(key)}

    starts = range(0, max(len(pixels), 1), graph.batch_size)
    if graph.parallel == 1:
        batches = list(map(run, starts))
    else:
        with ThreadPoolExecutor(graph.parallel) as pool:
            batches = list(pool.map(run, starts))
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def padded(values: Array, n: int) -> NDArray[np.float32]:
    """Rows padded to `n`: the given ones, followed by zeros.

    >>> padded(np.ones((1, 2)), 2).tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """
    rows = np.zeros((n, *values.shape[1:]), np.float32)
    rows[: len(values)] = values
    return rows


def default_batch_size(config: VAEConfig) -> int:
    """Images in one padded batch: 64 at 64 x 64, and as many pixels at other sizes (at least 4 images)."""
    return max(4, min(256, 64 * 64 * 64 // (config.height * config.width)))


class PixelsError(ValueError):
    """Images have values that a model's likelihood is not defined for."""


def check_pixels(config: VAEConfig, pixels: Array) -> None:
    """Raise a ValueError for pixels that a network cannot take: shape, range, or values its likelihood excludes."""
    expected = (config.height, config.width, config.channels)
    if pixels.ndim != 4 or pixels.shape[1:] != expected:
        raise ValueError(f"pixels have shape {pixels.shape}, the model takes (n, {', '.join(map(str, expected))})")
    if not ((pixels >= 0) & (pixels <= 1)).all():
        raise ValueError("pixels lie outside [0, 1], or are NaN; divide 8-bit values by 255")
    refuse_unsupported(config, [f"image {row}" for row in np.flatnonzero(~supported(pixels, config.likelihood))])


def refuse_unsupported(config: VAEConfig, names: Sequence[str]) -> None:
    """Raise a PixelsError if there are names of images that the likelihood is not defined for."""
    if not names:
        return
    remedy = {
        "bernoulli": "Binarise them to 0 and 1, or train with continuous_bernoulli",
        "discretised_logistic": "Round them to the 256 levels k/255, or train with a Gaussian likelihood",
    }[config.likelihood]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    raise PixelsError(
        f"{len(names)} images ({', '.join(names[:5])}{more}) have values that {config.likelihood} is not defined for. "
        f"{remedy}"
    )


def check_finite(what: str, values: Array) -> None:
    """Raise a FloatingPointError for numbers of images that are NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise FloatingPointError(
            f"{what} of {len(bad)} images is NaN or infinite (first: image {bad[0]}). "
            "The model has diverged: train it again with a lower learning rate."
        )


def bits_per_dim(nelbo: Array, n_values: int, *, density: bool = True) -> Array:
    """Negative ELBO of 8-bit data in bits a value, per image.

        nelbo / (n_values ln 2), plus 8 for a density

    The 8 turns a density over [0, 1] into one over grey levels, each 1/256 wide.

    Args:
        nelbo: (n,) nats.
        n_values: h * w * c.
        density: whether the likelihood is a density over [0, 1] (Gaussian, continuous Bernoulli) or a probability
            (discretised logistic, Bernoulli).

    Source: Theis, van den Oord and Bethge 2016, "A note on the evaluation of generative models", section 3.1.

    >>> float(bits_per_dim(np.zeros(1), 64)[0]), float(bits_per_dim(np.full(1, 64 * math.log(2)), 64, density=False)[0])
    (8.0, 1.0)
    """
    return nelbo / (n_values * math.log(2)) + (8 if density else 0)
