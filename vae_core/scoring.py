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

#: Share of the pixels, the worst ones, whose distortion is kept apart.
WORST_PIXELS = 0.1

#: Parts of the statistic ``joint``.
JOINT = ("peak_z", "worst_z", "mean_z")
#: What models of several variants say beside that.
VARIANT = ("variant", "variant_z")
#: What the names of a graph's outputs begin with that `local_maps` are made of.
SEEN = "seen_"

Array = NDArray[np.floating[Any]]


class Score(NamedTuple):
    """Per image; nats, higher = more anomalous.

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
        None unless asked for, and in exported models.
    local_nelbo: (n, gh, gw) nats on the map's own grid, see `local_maps`; None unless asked for.
    variant: (n,) number of the variant that each image is nearest to, from 0; variant_z: (n,) deviations that it is
        farther from it than usual, beyond three of them, which count in `joint` and `peak`. None where there is one.
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


def anomaly_score(found: Mapping[str, Any], statistic: str) -> Any:
    """(n,) the value of a statistic.

    Args:
        found: columns of `Score`: parts of the statistic, and ``variant_z`` where there are several variants.
        statistic: of `nelbo.vae_core.config.STATISTICS`.

    >>> anomaly_score({"peak": 3.0, "variant_z": 0.5}, "peak")
    3.5
    """
    score = sum(found[name] for name in JOINT) if statistic == "joint" else found[statistic]
    # Where an image is near no variant, that is an anomaly; a nelbo is in nats.
    return score + found["variant_z"] if "variant_z" in found and statistic != "nelbo" else score


def n_worst(n_values: int) -> int:
    """How many of so many values are the worst ones: a tenth, and one at least.

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
        """(v, 2) of `local_maps` what is usual, and one unit, in nats; of each variant, or of the one."""

    def graph(self, maps: bool, eps: Array | None = None) -> Graph:
        """What scores a batch, with arrays of pixels or without; made once."""


def score(model: Scorable, pixels: Array, *, eps: Array | None = None, maps: bool = True) -> Score:
    """Score images; the same image gets the same number, whatever stands beside it.

    Args:
        model: a trained model.
        pixels: (n, h, w, c) float32 in [0, 1], preprocessed as the model says.
        eps: (s, zh, zw, latents) standard normal noise instead of the model's own.
        maps: also return the arrays of pixels (memory: 3 to 5 times the pixels').

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
        model, pixels: see `score`.
        chosen: which images are mapped, (n,), by the scores of all.

    Returns:
        The scores; (k,) rows of the chosen images; and (k, gh, gw) their maps, see `local_maps`.

    Raises:
        ValueError, FloatingPointError: see `score`.
    """
    check_pixels(model.config, pixels)
    found, seen = score_batches(model.graph(maps=False), pixels, seen=True)
    rows = np.flatnonzero(chosen(found))
    of_rows = None if found.variant is None else found.variant[rows]
    return found, rows, local_maps(model, [one[rows] for one in seen], of_rows)


def local_maps(model: Scorable, seen: Sequence[Array], variant: Array | None) -> NDArray[np.float32] | None:
    """(n, gh, gw) local negative ELBO in nats on the map's own grid: not in deviations from what is usual at a place.

    Of a linear head that is a finer grid than is scored; of others the scored one, smoothed. None of an engine of 0.1.

    Args:
        seen: what a graph says of the images beside their scores.
        variant: (n,) number of each image's, of several.
    """
    if not seen:
        return None
    return np.asarray(seen[0] if model.detail is None else model.detail(seen, variant), np.float32)


def score_batches(graph: Graph, pixels: Array, *, seen: bool = False) -> tuple[Score, list[Array]]:
    """Score in batches of one fixed shape, the last one padded; no images run one batch, too, and give no scores.

    Args:
        seen: also give what `local_maps` are made of: of a linear head 0.3 MB an image.

    Returns:
        The scores, and that.

    Raises:
        FloatingPointError: a score is NaN or infinite.
    """

    columns = run_batches(graph, pixels, lambda name: seen or not name.startswith(SEEN))
    for key in ("anomaly_score", "nelbo"):
        check_finite(key, columns[key])
    of_maps = [columns[name] for name in sorted(columns) if name.startswith(SEEN)]
    return Score(**{name: columns.get(name) for name in Score._fields}), of_maps  # type: ignore[arg-type]


def run_batches(graph: Graph, pixels: PixelRows, wanted: Callable[[str], bool]) -> dict[str, Array]:
    """What a graph says of images, in batches of one shape, the last one padded; of none, too, by one batch.

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
    """So many rows: the given ones, and zeros behind them.

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
        "discretised_logistic": "Bring them to the 256 levels k/255, or train with a Gaussian likelihood",
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

    >>> float(bits_per_dim(np.zeros(1), 64)[0]), float(bits_per_dim(np.full(1, 64 * math.log(2)), 64, density=False)[0])
    (8.0, 1.0)
    """
    return nelbo / (n_values * math.log(2)) + (8 if density else 0)
