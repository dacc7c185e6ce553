"""Pixels as they come: an array in memory, or whole-number rows of a file."""

import hashlib
import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class PixelRows(Protocol):
    """(n, h, w, c) images, read by row: a NumPy array, a memory map, or anything that acts like one.

    Their type is float (in [0, 1]), uint8 or uint16; the whole range of the latter two means [0, 1].
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, h, w, c)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values."""

    def __len__(self) -> int:
        """n."""

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """The images of a slice, or of an array of row numbers."""


def supported(pixels: NDArray[np.floating[Any]], likelihood: str) -> NDArray[np.bool_]:
    """(n,) whether each image has only values that a likelihood is defined for.

    Args:
        pixels: (n, h, w, c) in [0, 1].
        likelihood: one of `VAEConfig.likelihood`'s.

    >>> supported(np.array([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1), "bernoulli").tolist()
    [True, False, True]
    """
    if likelihood == "bernoulli":
        defined = (pixels == 0) | (pixels == 1)
    elif likelihood == "discretised_logistic":
        levels = pixels * np.float32(255)
        defined = np.abs(levels - np.rint(levels)) < 1e-3
    else:
        return np.ones(len(pixels), bool)
    return defined.all(axis=(1, 2, 3))


def to_unit(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """float32 in [0, 1].

    >>> to_unit(np.array([0, 51, 255], np.uint8)).tolist() == [0.0, np.float32(0.2), 1.0]
    True
    """
    if pixels.dtype.kind != "u":
        return pixels.astype(np.float32, copy=False)
    return (pixels / np.float32(np.iinfo(pixels.dtype).max)).astype(np.float32, copy=False)


def mean_and_std(images: PixelRows, n_at_a_time: int) -> tuple[float, float]:
    """Mean and standard deviation of all values of images, in [0, 1] units; read a few images at a time.

    >>> mean_and_std(np.array([0, 255, 255], np.uint8).reshape(3, 1, 1, 1), 2)
    (0.6666666666666666, 0.4714045207910317)
    """
    total = squares = 0.0
    for start in range(0, len(images), n_at_a_time):
        values = to_unit(images[start : start + n_at_a_time]).astype(np.float64)
        total += values.sum()
        squares += np.square(values).sum()
    n = math.prod(images.shape)
    mean = total / n
    return float(mean), math.sqrt(max(0.0, squares / n - mean**2))


def fingerprint(images: PixelRows, n_looked_at: int = 16) -> str:
    """A text that tells sets of images apart, made from their number and a few of them."""
    rows = np.linspace(0, len(images) - 1, n_looked_at).astype(int)
    return f"{len(images)}:{hashlib.sha256(images[rows].tobytes()).hexdigest()}"
