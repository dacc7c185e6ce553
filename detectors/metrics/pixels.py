"""How well maps over pixels find the defects that masks show, with intervals."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import label

from nelbo.detectors.interval import Interval
from nelbo.detectors.metrics.metrics import percentiles

Mask = NDArray[np.bool_]
Array = NDArray[np.float64]

#: Pixels that touch at a corner belong to one defect, as in MVTec's own evaluation.
NEIGHBOURS = np.ones((3, 3), np.int64)


class Curve(NamedTuple):
    """What each image adds to each step of a curve, the highest scores first.

    normal: (n_steps, n_images) normal pixels.
    defect: (n_steps, n_images) weight of the defective pixels.
    """

    normal: "scipy.sparse.csr_array | Array"
    defect: "scipy.sparse.csr_array | Array"

    def area(self, copies: NDArray[np.int64], max_fpr: float) -> float:
        """Mean height of the curve over false-alarm rates from 0 to `max_fpr`, with so many copies of each image."""
        fpr, height = (_cumulative_share(steps @ copies) for steps in self)
        inside = int(np.searchsorted(fpr, max_fpr, side="right"))
        at_end = np.interp(max_fpr, fpr, height)
        x, y = np.append(fpr[:inside], max_fpr), np.append(height[:inside], at_end)
        return float(np.trapezoid(y, x) / max_fpr)

    def interval(self, defective: Mask, max_fpr: float, n_resamples: int, seed: int = 0) -> Interval:
        """The area, with the middle 95 % of the areas of redrawn images, those with and without a defect separately.

        Args:
            defective: (n_images,) which have a defect.
        """
        has_normal = np.asarray(self.normal.sum(axis=0)).ravel() > 0
        random = np.random.default_rng(seed)
        samples = [self.area(_draw(defective, has_normal, random), max_fpr) for _ in range(n_resamples)]
        return percentiles(self.area(np.ones(len(defective), np.int64), max_fpr), samples)


def pixel_auroc(
    masks: Sequence[ArrayLike], maps: Sequence[ArrayLike], n_resamples: int | None = None, seed: int = 0
) -> Interval:
    """Area under the ROC curve of all pixels together, with a bootstrap interval over images.

    Large defects outweigh small ones; :func:`aupro` weighs every defect alike.

    Args:
        masks: for each image (h, w) booleans, or 0 and 1: where it is defective; nowhere in a normal image. The sizes
            of images may differ.
        maps: for each image (h, w), higher = more anomalous.
        n_resamples: bootstrap samples; whole images are drawn, since the pixels of one image are alike, those with and
            without a defect separately. None takes 1,000, and fewer for more than 200,000 pixels; at least 100.
        seed: of the resampling.

    Raises:
        ValueError: numbers of images or shapes that differ, a mask of other values, a map that is not finite, no
            defective or no normal pixel.

    >>> pixel_auroc([[[0, 1]], [[0, 0]]], [[[1.0, 3.0]], [[2.0, 4.0]]], n_resamples=10).value.__round__(3)
    0.667
    """
    return _bootstrap(masks, maps, _weigh_pixels, 1.0, n_resamples, seed)


def aupro(
    masks: Sequence[ArrayLike],
    maps: Sequence[ArrayLike],
    max_fpr: float = 0.3,
    n_resamples: int | None = None,
    seed: int = 0,
) -> Interval:
    """Area under the per-region overlap curve (AUPRO), with a bootstrap interval over images.

    The share of a defect that lies above a threshold, averaged over all defects, against the share of normal pixels
    above it; integrated from 0 to `max_fpr`, with linear interpolation there, and divided by `max_fpr`. A defect is a
    connected component of a mask, corners included. 1 is perfect; pixels at random give max_fpr / 2.

    Args:
        masks: as in :func:`pixel_auroc`.
        maps: as in :func:`pixel_auroc`.
        max_fpr: largest false-alarm rate of pixels, in (0, 1].
        n_resamples: as in :func:`pixel_auroc`.
        seed: of the resampling.

    Raises:
        ValueError: as :func:`pixel_auroc`, or max_fpr outside (0, 1].

    Source: Bergmann, Batzner, Fauser, Sattlegger and Steger 2021, "The MVTec anomaly detection dataset", IJCV,
    section 5.2.

    >>> aupro([[[1, 0, 1, 1]]], [[[9.0, 1.0, 8.0, 0.0]]], max_fpr=1.0, n_resamples=10).value
    0.75
    """
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr={max_fpr}: expected a rate above 0 and up to 1, for example 0.3")
    return _bootstrap(masks, maps, _weigh_regions, max_fpr, n_resamples, seed)


def _bootstrap(
    masks: Sequence[ArrayLike],
    maps: Sequence[ArrayLike],
    weigh: Callable[[Mask], Array],
    max_fpr: float,
    n_resamples: int | None,
    seed: int,
) -> Interval:
    truth, values = _check(masks, maps)
    n = _resamples_for(sum(mask.size for mask in truth)) if n_resamples is None else n_resamples
    return _curve(truth, values, weigh).interval(np.array([mask.any() for mask in truth]), max_fpr, n, seed)


def _resamples_for(n_pixels: int) -> int:
    return min(1000, max(100, 200_000_000 // n_pixels))


def _draw(defective: Mask, has_normal: Mask, random: np.random.Generator) -> NDArray[np.int64]:
    """How often each image is in a bootstrap sample that has a normal pixel."""
    groups = [np.flatnonzero(defective == kind) for kind in (False, True)]
    while True:
        drawn = np.concatenate([group[random.integers(0, max(1, len(group)), len(group))] for group in groups])
        if has_normal[drawn].any():
            return np.bincount(drawn, minlength=len(defective))


def _curve(masks: list[Mask], maps: list[Array], weigh: Callable[[Mask], Array]) -> Curve:
    defect = np.concatenate([mask.ravel() for mask in masks])
    weight = np.concatenate([weigh(mask)[mask] for mask in masks])
    image = np.repeat(np.arange(len(masks), dtype=np.int32), [mask.size for mask in masks])
    step = _steps(np.concatenate([values.ravel() for values in maps]), defect)
    shape = (int(step.max()) + 1, len(masks))
    normal = ~defect
    return Curve(
        scipy.sparse.csr_array((np.ones(int(normal.sum())), (step[normal], image[normal])), shape),
        scipy.sparse.csr_array((weight, (step[defect], image[defect])), shape),
    )


def _steps(values: Array, defect: Mask) -> NDArray[np.int32]:
    """Which step of the curve each pixel is in, the highest scores first.

    A step is one distinct value, or a run of them that only normal or only defective pixels have: between these the
    curve is a straight line, whichever images are drawn.
    """
    order = np.argsort(-values)
    ordered = values[order]
    level = _running_number(ordered[1:] != ordered[:-1])
    n_defect, n_all = np.bincount(level, defect[order]), np.bincount(level)
    mixed, any_defect = (n_defect > 0) & (n_defect < n_all), n_defect > 0
    new = (any_defect[1:] != any_defect[:-1]) | mixed[1:] | mixed[:-1]
    step = np.empty(len(values), np.int32)
    step[order] = _running_number(new)[level]
    return step


def _running_number(is_next: Mask) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(is_next)]).astype(np.int32)


def _weigh_pixels(mask: Mask) -> Array:
    return mask.astype(np.float64)


def _weigh_regions(mask: Mask) -> Array:
    """1 / size of the region that a pixel is in; 0 outside."""
    region, n_regions = label(mask, NEIGHBOURS)
    size = np.bincount(region.ravel(), minlength=n_regions + 1)
    return np.where(mask, 1 / np.maximum(size, 1)[region], 0.0)


def _cumulative_share(steps: Array) -> Array:
    """(n_steps + 1,) cumulative shares, from 0 to 1."""
    total = np.concatenate([[0.0], steps.cumsum()])
    return total / total[-1]


def _check(masks: Sequence[ArrayLike], maps: Sequence[ArrayLike]) -> tuple[list[Mask], list[Array]]:
    if len(masks) != len(maps):
        raise ValueError(f"got {len(masks)} masks and {len(maps)} maps, expected one mask for each map")
    truth = [_check_mask(i, mask) for i, mask in enumerate(masks)]
    values = [np.asarray(one, np.float64) for one in maps]
    for i, (mask, one) in enumerate(zip(truth, values, strict=True)):
        if mask.shape != one.shape:
            raise ValueError(
                f"image {i}: got a mask of shape {mask.shape} and a map of shape {one.shape}, expected the same. "
                "Resize the mask to the map, with the nearest pixel"
            )
        if not np.isfinite(one).all():
            raise ValueError(
                f"image {i}: {int((~np.isfinite(one)).sum())} of {one.size} values of the map are NaN or infinite, "
                "expected finite ones. Leave the image out, or score it again"
            )
    n_defect, n_pixels = sum(np.count_nonzero(mask) for mask in truth), sum(mask.size for mask in truth)
    if not 0 < n_defect < n_pixels:
        raise ValueError(
            f"got {n_defect} defective and {n_pixels - n_defect} normal pixels in {len(truth)} images, expected both. "
            "Add images with the kind that is missing"
        )
    return truth, values


def _check_mask(i: int, mask: ArrayLike) -> Mask:
    given = np.asarray(mask)
    if given.ndim != 2:
        raise ValueError(f"image {i}: got a mask of shape {given.shape}, expected (h, w)")
    if given.dtype != bool and not np.isin(given, (0, 1)).all():
        raise ValueError(
            f"image {i}: got a mask with values from {given.min()} to {given.max()}, expected 0 and 1. "
            "Compare it with 0 first"
        )
    return given.astype(bool)
