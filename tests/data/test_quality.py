"""The look of images, compared with the same measures in 64 bits by other formulae."""

import numpy as np
import pytest
from scipy.ndimage import laplace

from nelbo.data.quality import image_quality, part_quality


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(4, 64, 40, 1), (3, 33, 20, 3), (5, 320, 400, 1)])
def test_measures_equal_those_of_other_libraries(
    shape: tuple[int, ...], dtype: type, random: np.random.Generator
) -> None:
    for pixels in (random.random(shape), 0.5 + 0.01 * random.random(shape)):
        found = image_quality(pixels.astype(dtype))
        grey = pixels.mean(axis=3)
        inner = np.stack([laplace(one)[1:-1, 1:-1] for one in grey])
        np.testing.assert_allclose(found["brightness"], grey.mean(axis=(1, 2)), rtol=1e-6)
        np.testing.assert_allclose(found["contrast"], grey.std(axis=(1, 2)), rtol=1e-4)
        np.testing.assert_allclose(found["sharpness"], inner.std(axis=(1, 2)), rtol=1e-4)


def test_an_image_of_one_grey_has_no_contrast() -> None:
    found = image_quality(np.full((2, 50, 40, 1), 0.7, np.float32))
    assert found["contrast"].max() < 1e-6
    assert found["sharpness"].max() < 1e-6


def test_no_images_have_no_measures() -> None:
    """As when no file could be read."""
    assert {len(values) for values in image_quality(np.empty((0, 8, 8, 1), np.float32)).values()} == {0}
    assert {len(values) for values in part_quality([]).values()} == {0}
