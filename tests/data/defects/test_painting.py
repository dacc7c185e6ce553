"""Defects painted on normal images: their place, size and strength."""

import numpy as np
import pytest

from nelbo.data.defects.painting import CONTRASTS, KINDS, OF_ITSELF, Defect, defects, paint, spread, usual_sizes
from nelbo.data.defects.shapes import Window, covered, ellipse
from nelbo.data.defects.subject import subject_of

FULL = (1.0, 1.0)


def textured(random: np.random.Generator, shape: tuple[int, ...] = (96, 128, 3)) -> np.ndarray:
    return np.clip(0.5 + 0.08 * random.standard_normal(shape), 0, 1).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [3.0, 12.0])
def test_a_defect_changes_only_its_surroundings(kind: str, size: float, random: np.random.Generator) -> None:
    image = textured(random)
    contrast = None if kind in OF_ITSELF else 5.0
    painted = paint(image, Defect(kind, size, contrast), FULL, random)
    changed = np.argwhere((painted.pixels != image).any(axis=-1))
    assert len(changed)
    place = np.array([painted.y, painted.x]) * image.shape[:2]
    # A blot has an uneven, soft edge, hence the margin.
    assert np.abs(changed + 0.5 - place).max() <= size + 2
    assert painted.pixels.dtype == np.float32
    assert painted.pixels.min() >= 0
    assert painted.pixels.max() <= 1


def test_a_shift_of_colour_keeps_the_brightness(random: np.random.Generator) -> None:
    image = np.full((64, 64, 3), 0.5, np.float32)
    painted = paint(image, Defect("colour", 10.0, 5.0), FULL, random).pixels
    np.testing.assert_allclose(painted.mean(axis=-1), 0.5, atol=1e-6)
    assert np.abs(painted - image).max() > 0.01


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_contrast_is_in_deviations_of_the_surroundings(contrast: float, random: np.random.Generator) -> None:
    image = textured(random, (128, 128, 1))
    changes = [
        np.abs(paint(image, Defect("spot", 12.0, contrast), FULL, random).pixels - image).max() for _ in range(20)
    ]
    # Pixels clipped at black or white change by less.
    assert np.median(changes) == pytest.approx(contrast * 0.08, rel=0.15)


def test_a_reduced_image_has_a_smaller_and_fainter_defect() -> None:
    """A disc 4 pixels wide, where 8 x 8 pixels become one: one pixel has a fifth of its contrast, or four share it."""
    grey = np.full((32, 32, 1), 0.5, np.float32)
    defect = Defect("spot", 4.0, 5.0)
    changes = [
        np.abs(paint(grey, defect, (1 / 8, 1 / 8), np.random.default_rng(seed)).pixels - grey) for seed in range(30)
    ]
    total = np.array([change.sum() for change in changes]) * 64
    full = np.array(
        [
            np.abs(
                paint(np.full((256, 256, 1), 0.5, np.float32), defect, FULL, np.random.default_rng(seed)).pixels - 0.5
            ).sum()
            for seed in range(30)
        ]
    )
    assert np.mean(total) == pytest.approx(np.mean(full), rel=0.15)
    assert max(change.max() for change in changes) < 0.25 * 5 * 2 / 255


def test_a_circle_covers_its_area() -> None:
    class Round(np.random.Generator):
        def uniform(self, low: float, high: float, size: None = None) -> float:  # type: ignore[override] # noqa: ARG002
            return high

    shape = ellipse(10.0, Round(np.random.PCG64(0)))
    place, scale = np.array([20.3, 30.7]), np.array([0.5, 0.5])
    window = Window.about(place, 10 * scale, (64, 64))
    share = covered(shape, window, place, scale, 5.0)
    assert share.sum() == pytest.approx(np.pi * 2.5**2, rel=0.03)
    assert share.max() == 1


def test_a_defect_lies_on_the_subject(random: np.random.Generator) -> None:
    image = np.full((96, 128, 1), 0.1, np.float32)
    image[30:60, 40:90] = textured(random, (30, 50, 1))
    subject = subject_of(image)
    assert subject is not None
    assert subject[35:55, 45:85].all()
    assert not subject[:20].any()
    for _ in range(20):
        painted = paint(image, Defect("stain", 6.0, 5.0), FULL, random, subject)
        assert 29 <= painted.y * 96 <= 61
        assert 39 <= painted.x * 128 <= 91


def test_a_texture_has_no_subject(random: np.random.Generator) -> None:
    assert subject_of(textured(random)) is None


def test_images_and_defects_are_used_equally_often(random: np.random.Generator) -> None:
    kinds = defects((4, 8), coloured=True)
    wanted = spread(30, kinds, 600, random)
    assert len(wanted) == 600
    images, defective = (list(column) for column in zip(*wanted, strict=True))
    assert np.ptp(np.bincount(images)) == 0
    assert np.ptp([defective.count(kind) for kind in kinds]) == 0
    # For few images no combination is used two times.
    assert len(spread(3, kinds, 600, random)) == 3 * len(kinds)


def test_the_same_seed_paints_the_same_defects() -> None:
    image = textured(np.random.default_rng(0))
    one, other = (paint(image, Defect("scratch", 9.0, 2.0), FULL, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one.pixels, other.pixels)


def test_tiny_images_have_defects_of_at_least_one_pixel() -> None:
    assert usual_sizes([(8, 8)]) == (1.0, 1.0, 2.0)
