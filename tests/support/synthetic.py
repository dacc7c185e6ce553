"""Synthetic images: normal ones share a texture, anomalous ones have a dark blot."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32


def texture(random: np.random.Generator, *, blot: bool = False) -> np.ndarray:
    """(32, 32) uint8: a grid with a random brightness and grain."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    picture = 150 + 30 * np.sin(rows / 2) + random.normal(0, 8) + random.normal(0, 4, (SIDE, SIDE))
    if blot:
        y, x = random.integers(8, SIDE - 8, 2)
        picture[(rows - y) ** 2 + (columns - x) ** 2 < 20] = 20
    return np.clip(picture, 0, 255).astype(np.uint8)


def write_images(folder: Path, n: int, seed: int, *, blot: bool = False) -> list[Path]:
    """Write n PNG files into a folder; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    paths = [folder / f"{'blot' if blot else 'tile'}_{seed}_{i:03d}.png" for i in range(n)]
    for path in paths:
        Image.fromarray(texture(random, blot=blot)).save(path)
    return paths


def write_list(path: Path, columns: str, rows: Iterable[Sequence[object]]) -> Path:
    """A table of images, as CSV without quotes."""
    path.write_text("\n".join([columns, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def write_plain(path: Path, value: int = 7) -> Path:
    """Write a small PNG of one value; make its folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (20, 10), value).save(path, "PNG")
    return path


def encoded(value: int, kind: str = "PNG") -> bytes:
    """The bytes of a small picture of one value; as BMP, all have the same length."""
    buffer = io.BytesIO()
    Image.new("L", (20, 10), value).save(buffer, kind)
    return buffer.getvalue()


def stripes(random: np.random.Generator, n: int) -> np.ndarray:
    """(n, 24, 20, 1) float32 images of one kind."""
    rows = np.arange(24)[None, :, None, None]
    level = random.normal(0.5, 0.05, (n, 1, 1, 1))
    grain = random.normal(0, 0.02, (n, 24, 20, 1))
    return np.clip(level + 0.2 * np.sin(rows) + grain, 0, 1).astype(np.float32)
