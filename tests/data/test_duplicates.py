"""Pictures of one thing are matched despite other light and compression; pictures of two things are not."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from synthetic import texture

import nelbo.data.duplicates
from nelbo.data import CachedPixels, near_duplicates


def cached(images: list[np.ndarray]) -> CachedPixels:
    return CachedPixels(np.stack(images)[..., None], np.arange(len(images)))


def encoded_again(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def lit(image: np.ndarray, gain: float, random: np.random.Generator) -> np.ndarray:
    """The same picture with the lamp elsewhere, and with noise of the camera."""
    height, width = image.shape
    slope = np.linspace(0.8, 1.2, width)[None] * np.linspace(1.1, 0.9, height)[:, None]
    return np.clip(gain * slope * image + random.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def test_copies_are_found_and_other_images_are_not(random: np.random.Generator) -> None:
    images = [texture(random) for _ in range(40)]
    copies = [encoded_again(images[3], 80), images[7], encoded_again(images[3], 98)]
    assert near_duplicates(cached([*images, *copies])) == [*range(40), 3, 7, 3]


def test_views_under_other_light_are_found(random: np.random.Generator) -> None:
    parts = [texture(random) for _ in range(30)]
    views = [lit(part, gain, random) for part in parts for gain in (0.5, 0.8, 1.1, 1.4)]
    found = near_duplicates(cached(views))
    assert found == [i // 4 for i in range(120)]


def test_a_common_background_makes_no_duplicates(random: np.random.Generator) -> None:
    """One product on one background, under changing light: the images differ only in noise."""
    product = 0.6 * texture(random) + 40
    images = [lit(product, gain, random) for gain in random.uniform(0.7, 1.1, 60)]
    assert near_duplicates(cached(images)) == list(range(60))


def test_kinds_of_a_product_are_no_duplicates(random: np.random.Generator) -> None:
    """Two kinds, each with its own outline; each image has a faint texture of its own."""
    bars = [128 + 60 * np.sign(np.sin(np.arange(64) / width))[:, None] * np.ones((64, 64)) for width in (3, 5)]

    def grain() -> np.ndarray:
        return gaussian_filter(random.normal(0, 60, (64, 64)), 1)

    images = [np.clip(bars[i % 2] + grain(), 0, 255).astype(np.uint8) for i in range(200)]
    sizes = Counter(near_duplicates(cached(images)))
    assert max(sizes.values()) == 1


def test_chunks_types_and_sizes_change_no_duplicates(
    random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for sides that are no multiple of the reduced picture's, for 16 bits, and for colour."""
    images = random.integers(0, 60_000, (25, 40, 37, 3), dtype=np.uint16)
    images[20:] = images[:5] + random.integers(0, 3_000, (5, 40, 37, 3), dtype=np.uint16)
    expected = [*range(20), *range(5)]
    assert near_duplicates(CachedPixels(images, np.arange(25))) == expected
    monkeypatch.setattr(nelbo.data.duplicates, "_CHUNK", 7)
    assert near_duplicates(CachedPixels(images, np.arange(25))) == expected
    assert near_duplicates(CachedPixels((images // 257).astype(np.uint8), np.arange(25))) == expected


def test_few_many_and_blank_images_are_handled(random: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert near_duplicates(CachedPixels(np.empty((0, 8, 8, 1), np.uint8), np.arange(0))) == []
    assert near_duplicates(cached([texture(random)])) == [0]
    # Blank images show nothing to compare.
    assert near_duplicates(cached([np.full((32, 32), 7, np.uint8)] * 3)) == [0, 1, 2]
    image = texture(random)
    many = cached([*(texture(random) for _ in range(20)), image, image, image])
    assert near_duplicates(many)[20:] == [20, 20, 20]
    monkeypatch.setattr(nelbo.data.duplicates, "MAX_COMPARED", 22)
    assert near_duplicates(many)[20:] == [20, 20, 21]
