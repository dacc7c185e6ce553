"""Usual values of maps, and the three parts of the statistic ``joint``, compared with worked examples."""

import numpy as np
import pytest

from nelbo.vae_core.usual import POOLED_IMAGES, learn_usual


def test_each_image_is_standardised_by_the_others(random: np.random.Generator) -> None:
    maps = random.gamma(2.0, size=(30, 3, 4))
    usual, parts = learn_usual(maps, side=1)
    peaks, worst, means = [], [], []
    for i in range(30):
        others = np.delete(maps, i, axis=0)
        variance = others.var(axis=0)
        pooled = (29 * variance + POOLED_IMAGES * variance.mean()) / (29 + POOLED_IMAGES)
        z = np.sort(((maps[i] - others.mean(axis=0)) / np.sqrt(pooled)).ravel())
        peaks.append(z[-1])
        # The worst tenth of twelve positions is one position.
        worst.append(z[-1:].mean())
        means.append(z.mean())
    np.testing.assert_allclose(parts.peak, peaks, rtol=1e-4)
    for found, raw in ((parts.peak_z, peaks), (parts.worst_z, worst), (parts.mean_z, means)):
        spread = 1.4826 * np.median(np.abs(raw - np.median(raw)))
        np.testing.assert_allclose(found, (raw - np.median(raw)) / spread, atol=1e-3)
    np.testing.assert_allclose(parts.joint, parts.peak_z + parts.worst_z + parts.mean_z)
    # New images are standardised by all training images.
    np.testing.assert_allclose(usual.mean, maps.mean(axis=0), rtol=1e-5)
    assert usual.statistics is not None
    np.testing.assert_allclose(usual.statistics[:, 0], [np.median(raw) for raw in (peaks, worst, means)], rtol=1e-3)


def test_an_outlier_does_not_hide_itself() -> None:
    """If it counted among the others, no z-score of n images could exceed (n - 1) / sqrt(n)."""
    maps = np.random.default_rng(0).normal(size=(20, 2, 2))
    maps[7] += 100
    _, parts = learn_usual(maps, side=1)
    assert parts.peak[7] > 19 / np.sqrt(20) * 2
    assert parts.joint.argmax() == 7


@pytest.mark.parametrize("value", [0.0, -3.5])
def test_equal_maps_have_no_spread(value: float) -> None:
    usual, parts = learn_usual(np.full((12, 3, 3), value), side=3)
    assert (usual.std > 0).all()
    assert np.isfinite(parts.joint).all()


def test_new_images_are_standardised_by_the_normal_ones() -> None:
    """If only one position is unusual, it is the peak, and shifts the means by its share."""
    random = np.random.default_rng(3)
    usual, _ = learn_usual(random.normal(5.0, 2.0, (400, 4, 4)), side=1)
    maps = np.stack([usual.mean, usual.mean])
    maps[1, 2, 1] += 6 * usual.std[2, 1]
    parts = usual.parts(maps, side=1)
    assert usual.statistics is not None
    (peak, peak_spread), (worst, worst_spread), (mean, mean_spread) = usual.statistics
    np.testing.assert_allclose(parts.peak, [0, 6], atol=1e-5)
    np.testing.assert_allclose(parts.peak_z, [-peak / peak_spread, (6 - peak) / peak_spread], rtol=1e-5)
    # The worst tenth of 16 positions is two positions.
    np.testing.assert_allclose(parts.worst_z, [-worst / worst_spread, (3 - worst) / worst_spread], rtol=1e-5)
    np.testing.assert_allclose(parts.mean_z, [-mean / mean_spread, (6 / 16 - mean) / mean_spread], rtol=1e-5)
    with pytest.raises(ValueError, match="no joint"):
        usual._replace(statistics=None).parts(maps, side=1)
