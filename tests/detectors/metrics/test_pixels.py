import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import label
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from nelbo.detectors import Interval, aupro, pixel_auroc

Images = tuple[list[np.ndarray], list[np.ndarray]]


@st.composite
def images(draw: st.DrawFn, ties: int = 6) -> Images:
    """Small images of any sizes with masks; at least one pixel is defective and one is normal."""
    sizes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    masks = [random.random(size) < random.choice([0, 0.3, 0.6]) for size in sizes]
    maps = [random.integers(0, draw(st.integers(1, ties)), size).astype(float) for size in sizes]
    masks.append(np.array([[True, False]]))
    maps.append(random.integers(0, ties, (1, 2)).astype(float))
    return masks, maps


def flat(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays])


def pro_curve(masks: list[np.ndarray], maps: list[np.ndarray]) -> tuple[list[float], list[float]]:
    """False-alarm rates and mean overlaps, computed threshold by threshold and region by region."""
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(flat(maps))[::-1]:
        above = [one >= threshold for one in maps]
        rates.append(float(flat(above)[~flat(masks)].mean()))
        found = []
        for mask, marked in zip(masks, above, strict=True):
            regions, n = label(mask, np.ones((3, 3)))
            found += [marked[regions == region].mean() for region in range(1, n + 1)]
        overlaps.append(float(np.mean(found)))
    return rates, overlaps


def area_up_to(rates: list[float], heights: list[float], end: float) -> float:
    """The area under a curve by trapeziums, the last of which is cut at the end."""
    area = 0.0
    for (x0, x1), (y0, y1) in zip(itertools.pairwise(rates), itertools.pairwise(heights), strict=True):
        if x0 < end and x1 > x0:
            cut = min(x1, end)
            area += (cut - x0) * (y0 + y0 + (y1 - y0) * (cut - x0) / (x1 - x0)) / 2
    return area / end


def test_pixel_measures_of_a_small_example() -> None:
    # Region P is one pixel, 9; Q is two, 8 and 3, that touch at a corner. Normal pixels: 7, 5, 4, 2, 1, 0.
    mask = [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    scores = [[9, 7, 5], [0, 4, 8], [2, 3, 1]]
    # The mean overlap is 3/4 from a rate of 0 on, and 1 from 3/6 on.
    assert aupro([mask], [scores], max_fpr=1, n_resamples=1).value == pytest.approx(0.75 * 0.5 + 0.5)
    assert aupro([mask], [scores], max_fpr=0.5, n_resamples=1).value == pytest.approx(0.75)
    assert aupro([mask], [scores], max_fpr=0.75, n_resamples=1).value == pytest.approx((0.75 * 0.5 + 0.25) / 0.75)
    # 3 of 18 pairs are wrong: the 3 lies below 7, 5 and 4.
    assert pixel_auroc([mask], [scores], n_resamples=1).value == pytest.approx(15 / 18)


@given(images(ties=1000), st.sampled_from([0.05, 0.3, 0.5, 1.0]))
def test_aupro_equals_the_area_under_the_whole_curve(drawn: Images, max_fpr: float) -> None:
    expected = area_up_to(*pro_curve(*drawn), max_fpr)
    assert aupro(*drawn, max_fpr=max_fpr, n_resamples=1).value == pytest.approx(expected, abs=1e-12)


@given(images(ties=1000))
def test_pixel_auroc_equals_that_of_all_pixels(drawn: Images) -> None:
    masks, maps = drawn
    expected = roc_auc_score(flat(masks), flat(maps))
    assert pixel_auroc(masks, maps, n_resamples=1).value == pytest.approx(expected, abs=1e-12)


@given(images(), st.integers(0, 100))
def test_a_bootstrap_sample_is_a_set_of_whole_images(drawn: Images, seed: int) -> None:
    """A sample's value is that of redrawn images, as many with a defect as before."""
    masks, maps = ([one[-1], *one[:-1]][:3] for one in drawn)
    groups = [[i for i, mask in enumerate(masks) if mask.any() == kind] for kind in (False, True)]
    samples = itertools.product(*(itertools.combinations_with_replacement(group, len(group)) for group in groups))
    possible = []
    for sample in (normal + defective for normal, defective in samples):
        again = [masks[i] for i in sample], [maps[i] for i in sample]
        if not flat(again[0]).all():
            possible.append(area_up_to(*pro_curve(*again), 0.3))
    found = aupro(masks, maps, n_resamples=1, seed=seed)
    assert found.low == found.high
    assert min(abs(found.low - area) for area in possible) < 1e-9


@given(images())
def test_only_the_order_counts(drawn: Images) -> None:
    masks, maps = drawn
    for metric in (pixel_auroc, aupro):
        assert metric(masks, [np.exp(one) for one in maps], n_resamples=5) == metric(masks, maps, n_resamples=5)


def test_the_interval_covers_the_truth_though_pixels_of_an_image_correlate() -> None:
    random, truth = np.random.default_rng(5), norm.cdf(1 / math.sqrt(2 * (1 + 0.5**2)))
    mask = np.pad(np.ones((3, 3)), 2)
    masks = [mask * (i % 2) for i in range(60)]

    def interval() -> Interval:
        return pixel_auroc(masks, [random.normal(size=(7, 7)) + one + random.normal() / 2 for one in masks], 100)

    assert np.mean([low <= truth <= high for _, low, high in (interval() for _ in range(150))]) > 0.87


def test_an_image_that_is_entirely_defective_is_never_drawn_alone() -> None:
    found = pixel_auroc([[[1, 1]], [[1, 0]]], [[[3.0, 4.0]], [[2.0, 1.0]]], n_resamples=50)
    assert tuple(found) == (1, 1, 1)


def test_bad_arguments_are_refused() -> None:
    mask, scores = [[1, 0]], [[2.0, 1.0]]
    for metric in (pixel_auroc, aupro):
        with pytest.raises(ValueError, match="2 masks and 1 maps"):
            metric([mask, mask], [scores])
        with pytest.raises(ValueError, match=r"image 1: got a mask of shape \(1, 2\) and a map of shape \(2, 1\)"):
            metric([mask, mask], [scores, [[1.0], [2.0]]])
        with pytest.raises(ValueError, match=r"image 0: got a mask of shape \(2,\), expected \(h, w\)"):
            metric([[1, 0]], [[1.0, 2.0]])
        with pytest.raises(ValueError, match=r"image 0: got a mask with values from 0 to 255.*Compare"):
            metric([[[255, 0]]], [scores])
        for bad in (math.nan, math.inf, -math.inf):
            with pytest.raises(ValueError, match="image 0: 1 of 2 values of the map are NaN or infinite"):
                metric([mask], [[[1.0, bad]]])
        with pytest.raises(ValueError, match="0 defective and 2 normal pixels in 1 images"):
            metric([[[0, 0]]], [scores])
        with pytest.raises(ValueError, match="2 defective and 0 normal pixels"):
            metric([[[1, 1]]], [scores])
        with pytest.raises(ValueError, match="0 defective and 0 normal pixels in 0 images"):
            metric([], [])
        with pytest.raises(ValueError, match="n_resamples of at least 1"):
            metric([mask], [scores], n_resamples=0)
    for rate in (0, 1.1, math.nan):
        with pytest.raises(ValueError, match="max_fpr="):
            aupro([mask], [scores], max_fpr=rate)
