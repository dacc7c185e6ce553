"""Masks in the forms in which people store them, and which pixels they mark as defective."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nelbo.data import ImageError, Limits, iter_masks

DEFECT = np.zeros((4, 6), bool)
DEFECT[1:3, 2:5] = True


def palette(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask.astype(np.uint8) * 2, "P")
    # Black, an unused entry, and a dark and a light red, both of which mean a defect.
    image.putpalette([0, 0, 0, 9, 9, 9, 64, 0, 0, 255, 255, 255])
    image.putpixel((2, 1), 3)
    return image


def half_transparent(mask: np.ndarray) -> Image.Image:
    return Image.merge("LA", [Image.new("L", mask.shape[::-1], 255), Image.fromarray(mask.astype(np.uint8) * 255)])


@pytest.mark.parametrize(
    "stored",
    [
        lambda mask: Image.fromarray(mask),
        lambda mask: Image.fromarray(mask.astype(np.uint8) * 255),
        lambda mask: Image.fromarray(mask.astype(np.uint8) * 3),
        # Edges softened by a picture program.
        lambda mask: Image.fromarray(np.where(mask, 200, 100).astype(np.uint8)),
        lambda mask: Image.fromarray(mask.astype(np.uint16) * 65535),
        lambda mask: Image.fromarray(mask.astype(np.uint16) * 255),
        lambda mask: Image.fromarray(np.dstack([mask * 0, mask * 255, mask * 0]).astype(np.uint8)),
        palette,
        half_transparent,
    ],
)
def test_a_mask_says_where_the_defect_is(stored: Callable[[np.ndarray], Image.Image], tmp_path: Path) -> None:
    stored(DEFECT).save(tmp_path / "mask.png")
    (found,) = iter_masks([tmp_path / "mask.png"])
    assert np.array_equal(found, DEFECT)


def test_a_black_mask_marks_nothing_and_a_white_one_everything(tmp_path: Path) -> None:
    for name, value in (("black", 0), ("white", 255)):
        Image.new("L", (9, 5), value).save(tmp_path / f"{name}.png")
    black, white = iter_masks([tmp_path / "black.png", tmp_path / "white.png"])
    assert not isinstance(black, ImageError)
    assert not isinstance(white, ImageError)
    assert (black.shape, black.any(), white.all()) == ((5, 9), False, True)


def test_a_file_that_is_no_mask_has_a_reason(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (20, 20), 255).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:60])
    (tmp_path / "text.png").write_text("no picture")
    Image.new("L", (50, 50)).save(tmp_path / "large.png")
    (tmp_path / "link.png").symlink_to("large.png")
    names = [tmp_path / f"{name}.png" for name in ("cut", "text", "large", "link")]
    found = list(iter_masks(names, limits=Limits(pixels=2000)))
    assert [isinstance(one, ImageError) and one.reason for one in found] == [
        *("truncated", "not_an_image", "too_large", "unreadable")
    ]
