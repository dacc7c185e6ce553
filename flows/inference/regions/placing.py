"""Placing a map on its picture."""

import cv2
import numpy as np
from numpy.typing import NDArray

from nelbo.data import Part, Preprocessing
from nelbo.data.part.part import crop_matrix


def placed(
    level: NDArray[np.float32],
    shape: tuple[int, int],
    part: Part | None,
    preprocessing: Preprocessing,
    rows: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    """A map enlarged to its picture: bilinear between the centres of its cells, the nearest value beyond them.

    Where the model does not look, all is usual: around a part, beyond a crop, in ignored places. Except for rounding,
    no value lies outside of the map's own range.

    Args:
        level: (gh, gw) on the map's own grid; NaN where the model does not look.
        shape: (height, width) of the upright picture.
        part: what was found in it, where the model looks for parts.
        rows: the first row of the picture to return, and the one after the last; by default all.

    >>> placed(np.float32([[0, 1]]), (1, 4), None, Preprocessing(1, 2))[0].tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    height, width = shape
    first, end = rows or (0, height)
    border = cv2.BORDER_REPLICATE
    if part is not None and preprocessing.frame is not None:
        border = cv2.BORDER_CONSTANT
        size = (preprocessing.height, preprocessing.width)
        # From the picture to the crop; the origin of both is the centre of the first pixel.
        matrix = cv2.invertAffineTransform(crop_matrix(part, preprocessing.frame, size, shape))
    else:
        left, upper, right, lower = preprocessing.part_filled(width, height)
        across, down = (right - left) / width, (lower - upper) / height
        matrix = np.array([[across, 0, left + across / 2 - 0.5], [0, down, upper + down / 2 - 0.5]])
    across, down = level.shape[1] / preprocessing.width, level.shape[0] / preprocessing.height
    on_grid = matrix * np.array([[across], [down]])
    on_grid[:, 2] += [across / 2 - 0.5, down / 2 - 0.5]
    on_grid[:, 2] += first * on_grid[:, 1]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(np.nan_to_num(level, nan=0.0), on_grid, (width, end - first), flags=flags, borderMode=border)
