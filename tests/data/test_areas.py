"""Areas of pictures: pixels outside leave no trace, and the description in a bundle is checked as hostile input."""

import base64
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nelbo.data import ImageError, Preprocessing, image_of
from nelbo.data.area.area import MOST_SIDE, Area
from nelbo.data.area.looking import applied, hidden, ignored, kept_mask, outside


def packed(bits: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(np.packbits(bits.astype(bool)).tobytes())).decode()


@pytest.fixture
def mask(random: np.random.Generator) -> np.ndarray:
    """A mask with a ragged edge."""
    return np.asarray(random.random((24, 32)) < 0.3)


def test_a_mask_is_stored_exactly(mask: np.ndarray) -> None:
    area = Area(mask=kept_mask(mask))
    assert np.array_equal(ignored(area), mask)
    assert Preprocessing(area=area) == Preprocessing(**Preprocessing(area=area).to_dict())
    shares = outside(area)
    assert shares is not None
    assert shares.mean() == pytest.approx(mask.mean())


def test_a_large_mask_loses_no_ignored_pixel(random: np.random.Generator) -> None:
    large = np.zeros((MOST_SIDE + 700, 50), bool)
    large[random.integers(0, len(large), 40), random.integers(0, 50, 40)] = True
    area = Area(mask=kept_mask(large))
    found = ignored(area)
    assert found is not None
    assert found.shape == (MOST_SIDE, 50)
    assert hidden(area, large.shape)[large].all()
    # Few other pixels are hidden.
    assert hidden(area, large.shape).sum() <= 3 * large.sum()


@pytest.mark.parametrize("kind", ["grey", "colour", "deep", "deep colour"])
@pytest.mark.parametrize("crop", [None, (5, 3, 20, 16)])
def test_hidden_pixels_leave_no_trace(
    kind: str, crop: tuple[int, int, int, int] | None, mask: np.ndarray, random: np.random.Generator
) -> None:
    colours = (3,) if "colour" in kind else ()
    dtype: Any = np.uint16 if "deep" in kind else np.uint8
    area = Area(crop, None if crop is None else (64, 48), kept_mask(mask))
    prepared = Preprocessing(8, 8, 3, tile_scale=1.0, area=area)
    values = random.integers(0, 60, (48, 64, *colours), dtype)
    painted = values.copy()
    painted[hidden(area, (48, 64))] = np.iinfo(dtype).max
    one, other = (image_of(some, prepared) for some in (values, painted))
    assert np.array_equal(one.pixels, other.pixels)
    assert np.array_equal(one.wholes[0], other.wholes[0])
    # People see the whole image.
    assert not np.array_equal(one.overviews, other.overviews)
    assert one.aspects.tolist() == [64 / 48]


def test_ignored_pixels_have_the_mean_of_the_others() -> None:
    area = Area(mask=kept_mask(np.array([[True, False], [False, False]])))
    values = np.uint8([[[255, 255, 255], [10, 20, 30]], [[20, 40, 60], [30, 60, 90]]])
    (found,) = applied(area, [Image.fromarray(values)])
    assert np.asarray(found)[0, 0].tolist() == [20, 40, 60]
    assert np.array_equal(np.asarray(found)[1], values[1])


@pytest.mark.parametrize(("size", "fits"), [((640, 480), True), ((641, 480), True), ((480, 640), False)])
def test_a_mask_fits_only_pictures_of_its_shape(size: tuple[int, int], fits: bool, mask: np.ndarray) -> None:
    picture = [Image.new("L", size)]
    if fits:
        assert applied(Area(mask=kept_mask(mask)), picture)[0].size == size
    else:
        with pytest.raises(ImageError, match="480 x 640 px, and the mask, 32 x 24, has another shape"):
            applied(Area(mask=kept_mask(mask)), picture)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "a crop of pictures of one size, a mask, or both"),
        ({"crop": [0, 0, 4, 4]}, "a crop of pictures of one size"),
        ({"image": [4, 4], "mask": [1, 1, packed(np.ones(1))]}, "a crop of pictures of one size"),
        ({"crop": [0, 0, 4, 4], "image": [3, 9]}, "do not lie within images of 3 x 9"),
        ({"crop": [-1, 0, 4, 4], "image": [9, 9]}, "left and upper edge, width and height in pixels"),
        ({"crop": [0, 0, 4], "image": [9, 9]}, "left and upper edge"),
        ({"crop": [0, 0, 4.5, 4], "image": [9, 9]}, "left and upper edge"),
        ({"crop": [0, 0, True, 4], "image": [9, 9]}, "left and upper edge"),
        ({"mask": [0, 4, ""]}, "rows and columns"),
        ({"mask": [MOST_SIDE + 1, 4, ""]}, "rows and columns"),
        ({"mask": [4, 4, 7]}, "at most"),
        ({"mask": [4, 4, "not base64!"]}, "cannot be read"),
        ({"mask": [4, 4, base64.b64encode(b"not zlib").decode()]}, "cannot be read"),
        ({"mask": [4, 4, packed(np.ones(8))]}, "has 1 bytes of bits, expected 2"),
        # From a compression bomb, at most one byte too many is unpacked.
        ({"mask": [4, 4, packed(np.zeros(1 << 26, bool))]}, "has 3 bytes of bits, expected 2"),
        ({"mask": [4, 4, "A" * (1 << 21)]}, "at most 1048576 bytes"),
    ],
)
def test_an_impossible_area_in_a_bundle_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Area(**fields)
    with pytest.raises(ValueError, match=message):
        Preprocessing(area=fields)  # type: ignore[arg-type]
