"""Real images for benchmarks, read where their packages put them; none is part of nelbo.

ELPV: ``pip install elpv-dataset`` (CC BY-NC-SA 4.0, evaluation only). Fashion-MNIST: Debian's
``dataset-fashion-mnist`` (MIT).
"""

import gzip
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from data import Preprocessing, read_images

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
VALIDATION_SHARE = 0.15


class Dataset(NamedTuple):
    """Pixels (n, h, w, 1) float32 in [0, 1]; labels 0 normal, 1 anomalous; groups name the kinds of test images."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    groups: np.ndarray


def elpv(side: int = 64) -> Dataset:
    """Solar cells: 1,131 normal ones for training, 377 and 715 defective ones (probability 1) for testing.

    Source: Deitsch et al. 2019; the split is the one of KDAD's evaluation (`train_test_split`, a quarter, seed 42).
    """
    root = _elpv_root()
    table = pd.read_csv(root / "labels.csv", sep=r"\s+", names=["path", "probability", "type"])
    normals = table.index[table["probability"] == 0].to_numpy()
    train, test = train_test_split(normals, test_size=0.25, random_state=42)
    test = np.concatenate([test, table.index[table["probability"] == 1]])
    images = read_images([root / path for path in table["path"]], Preprocessing(side, side))
    pixels, validation = _part(images.pixels[train])
    labels = (table["probability"] == 1).astype(int).to_numpy()
    return Dataset(pixels, validation, images.pixels[test], labels[test], table["type"].to_numpy()[test])


def elpv_files() -> list[Path]:
    """All 2,624 solar cells, PNG of 300 x 300 grey pixels."""
    return sorted((_elpv_root() / "images").glob("*.png"))


def repeated_elpv(n: int, folder: Path) -> Path:
    """So many solar cells, a thousand a folder: names of the same contents where the file system allows it."""
    sources = elpv_files()
    # Spread over the whole set, in which cells of a kind stand together.
    order = np.random.default_rng(0).permutation(len(sources))
    for i in range(n):
        source, target = sources[order[i % len(sources)]], folder / f"{i // 1000:03d}" / f"{i:06d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(source)
        except OSError:
            target.write_bytes(source.read_bytes())
    return folder


def fashion_mnist(normal: int) -> Dataset:
    """Clothes of 28 x 28 pixels: one class's training images are normal, all 10,000 test images are judged."""
    train, train_labels = _idx("train-images-idx3"), _idx("train-labels-idx1")
    test, test_labels = _idx("t10k-images-idx3"), _idx("t10k-labels-idx1")
    pixels, validation = _part(_unit(train[train_labels == normal]))
    return Dataset(pixels, validation, _unit(test), (test_labels != normal).astype(int), test_labels)


def _elpv_root() -> Path:
    return Path(str(files("elpv_dataset") / "data"))


def _part(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(0).permutation(len(pixels))
    n_validation = int(np.ceil(VALIDATION_SHARE * len(pixels)))
    return pixels[order[n_validation:]], pixels[order[:n_validation]]


def _idx(name: str) -> np.ndarray:
    with gzip.open(FASHION_MNIST / f"{name}-ubyte.gz") as file:
        content = file.read()
    n_axes = content[3]
    shape = np.frombuffer(content, ">u4", n_axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_axes).reshape(shape)


def _unit(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., None] / np.float32(255)
