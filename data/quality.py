"""What images look like before any model: plain numbers in which a change of lamp, lens or camera shows."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nelbo.data.part.frame import Part

#: A slope is the nearest 16th of all values, and has at least so many for each that is cut off. So have most solar
#: cells that are exposed too little, and 1 in 20 of the clothes on black of Fashion-MNIST at most, of each kind.
_SLOPE, _LEAST_SLOPE = 16, 0.3


def image_quality(pixels: NDArray[np.floating]) -> dict[str, NDArray[np.float64]]:
    """Brightness, contrast and sharpness of each image, over the mean of its channels.

    Args:
        pixels: (n, h, w, c) in [0, 1], h and w at least 3.

    Returns:
        Each (n,): ``brightness``, the mean; ``contrast``, the standard deviation; ``sharpness``, the standard
        deviation of the Laplacian over the inner pixels, which blur lowers.

    Source: Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy", for the Laplacian.

    >>> step = np.repeat([0.0, 0.0, 1.0, 1.0], 4).reshape(1, 4, 4, 1)
    >>> {name: float(values[0]) for name, values in image_quality(step).items()}
    {'brightness': 0.5, 'contrast': 0.5, 'sharpness': 1.0}
    """
    values = np.asarray(pixels)
    # In 64 bits throughout, this would take a tenth of the time that scoring has.
    grey = values[..., 0] if values.shape[3] == 1 else values.mean(axis=3)
    brightness = grey.mean(axis=(1, 2), dtype=np.float64)
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1]
    laplacian += grey[:, 1:-1, :-2]
    laplacian += grey[:, 1:-1, 2:]
    laplacian -= 4 * grey[:, 1:-1, 1:-1]
    return {
        "brightness": brightness,
        "contrast": _deviation(grey, brightness),
        "sharpness": _deviation(laplacian, laplacian.mean(axis=(1, 2), dtype=np.float64)),
    }


def _deviation(values: NDArray[np.floating], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) standard deviation of (n, h, w) values about their means."""
    # Not -1: there may be no images.
    off = (values - means.astype(values.dtype)[:, None, None]).reshape(len(values), math.prod(values.shape[1:]))
    return np.sqrt(np.vecdot(off, off).astype(np.float64) / off.shape[1])


def cut_off(pixels: NDArray[np.uint8 | np.uint16]) -> NDArray[np.float64]:
    """Share of each image's values that lie at black or white because a sensor goes no farther.

    Light comes to such a limit on a slope: values just within it are not much rarer than those at it. A background that
    is plain black or white has no slope, and is not counted.

    Args:
        pixels: (n, h, w, c) over the whole range of their type.

    Returns:
        (n,) shares in [0, 1], of the two ends together.

    >>> slope, plain = np.arange(-32, 224).clip(0, 255), np.repeat([0, 128], 128)
    >>> cut_off(np.stack([slope, plain]).astype(np.uint8).reshape(2, 16, 16, 1)).round(2).tolist()
    [0.13, 0.0]
    """
    values = pixels.reshape(len(pixels), -1)
    top = int(np.iinfo(pixels.dtype).max)
    within = top // _SLOPE
    share = np.zeros(len(values))
    for at, near in ((values == 0, values <= within), (values == top, values >= top - within)):
        n_at = at.sum(axis=1)
        share += np.where(near.sum(axis=1) - n_at >= _LEAST_SLOPE * n_at, n_at, 0) / values.shape[1]
    return share


def part_quality(parts: Sequence[Part | None]) -> dict[str, NDArray[np.float64]]:
    """How the parts lie: a camera that moved shows in it.

    Returns:
        Each (n,), NaN where no part is looked for, or none was found: ``part_area``, over that of the training parts;
        ``part_x`` and ``part_y``, of its middle, shares of the picture's width and height; ``part_degrees``, that it
        was turned by.

    >>> {name: values.tolist() for name, values in part_quality([None]).items()}
    {'part_area': [nan], 'part_x': [nan], 'part_y': [nan], 'part_degrees': [nan]}
    """
    rows = [
        (np.nan,) * 4 if part is None or not part.area else (part.area, part.x, part.y, part.degrees) for part in parts
    ]
    columns = np.array(rows, np.float64).reshape(-1, 4).T
    return dict(zip(("part_area", "part_x", "part_y", "part_degrees"), columns, strict=True))
