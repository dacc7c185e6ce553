"""Pictures of products that a folder may mix: stripes, dots and a wedge, each a little displaced and with grain."""

from pathlib import Path

import numpy as np
from PIL import Image

#: Side of a picture, in pixels.
SIDE = 64


def product(kind: str, random: np.random.Generator, spot: bool = False) -> np.ndarray:
    """(64, 64, 1) picture in [0, 1] of "stripes", "dots" or a "wedge", with a bright spot on request."""
    y, x = np.mgrid[:SIDE, :SIDE] + random.normal(0, 0.4, (2, 1, 1))
    shape = {
        "stripes": 0.5 + 0.2 * np.sin(2 * np.pi * x / 16),
        "dots": 0.5 - 0.4 * (np.sin(np.pi * x / 16) * np.sin(np.pi * y / 16)) ** 4,
        "wedge": 0.3 + 0.5 / (1 + np.exp(np.abs(x - 32) - y / 2)),
    }[kind]
    picture = shape + random.normal(0, 0.02, (SIDE, SIDE))
    if spot:
        top, left = random.integers(16, 40, 2)
        picture[top : top + 8, left : left + 8] += 0.4
    return picture.clip(0, 1).astype(np.float32)[..., None]


def write_products(folder: Path, kind: str, n: int, seed: int, spot: bool = False) -> Path:
    """Write `n` PNG files of a product; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for i in range(n):
        levels = np.rint(product(kind, random, spot)[..., 0] * 255).astype(np.uint8)
        Image.fromarray(levels).save(folder / f"{'spot_' * spot}{kind}_{i:03d}.png")
    return folder
