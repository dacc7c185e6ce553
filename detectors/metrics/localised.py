"""How well maps over pixels find the defects that masks show, image by image: little of each is kept in memory."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import label

from nelbo.detectors.interval import Interval, share_interval
from nelbo.detectors.metrics.pixels import NEIGHBOURS, Array, Curve

#: A region is found where this share of it lies above the level that this share of the normal pixels exceed.
FOUND_SHARE, FOUND_FPR = 0.1, 0.01

#: Steps between the lowest and the highest score, as many again in the highest tenth, and the least share of pixels
#: that is told apart there.
_STEPS, _LEAST = 2048, 1e-6


class Region(NamedTuple):
    """A connected place of a mask, corners included.

    image: number of its image.
    area_px: its pixels, each as often as it counts.
    reached: the score that `FOUND_SHARE` of them reach.
    """

    image: int
    area_px: int
    reached: float


class PixelCounts:
    """Counts of pixels by score, in some 4,000 steps that get finer for higher scores, where curves begin.

    Areas under curves differ from exact ones by less than 0.001; a test checks this.

    Args:
        values: scores that the steps are made from, such as those of all maps on their own grids; any shape.

    >>> counts = PixelCounts([1.0, 2.0, 3.0, 4.0])
    >>> counts.add([[0, 0], [0, 1]], [[1.0, 2.0], [3.0, 4.0]])
    >>> counts.auroc().value, counts.aupro(0.3).value, counts.regions[0].area_px
    (1.0, 1.0, 1)
    """

    def __init__(self, values: ArrayLike) -> None:
        shares = np.concatenate([np.linspace(0, 1, _STEPS), 1 - np.geomspace(_LEAST, 0.1, _STEPS)])
        self._edges = np.unique(np.quantile(np.asarray(values, np.float64), shares))
        self._normal: list[NDArray[np.float32]] = []
        self._defect: list[NDArray[np.float32]] = []
        self._of_regions: list[NDArray[np.float32]] = []
        self._empty = np.zeros(len(self._edges) + 1, np.float32)
        self.regions: list[Region] = []

    def __len__(self) -> int:
        """How many images have been added."""
        return len(self._normal)

    def add(self, mask: ArrayLike, values: ArrayLike, times: float = 1.0) -> None:
        """Add an image.

        Args:
            mask: (h, w) booleans, or 0 and 1: where it is defective; nowhere in a normal image.
            values: (h, w) higher = more anomalous.
            times: how often each of its pixels counts, as where a few stand for all.

        Raises:
            ValueError: shapes that differ, or a score that is not finite.
        """
        truth, scores = np.asarray(mask, bool), np.asarray(values)
        if truth.shape != scores.shape or truth.ndim != 2:
            raise ValueError(f"got a mask of shape {truth.shape} and a map of shape {scores.shape}, expected (h, w)")
        if not np.isfinite(scores).all():
            raise ValueError(
                f"{int((~np.isfinite(scores)).sum())} of {scores.size} values of a map are NaN or infinite"
            )
        step = np.searchsorted(self._edges, scores, side="right")
        self._normal.append(self._counted(step[~truth], None) * np.float32(times))
        if not truth.any():
            self._defect.append(self._empty)
            self._of_regions.append(self._empty)
            return
        number, n_regions = label(truth, NEIGHBOURS)
        number, inside = number[truth], scores[truth]
        areas = np.bincount(number, minlength=n_regions + 1)[1:]
        self._defect.append(self._counted(step[truth], None) * np.float32(times))
        self._of_regions.append(self._counted(step[truth], 1 / areas[number - 1]))
        # Region by region, each from its highest score down.
        ordered = inside[np.lexsort((-inside, number))]
        starts = np.cumsum(areas) - areas
        reached = ordered[starts + np.ceil(FOUND_SHARE * areas).astype(int) - 1]
        sizes = np.rint(areas * times).astype(int).tolist()
        self.regions += [Region(len(self) - 1, *one) for one in zip(sizes, reached.tolist(), strict=True)]

    def auroc(self, images: ArrayLike | None = None, n_resamples: int = 200, seed: int = 0) -> Interval | None:
        """As `pixel_auroc`, for all or some images; None without a defective or without a normal pixel among them."""
        return self._area(self._defect, images, 1.0, n_resamples, seed)

    def aupro(
        self, max_fpr: float, images: ArrayLike | None = None, n_resamples: int = 200, seed: int = 0
    ) -> Interval | None:
        """As `nelbo.detectors.aupro`, for all or some images; None as in `auroc`."""
        return self._area(self._of_regions, images, max_fpr, n_resamples, seed)

    def level(self, fpr: float = FOUND_FPR) -> float | None:
        """The score that a share `fpr` of the normal pixels of all images exceed; None without any."""
        counts = np.sum(self._normal, axis=0, dtype=np.float64) if self._normal else self._empty
        if not counts.sum():
            return None
        above = 1 - np.cumsum(counts) / counts.sum()
        # The upper edge of the first step above which there are so few pixels.
        return float(self._edges[min(int(np.argmax(above <= fpr)), len(self._edges) - 1)])

    def _counted(self, step: NDArray[np.integer], weights: Array | None) -> NDArray[np.float32]:
        return np.bincount(step, weights, minlength=len(self._empty)).astype(np.float32)

    def _area(
        self,
        of_defects: Sequence[NDArray[np.float32]],
        images: ArrayLike | None,
        max_fpr: float,
        n_resamples: int,
        seed: int,
    ) -> Interval | None:
        rows = np.arange(len(self)) if images is None else np.asarray(images, int)
        if not len(rows):
            return None
        # The highest scores first.
        normal, defect = (np.stack([of[row][::-1] for row in rows], axis=1) for of in (self._normal, of_defects))
        if not (normal.any() and defect.any()):
            return None
        return Curve(normal, defect).interval(np.asarray(defect.any(axis=0)), max_fpr, n_resamples, seed)


def share_found(regions: Sequence[Region], level: float) -> Interval:
    """The share of regions that are found at a level, see `FOUND_SHARE`; there must be at least one.

    Wilson's interval, wider where regions of one image are found or missed together.

    >>> print(share_found([Region(0, 9, 3.0), Region(1, 9, 1.0), Region(2, 9, 3.0)], level=2.0))
    0.667 [0.208, 0.939]
    """
    found = np.array([region.reached > level for region in regions])
    _, image = np.unique([region.image for region in regions], return_inverse=True)
    share, n = float(found.mean()), len(found)
    variance = float((np.bincount(image, found - share) ** 2).sum()) / n**2
    alone = share * (1 - share) / n
    return share_interval(share, n / max(1.0, variance / alone) if alone else float(image.max() + 1))
