"""Ignored places have no effect: moments, statistics and maps use only the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nelbo.vae_core import BundleError, VAEConfig, load_bundle, save_bundle, score, score_tiles, train, train_tiles
from nelbo.vae_core.seen import SeenPlaces, seen_in, seen_on
from nelbo.vae_core.tiles import fitting, scoring
from nelbo.vae_core.tiles.grid import Grid
from nelbo.vae_core.usual import learn_usual, smoothed_maps

PREPARED = {"area": {"mask": "some"}}
TILE, OVERLAP = 64, 8


def test_a_place_counts_if_less_than_half_of_it_is_ignored() -> None:
    outside = np.float32([[1, 1, 0, 0], [0, 0, 0, 0]])
    assert seen_on(outside, (1, 2)).tolist() == [[False, True]]
    assert seen_on(outside, (2, 1)).tolist() == [[False], [True]]
    # A grid finer than that of the shares.
    assert seen_on(outside, (4, 8))[:2].tolist() == [[False] * 4 + [True] * 4] * 2
    assert seen_in(outside, ([0.0], [0.5]), ([0.3, 0.1], [0.8, 0.6])).tolist() == [[True, False]]


def test_smoothed_places_are_means_of_those_that_count(random: np.random.Generator) -> None:
    outside = (random.random((6, 7)) < 0.3).astype(np.float32)
    places = SeenPlaces(outside, (6, 7))
    values = random.normal(size=(6, 7))
    found = places.smoothing(3) @ values.ravel()[places.numbers]
    padded = np.pad(np.where(places.seen, values, np.nan), 1, mode="symmetric")
    expected = [np.nanmean(padded[row : row + 3, column : column + 3]) for row, column in np.argwhere(places.seen)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_usual_values_are_those_of_places_that_count(random: np.random.Generator) -> None:
    maps = random.normal(5, 2, (30, 4, 5))
    seen = np.ones((4, 5), bool)
    seen[:, 3:] = False
    usual, parts = learn_usual(np.where(seen, maps, np.nan), 1)
    expected, same = learn_usual(maps[:, :, :3], 1)
    np.testing.assert_allclose(usual.mean[:, :3], expected.mean)
    np.testing.assert_allclose(usual.std[:, :3], expected.std)
    np.testing.assert_allclose(parts.joint, same.joint, rtol=1e-5)
    assert np.isfinite(usual.mean).all()
    assert np.isnan(smoothed_maps(np.where(seen, maps, np.nan), 3)).mean() == 0.4


def test_a_map_of_tiles_is_the_mean_of_positions_that_count() -> None:
    # Two tiles of 2 x 2 positions, the second shifted by one position.
    outside = np.float32([[0, 0, 1], [0, 0, 0]])
    grid = Grid((64, 96), TILE, 32, outside)
    assert grid.seen.tolist() == [[[True, True], [True, True]], [[True, False], [True, True]]]
    found = grid.stitched(np.array([[[1.0, 2.0], [3.0, 4.0]], [[6.0, 100.0], [8.0, 9.0]]]))
    np.testing.assert_allclose(found, [[1, 4, np.nan], [3, 6, 9]])


def test_an_image_of_ignored_tiles_is_refused() -> None:
    grid = Grid((64, 320), TILE, 0, np.float32([[0, 1, 1, 0, 1]]))
    assert grid.origins == [(0, 0), (0, 192)]
    assert (len(grid), grid.shape) == (2, (2, 10))
    found = grid.stitched(np.ones((2, 2, 2)))
    assert np.isfinite(found).tolist() == [[True, True, False, False, False, False, True, True, False, False]] * 2
    with pytest.raises(ValueError, match="all of an image is ignored"):
        Grid((64, 320), TILE, 0, np.float32([[1]]))


def test_tiles_that_are_ignored_are_not_computed(monkeypatch: pytest.MonkeyPatch, random: np.random.Generator) -> None:
    outside = np.float32([[1, 1, 0, 0]])
    images = random.integers(0, 256, (12, 64, 512), np.uint8)
    images[:, :, :256] = 128
    config = VAEConfig(TILE, TILE, backbone="filters", tile_overlap=0)
    cut: list[int] = []

    class Counted(fitting.Cut):
        def __getitem__(self, rows: slice) -> np.ndarray:
            found = super().__getitem__(rows)
            cut.append(len(found))
            return found

    for module in (fitting, scoring):
        monkeypatch.setattr(module, "Cut", Counted)
    folds = [number % 3 for number in range(12)]
    prepared = {"tile_scale": 1.0, **PREPARED}
    model = train_tiles(images, config, preprocessing=prepared, folds=folds, outside=outside).model
    assert sum(cut) == 12 * 4
    cut.clear()
    found, (nats,) = score_tiles(model, images[:1])
    assert sum(cut) == 4
    assert np.isnan(nats[:, :8]).all()
    assert np.isfinite(nats[:, 8:]).all()
    # The scores equal those of an image without the ignored half.
    other, (alone,) = score_tiles(
        train_tiles(images[:, :, 256:], config, preprocessing={"tile_scale": 1.0}, folds=folds).model,
        images[:1, :, 256:],
    )
    np.testing.assert_allclose(nats[:, 8:], alone, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(found.anomaly_score, other.anomaly_score, rtol=1e-3, atol=1e-2)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """(n, h, w, 1) images that share their left half."""
    found = np.random.default_rng(0).random((30, 128, 128, 1), np.float32)
    found[:, :, :64] = 0.5
    return found


OUTSIDE = np.float32([[1, 0]])


@pytest.mark.parametrize("head", ["linear", "linear_image"])
def test_statistics_are_of_places_that_count(head: str, images: np.ndarray, tmp_path: Path) -> None:
    config = VAEConfig(128, 128, backbone="filters", head=head)
    training = train(images, config=config, preprocessing=PREPARED, outside=OUTSIDE)
    assert training.model.usual_mean.shape == (1, 8)
    found = score(training.model, images[:4])
    assert found.anomaly_map is not None
    assert not found.anomaly_map[:, :, :24].any()
    np.testing.assert_allclose(found.anomaly_map.sum(axis=(1, 2)), found.distortion, rtol=1e-4)
    again = load_bundle(tmp_path / save_bundle(training.model, tmp_path))
    assert np.array_equal(score(again, images[:4]).anomaly_score, found.anomaly_score)


def test_a_bundle_that_does_not_agree_with_itself_is_refused(images: np.ndarray, tmp_path: Path) -> None:
    config = VAEConfig(128, 128, backbone="filters", head="linear")
    trained: dict[str, Any] = {"config": config, "outside": OUTSIDE}
    with pytest.raises(BundleError, match="do not agree on what is ignored"):
        load_bundle(tmp_path / save_bundle(train(images, **trained, preprocessing={}).model, tmp_path))


@pytest.mark.parametrize(
    ("outside", "config", "message"),
    [
        (np.float32([[1, 1]]), {"head": "linear"}, "all of the image is ignored"),
        (np.float32([[2, 0]]), {"head": "linear"}, "shares from 0 to 1"),
        (np.zeros((300, 2), np.float32), {"head": "linear"}, "at most 256"),
        (OUTSIDE, {"backbone": None, "preset": "conv_1x1x16"}, "only linear heads can leave places out"),
    ],
)
def test_impossible_masks_are_refused(
    outside: np.ndarray, config: dict[str, Any], message: str, images: np.ndarray
) -> None:
    with pytest.raises(ValueError, match=message):
        train(images, images, VAEConfig(128, 128, **{"backbone": "filters", **config}), outside=outside)
