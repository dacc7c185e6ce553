"""What people give a scikit-learn estimator as X, read as images: paths, arrays, rows of features."""

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nelbo.detectors.scale import learn_scale

#: Network inputs have sides of at least and at most this many pixels.
MIN_SIDE_PX, MAX_SIDE_PX = 16, 1024


_SHAPES = "X holds elements of different shapes: bring images to one shape, or give paths"


class Rows(NamedTuple):
    """How a row of features is read as an image.

    shape: (height, width, channels) that a row is read as.
    value_range: the numbers that become 0 and 1, values beyond are clipped; None reads them by their `Scale`.
    """

    shape: tuple[int, int, int]
    value_range: tuple[float, float] | None

    def images(self, rows: NDArray[Any]) -> NDArray[Any]:
        """(n, height, width, channels), uint8 or uint16 over their whole range, or numbers in [0, 1].

        >>> Rows((1, 2, 1), (-1.0, 1.0)).images(np.array([[0.0, 9.0]])).ravel().tolist()
        [0.5, 1.0]
        """
        if self.value_range is not None:
            low, high = self.value_range
            rows = np.clip((rows.astype(np.float64) - low) / (high - low), 0, 1).astype(np.float32)
        elif learn_scale(rows).white == 1:
            rows = np.clip(rows, 0, 1)
        return rows.reshape(-1, *self.shape)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of such an image for the network: its own, within what a network takes."""
        height, width = (min(max(side, MIN_SIDE_PX), MAX_SIDE_PX) for side in self.shape[:2])
        return height, width


def learn_rows(rows: NDArray[Any], size: tuple[int, int] | None, channels: int) -> Rows:
    """How to read rows of features as images, from those of fit.

    Args:
        rows: (n, n_features), finite.
        size: height and width; None for as square as the number of features allows.
        channels: of a pixel, whose values stand side by side.

    Raises:
        ValueError: the number of features does not fit size and channels.

    >>> learn_rows(np.array([[0.0, 4.0, 1.0, 2.0, 1.0, 2.0]]), None, channels=1)
    Rows(shape=(2, 3, 1), value_range=(-2.0, 6.0))
    >>> learn_rows(np.zeros((5, 784), np.uint8), None, channels=1)
    Rows(shape=(28, 28, 1), value_range=None)
    """
    n_features = rows.shape[1]
    n_pixels, left = divmod(n_features, channels)
    if size is None and left:
        raise ValueError(f"X has {n_features} features, which are not pixels of {channels} channels each")
    height, width = size or _squarest(n_pixels)
    if height * width * channels != n_features:
        raise ValueError(
            f"X has {n_features} features, but images of {height} x {width} pixels with {channels} channels have "
            f"{height * width * channels}. Set image_size to the height and width of the images in the rows, or to None"
        )
    return Rows((height, width, channels), _value_range(rows))


def as_paths(X: Any) -> list[Path] | None:  # noqa: N803 - scikit-learn's name
    """A list or one-dimensional array of paths as such; None for anything else.

    Raises:
        ValueError: X is a single path.

    >>> as_paths(["a.png", Path("b.png")]), as_paths([[0.5, 1.0]])
    ([PosixPath('a.png'), PosixPath('b.png')], None)
    """
    if isinstance(X, str | os.PathLike):
        raise ValueError(f"X is one path, {os.fspath(X)!r}: expected a list of paths, or an array")
    if not isinstance(X, list | tuple) and getattr(X, "ndim", None) != 1:
        return None
    items = list(X)
    if not items or not all(isinstance(item, str | os.PathLike) for item in items):
        return None
    return [Path(item) for item in items]


def stacked(X: Any) -> Any:  # noqa: N803
    """A list or one-dimensional object array of arrays as one array of their type; anything else as it is.

    Raises:
        ValueError: arrays of several types, which would lie on different scales, or of several shapes.

    >>> stacked([np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)]).dtype, stacked([[0.5, 1.0]])
    (dtype('uint8'), [[0.5, 1.0]])
    """
    if not isinstance(X, list | tuple) and not (getattr(X, "ndim", None) == 1 and X.dtype == object):
        return X
    items = list(X)
    if not items or not all(hasattr(item, "__array__") or hasattr(item, "__array_interface__") for item in items):
        return X
    arrays = [np.asarray(item) for item in items]
    if not all(array.ndim for array in arrays):
        return X
    types = sorted({array.dtype.newbyteorder("=").name for array in arrays})
    if len(types) > 1:
        raise ValueError(f"X holds arrays of {', '.join(types)}, which lie on different scales: bring them to one type")
    if len({array.shape for array in arrays}) > 1:
        raise ValueError(_SHAPES)
    return np.stack(arrays)


def native(values: NDArray[Any]) -> NDArray[Any]:
    """The same values in this machine's byte order."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def n_dimensions(X: Any) -> int:  # noqa: N803
    """Dimensions of an array or of nested lists.

    Raises:
        ValueError: images of different shapes.
    """
    if hasattr(X, "ndim"):
        return int(X.ndim)
    try:
        return np.asarray(X).ndim
    except ValueError as error:
        raise ValueError(_SHAPES) from error


def check_images(images: NDArray[Any]) -> NDArray[Any]:
    """Refuse an array that does not hold images of one shape."""
    if images.ndim not in (3, 4) or images.shape[3:] not in ((), (1,), (3,)):
        raise ValueError(
            f"X has shape {images.shape}: expected (n, height, width), or with a last axis of 1 or 3 channels, or rows "
            "of features"
        )
    return images


def as_size(image_size: Any) -> tuple[int, int] | None:
    """The parameter image_size as (height, width), or None.

    >>> as_size(32), as_size((24, 32)), as_size(None)
    ((32, 32), (24, 32), None)
    """
    if image_size is None:
        return None
    sides = image_size if isinstance(image_size, Iterable) and not isinstance(image_size, str) else (image_size,) * 2
    sides = tuple(sides)
    if len(sides) != 2 or not all(isinstance(side, int | np.integer) for side in sides):
        raise ValueError(f"image_size={image_size!r}: expected a whole number, (height, width) or None")
    return int(sides[0]), int(sides[1])


def _squarest(n_pixels: int) -> tuple[int, int]:
    height = next(side for side in range(math.isqrt(n_pixels), 0, -1) if n_pixels % side == 0)
    return height, n_pixels // height


def _value_range(rows: NDArray[Any]) -> tuple[float, float] | None:
    """The range seen with half of it to spare on both sides; None where the numbers are in [0, 1] already."""
    low, high = float(rows.min()), float(rows.max())
    if learn_scale(rows).white > 1 or (low >= 0 and high <= 1):
        return None
    spare = (high / 2 - low / 2) or max(0.5, abs(high) / 2)
    if not math.isfinite(3 * (high + spare)) or not math.isfinite(3 * (low - spare)):
        raise ValueError(f"X lies in [{low:g}, {high:g}], which is too wide for 64-bit numbers: scale it first")
    return low - spare, high + spare
