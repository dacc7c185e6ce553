"""Pixel measures that take one image at a time, compared with exact ones on all pixels together."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label, zoom
from sklearn.metrics import roc_auc_score, roc_curve

from nelbo.detectors import aupro
from nelbo.detectors.metrics.localised import PixelCounts, Region, share_found

Images = tuple[list[np.ndarray], list[np.ndarray]]


def drawn(random: np.random.Generator, n: int, strength: float) -> Images:
    """Images of several sizes, half of them with two defects, and maps that show the defects in part."""
    masks, maps = [], []
    for number in range(n):
        height, width = random.integers(60, 120, 2)
        mask = np.zeros((height, width), bool)
        if number % 2:
            mask[5 : 5 + random.integers(1, 30), 5 : 5 + random.integers(1, 20)] = True
            mask[-4:-2, -9:-3] = True
        noise = zoom(random.normal(size=(16, 16)), (height / 16, width / 16), order=1, grid_mode=True, mode="nearest")
        masks.append(mask)
        maps.append((noise + strength * gaussian_filter(mask.astype(float), 3) * random.random()).astype(np.float32))
    return masks, maps


def counted(masks: list[np.ndarray], maps: list[np.ndarray]) -> PixelCounts:
    # The steps of the curve come from every seventh pixel.
    counts = PixelCounts(np.concatenate([one.ravel()[::7] for one in maps]))
    for mask, values in zip(masks, maps, strict=True):
        counts.add(mask, values)
    return counts


def exact_aupro(masks: list[np.ndarray], maps: list[np.ndarray], max_fpr: float) -> float:
    """The mean over regions of the area under each one's own ROC curve."""
    normal = np.concatenate([values[~mask] for mask, values in zip(masks, maps, strict=True)])
    areas = []
    for mask, values in zip(masks, maps, strict=True):
        number, n_regions = label(mask, np.ones((3, 3)))
        for region in range(1, n_regions + 1):
            inside = values[number == region]
            fpr, tpr, _ = roc_curve(
                np.r_[np.zeros(len(normal)), np.ones(len(inside))], np.r_[normal, inside], drop_intermediate=False
            )
            kept = fpr <= max_fpr
            x, y = np.append(fpr[kept], max_fpr), np.append(tpr[kept], np.interp(max_fpr, fpr, tpr))
            areas.append(np.trapezoid(y, x) / max_fpr)
    return float(np.mean(areas))


@pytest.mark.parametrize("strength", [0.5, 5.0, 500.0])
def test_areas_equal_those_of_all_pixels(strength: float, random: np.random.Generator) -> None:
    masks, maps = drawn(random, 12, strength)
    counts = counted(masks, maps)
    pixels, truth = (np.concatenate([one.ravel() for one in of]) for of in (maps, masks))
    found = counts.auroc(n_resamples=5)
    assert found is not None
    assert found.value == pytest.approx(roc_auc_score(truth, pixels), abs=1e-3)
    for max_fpr in (0.3, 0.05):
        area = counts.aupro(max_fpr, n_resamples=5)
        assert area is not None
        assert area.value == pytest.approx(exact_aupro(masks, maps, max_fpr), abs=1e-3)
    some = counts.aupro(0.3, images=[0, 1, 2, 5], n_resamples=50)
    exact = aupro([masks[row] for row in (0, 1, 2, 5)], [maps[row] for row in (0, 1, 2, 5)], 0.3, n_resamples=50)
    assert some == pytest.approx(exact, abs=1e-3)
    normal = pixels[~truth]
    level = counts.level(0.01)
    assert level is not None
    assert np.mean(normal >= level) == pytest.approx(0.01, abs=0.001)


def test_fewer_pixels_approximate_all(random: np.random.Generator) -> None:
    masks, maps = drawn(random, 6, 5.0)
    whole, fewer = counted(masks, maps), PixelCounts(np.concatenate([one.ravel() for one in maps]))
    for mask, values in zip(masks, maps, strict=True):
        fewer.add(mask.repeat(3, axis=0), values.repeat(3, axis=0), times=1 / 3)
    assert fewer.auroc(n_resamples=3) == pytest.approx(whole.auroc(n_resamples=3), abs=1e-4)


def test_a_region_is_found_by_a_tenth_of_its_pixels() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:4, 2:12] = True
    mask[10, 10] = mask[11, 11] = True
    values = np.zeros((20, 20))
    values[2, 2:4] = [5.0, 4.0]
    values[10, 10] = 3.0
    counts = PixelCounts(np.arange(6.0))
    counts.add(mask, values)
    # Two of 20 pixels are a tenth; two pixels that touch at a corner are one region, of which one is half.
    assert counts.regions == [Region(0, 20, 4.0), Region(0, 2, 3.0)]


def test_regions_of_one_image_count_together() -> None:
    apart = [Region(image, 1, float(image % 2)) for image in range(40)]
    together = [Region(row // 10, 1, float(row // 10 % 2)) for row in range(40)]
    one, other = share_found(apart, 0.5), share_found(together, 0.5)
    assert (one.value, other.value) == (0.5, 0.5)
    assert other.high - other.low > 2 * (one.high - one.low)
    every = share_found([Region(0, 1, 1.0), Region(0, 1, 1.0), Region(1, 1, 1.0)], 0.5)
    assert every.low < 0.5


def test_measures_that_are_undefined_are_none() -> None:
    counts = PixelCounts([0.0, 1.0])
    assert (counts.auroc(), counts.level()) == (None, None)
    counts.add(np.ones((3, 3)), np.ones((3, 3)))
    assert (counts.auroc(), counts.aupro(0.3), counts.level()) == (None, None, None)
    counts.add(np.zeros((3, 3)), np.zeros((3, 3)))
    assert counts.auroc(images=[1]) is None
    found = counts.auroc()
    assert found is not None
    assert found.value == 1
    with pytest.raises(ValueError, match=r"mask of shape \(2, 2\) and a map of shape \(3, 3\)"):
        counts.add(np.zeros((2, 2)), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="1 of 4 values of a map are NaN"):
        counts.add(np.zeros((2, 2)), [[1, 2], [3, np.nan]])
