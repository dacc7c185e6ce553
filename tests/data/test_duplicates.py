"""The same picture in other bytes is found, and no two pictures of one kind are taken for one."""

import io

import numpy as np
import pytest
from PIL import Image
from synthetic import texture

import nelbo.data.duplicates
from nelbo.data import CachedPixels, near_duplicates


def cached(images: list[np.ndarray]) -> CachedPixels:
    return CachedPixels(np.stack(images)[..., None], np.arange(len(images)))


def encoded_again(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def test_copies_are_found_and_others_are_not(random: np.random.Generator) -> None:
    images = [texture(random) for _ in range(40)]
    copies = [encoded_again(images[3], 95), images[7], encoded_again(images[3], 98)]
    found = near_duplicates(cached([*images, *copies]))
    assert found == [(3, 40), (3, 42), (7, 41), (40, 42)]


def test_every_pair_is_as_a_loop_finds_it(random: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across chunks, with sides that are no multiple of the blocks' number, in 16 bits."""
    monkeypatch.setattr(nelbo.data.duplicates, "_CHUNK", 7)
    images = random.integers(0, 65_536, (25, 20, 37), dtype=np.uint16)
    images[20:] = np.clip(images[:5] + random.normal(0, 300, (5, 20, 37)), 0, 65_535)
    rows, columns = (np.linspace(0, side, 16, endpoint=False).astype(int) for side in (20, 37))
    blocks = [
        [block.mean() / 257 for band in np.split(image, rows[1:]) for block in np.split(band, columns[1:], axis=1)]
        for image in images
    ]
    expected = [
        (i, j)
        for i in range(25)
        for j in range(i + 1, 25)
        if np.sqrt(np.mean(np.subtract(blocks[i], blocks[j]) ** 2)) <= 1
    ]
    assert near_duplicates(cached(list(images))) == expected == [(i, i + 20) for i in range(5)]


def test_few_and_many(random: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = CachedPixels(np.empty((0, 8, 8, 1), np.uint8), np.arange(0))
    assert near_duplicates(empty) == []
    same = cached([texture(random)] * 3)
    assert near_duplicates(same) == [(0, 1), (0, 2), (1, 2)]
    monkeypatch.setattr(nelbo.data.duplicates, "MAX_COMPARED", 2)
    assert near_duplicates(same) == [(0, 1)]
