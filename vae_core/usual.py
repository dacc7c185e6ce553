"""What is usual on normal images: the scale for the statistics of a map of local nats.

The map is smoothed, and standardised position by position. Three statistics of it are standardised in turn, by the
median and the median absolute deviation: the peak, which one spot raises; the mean of the worst tenth; and the mean,
which an image that is odd as a whole raises. ``joint`` is their sum.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from nelbo.vae_core.scoring import n_worst

#: Weight of the spread over all positions in the spread of one, counted in images: keeps the standard deviation of a
#: position sane where few images were seen.
POOLED_IMAGES = 10
#: The standard deviation of a normal distribution over its median absolute deviation.
NORMAL = 1.4826

Maps = NDArray[np.floating[Any]]


class Usual(NamedTuple):
    """What a map of local nats usually looks like on normal images.

    mean, std: (gh, gw) nats, position by position.
    statistics: (3, 2) median, and spread, of the peak, the worst tenth and the mean of the standardised map; None in
        models of pixels and of version 0.1, which standardise before they smooth, and have no `joint`.

    In models of several variants each array has one of these for each variant.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    statistics: NDArray[np.float32] | None = None

    def parts(self, maps: Maps, side: int, variants: NDArray[np.int64] | None = None) -> "Parts":
        """Statistics of images with these (n, gh, gw) local nats; see `learn_usual` for the images it is learnt from.

        Args:
            maps: of images.
            side: of the box that smooths them, an odd number of positions.
            variants: (n,) number of each image's variant, in models of several.

        Raises:
            ValueError: the model has no `joint`.
        """
        if self.statistics is None:
            raise ValueError("statistics is None: this model has no joint")
        mean, std, scales = (
            (self.mean, self.std, self.statistics)
            if variants is None
            else (values[variants] for values in (self.mean, self.std, self.statistics))
        )
        found = statistics_of((smoothed_maps(maps, side) - mean) / std)
        # (3, 1), or (3, n).
        median, spread = np.moveaxis(np.reshape(scales, (-1, 3, 2)).astype(np.float64), 0, 1).transpose(2, 0, 1)
        return standardised(found, median, spread)


class Parts(NamedTuple):
    """(n,) each: the peak of a standardised map, and the three standardised parts of ``joint``."""

    peak: NDArray[np.float32]
    peak_z: NDArray[np.float32]
    worst_z: NDArray[np.float32]
    mean_z: NDArray[np.float32]

    @property
    def joint(self) -> NDArray[np.float32]:
        """(n,) their sum."""
        return self.peak_z + self.worst_z + self.mean_z


def learn_usual(maps: Maps, side: int) -> tuple[Usual, Parts]:
    """What is usual on normal images, and what each of them scores, standardised by the others.

    Args:
        maps: (n, gh, gw) local nats of images that the model has not seen; n >= 3. NaN where positions are ignored,
            the same ones in all.
        side: of the box that smooths them, an odd number of positions.

    >>> maps = np.random.default_rng(0).normal(5.0, 2.0, (400, 4, 4))
    >>> usual, parts = learn_usual(maps, side=1)
    >>> bool(abs(usual.mean - 5).max() < 0.5), bool(abs(np.median(parts.joint)) < 0.5)
    (True, True)
    """
    smoothed = smoothed_maps(maps, side)
    n = len(smoothed)
    total, squares = smoothed.sum(axis=0), np.square(smoothed).sum(axis=0)
    # If it counted itself, an image would look more usual than new ones.
    mean, std = pooled_mean_and_std(total - smoothed, squares - np.square(smoothed), n - 1)
    statistics = statistics_of((smoothed - mean) / std)
    scales = median_and_spread(statistics)
    mean, std = pooled_mean_and_std(total, squares, n)
    # Ignored positions are never used, and a bundle holds only numbers.
    mean, std = np.nan_to_num(mean, nan=0.0), np.nan_to_num(std, nan=1.0)
    usual = Usual(mean.astype(np.float32), std.astype(np.float32), scales.astype(np.float32))
    return usual, standardised(statistics, scales[:, :1], scales[:, 1:])


def median_and_spread(values: Maps) -> NDArray[np.float64]:
    """(..., 2) over the last axis: the median, and a spread that is the standard deviation of a normal distribution.

    >>> median_and_spread(np.array([[0.0, 1.0, 2.0], [3.0, 3.0, 3.0]])).tolist()
    [[1.0, 1.4826], [3.0, 3e-06]]
    """
    median = np.median(values, axis=-1)
    spread = NORMAL * np.median(np.abs(values - median[..., None]), axis=-1)
    # If all are alike, anything that differs is far away.
    return np.stack([median, np.maximum(spread, 1e-6 * np.maximum(1, np.abs(median)))], axis=-1)


def smoothed_maps(maps: Maps, side: int) -> Maps:
    """(n, gh, gw) means over a box around each position; NaN is ignored, and stays.

    >>> smoothed_maps(np.array([[[1.0, 2.0, np.nan]]]), 3).round(2).tolist()
    [[[1.33, 1.5, nan]]]
    """
    numbers = np.asarray(maps, np.float64)
    box = {"size": (0, side, side), "mode": "reflect"}
    is_seen = ~np.isnan(numbers)
    if is_seen.all():
        return uniform_filter(numbers, **box)
    # At ignored positions divide by 1, since a box around them may be ignored as a whole.
    found = uniform_filter(np.where(is_seen, numbers, 0.0), **box) / np.where(
        is_seen, uniform_filter(is_seen.astype(np.float64), **box), 1.0
    )
    return np.where(is_seen, found, np.nan)


def standardised(statistics: Maps, median: Maps, spread: Maps) -> Parts:
    """Parts of (3, n) statistics, by what is usual of each."""
    z = ((statistics - median) / spread).astype(np.float32)
    return Parts(statistics[0].astype(np.float32), *z)


def pooled_mean_and_std(total: Maps, squares: Maps, n: int | Maps) -> tuple[Maps, Maps]:
    """Mean and deviation from sums over n images, plain and of squares; variances are drawn towards their mean.

    Args:
        n: number of images, of all positions or of each.
    """
    mean = total / n
    variance = np.maximum(squares / n - np.square(mean), 0)
    pooled = (n * variance + POOLED_IMAGES * np.nanmean(variance, axis=(-2, -1), keepdims=True)) / (n + POOLED_IMAGES)
    return mean, np.sqrt(np.maximum(pooled, np.finfo(np.float32).tiny))


def statistics_of(maps: Maps) -> NDArray[np.float64]:
    """(3, n): the largest value, the mean of the worst tenth, and the mean; of maps with NaN at the same positions."""
    values = maps.reshape(len(maps), -1)
    rows = np.sort(values[:, ~np.isnan(values).any(axis=0)], axis=1)
    # Means over positions: the statistics are of a map, whatever its size.
    return np.stack([rows[:, -1], rows[:, -n_worst(rows.shape[1]) :].mean(axis=1), rows.mean(axis=1)])
