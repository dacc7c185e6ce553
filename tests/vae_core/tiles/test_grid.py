"""Where tiles lie, and how their values become one map of the image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nelbo.vae_core.tiles.grid import Cut, Grid, axis

TILE = 64

sides = st.integers(TILE, 400)
overlaps = st.integers(0, TILE // 2)


def laid(grid: Grid, tile: int, value: np.ndarray) -> np.ndarray:
    """(t, g, g) the mean of the pixels that each position of each tile covers."""
    g = tile // 32
    cut = np.stack([value[top : top + tile, left : left + tile] for top, left in grid.origins])
    return cut.reshape(len(cut), g, 32, g, 32).mean(axis=(2, 4))


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "expected"),
    [
        (256, 256, 32, (0,)),
        (257, 256, 32, (0, 1)),
        (480, 256, 32, (0, 224)),
        (481, 256, 32, (0, 224, 225)),
        (4096, 256, 32, (*range(0, 3840, 224), 3840)),
        (128, 64, 0, (0, 64)),
    ],
)
def test_the_last_tile_is_shifted_inwards(length: int, tile: int, overlap: int, expected: tuple[int, ...]) -> None:
    assert axis(length, tile, overlap).origins == expected


def test_a_side_shorter_than_a_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="a side of 63 px is shorter than a tile of 64 px"):
        axis(63, 64, 8)


def test_the_weights_of_positions_have_known_values() -> None:
    # A side of 100 pixels has tiles at 0 and 36, three cells of 33 1/3, and positions at 0, 32, 36 and 68.
    found = axis(100, 64, 8).cells * 100 / 3
    third = 100 / 3
    cover = np.array([[32, third - 32, 0, 0], [0, 64 - third, 2 * third - 36, 0], [0, 0, 68 - 2 * third, 32]])
    expected = cover / cover.sum(axis=1, keepdims=True) * third
    assert axis(100, 64, 8).origins == (0, 36)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@given(height=sides, width=sides, overlap=overlaps)
def test_tiles_cover_the_image_and_a_constant_stays_constant(height: int, width: int, overlap: int) -> None:
    grid = Grid((height, width), TILE, overlap)
    seen = np.zeros((height, width), bool)
    for top, left in grid.origins:
        assert 0 <= top <= height - TILE
        assert 0 <= left <= width - TILE
        seen[top : top + TILE, left : left + TILE] = True
    assert seen.all()
    assert len(grid) == len(grid.origins)
    np.testing.assert_allclose(grid.rows.cells.sum(axis=1), 1)
    maps = np.full((len(grid), TILE // 32, TILE // 32), 7.0)
    found = grid.stitched(maps)
    assert found.shape == grid.shape == (round(height / 32), round(width / 32))
    np.testing.assert_allclose(found, 7)


@given(height=sides, width=sides, overlap=overlaps, data=st.data())
def test_a_spot_stays_at_its_place(height: int, width: int, overlap: int, data: st.DataObject) -> None:
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    image = np.zeros((height, width))
    image[y, x] = 1
    grid = Grid((height, width), TILE, overlap)
    found = grid.stitched(laid(grid, TILE, image))
    rows, columns = grid.shape
    gy, gx = np.unravel_index(found.argmax(), found.shape)
    # The middle of the brightest cell is at most one position and half a cell away.
    assert abs((gy + 0.5) * height / rows - y) <= 32 + 24
    assert abs((gx + 0.5) * width / columns - x) <= 32 + 24
    assert found.min() >= 0


def test_a_slope_stays_a_slope() -> None:
    # Cells and positions coincide, so nothing is blurred, and the expected map needs no tiles.
    image = np.add.outer(np.arange(320.0), 3 * np.arange(512.0))
    grid = Grid(image.shape, TILE, 32)
    expected = image.reshape(10, 32, 16, 32).mean(axis=(1, 3))
    np.testing.assert_allclose(grid.stitched(laid(grid, TILE, image)), expected)


def test_a_long_strip_has_tiles_to_its_end() -> None:
    grid = Grid((300, 20_000), 256, 32)
    assert len(grid.columns.origins) == 90
    assert grid.rows.origins == (0, 44)
    assert grid.columns.origins[-1] == 20_000 - 256
    assert grid.shape == (9, 625)


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65_535), (np.float32, 1)])
def test_tiles_are_cut_as_they_are_read(dtype: type, white: int) -> None:
    levels = np.zeros((100, 70), dtype)
    levels[99, 69] = white
    grid = Grid(levels.shape, 64, 8)
    cut = Cut(levels, grid, 64, 1)
    assert (len(cut), cut.shape) == (4, (4, 64, 64, 1))
    last = cut[3:]
    assert (last.dtype, last.shape) == (np.float32, (1, 64, 64, 1))
    assert (last[0, 63, 63, 0], last.sum()) == (1, 1)
    assert not cut[:3].any()
    # A grey image has equal channels for a model in colour.
    assert Cut(levels, grid, 64, 3)[3:4].sum() == 3
