"""What images look like before any model: plain numbers in which a change of lamp, lens or camera shows."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from nelbo.data.looks import grey_of
from nelbo.data.part.frame import Part

#: A slope is the 16th of the range nearest to a limit, if it holds at least this many values for each that is cut off.
#: Most underexposed solar cells have one, and at most 1 in 20 images of each kind of clothes on black in Fashion-MNIST.
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
    rows = np.array([_quality(grey_of(image)) for image in np.asarray(pixels)], np.float64).reshape(-1, 3)
    return dict(zip(("brightness", "contrast", "sharpness"), rows.T, strict=True))


def _quality(grey: NDArray[np.floating]) -> tuple[float, float, float]:
    mean, deviation = cv2.meanStdDev(grey)
    _, sharpness = cv2.meanStdDev(cv2.Laplacian(grey, -1)[1:-1, 1:-1])
    return mean.item(), deviation.item(), sharpness.item()


def cut_off(pixels: NDArray[np.uint8 | np.uint16]) -> NDArray[np.float64]:
    """Share of each image's values that are black or white because the sensor has reached its limit.

    Light reaches such a limit on a slope: values just within it are not much rarer than those at it. A plain black or
    white background has no slope, and is not counted.

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
    """How the parts lie, which shows whether a camera has moved.

    Args:
        parts: the part found in each image; None where no part is looked for.

    Returns:
        Each (n,), NaN where no part is looked for, or none was found: ``part_area``, over that of the training parts;
        ``part_x`` and ``part_y``, of its middle, shares of the picture's width and height; ``part_degrees``, by which
        it was turned.

    >>> {name: values.tolist() for name, values in part_quality([None]).items()}
    {'part_area': [nan], 'part_x': [nan], 'part_y': [nan], 'part_degrees': [nan]}
    """
    rows = [
        (np.nan,) * 4 if part is None or not part.area else (part.area, part.x, part.y, part.degrees) for part in parts
    ]
    columns = np.array(rows, np.float64).reshape(-1, 4).T
    return dict(zip(("part_area", "part_x", "part_y", "part_degrees"), columns, strict=True))
