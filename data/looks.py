"""What an image looks like before any model, place by place: brightness, colour and detail in each cell of a grid."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

#: Cells on a side at most, and pixels on a side of a cell at least.
MOST_CELLS, LEAST_PX = 16, 4
#: Brightness and difference of neighbours, in [0, 1], below which ratios to them would be ratios to noise.
_DARK, _SMOOTH = 0.05, 1 / 255
#: OpenCV averages channels with it ten times as fast as NumPy's mean over the last of three axes.
_MEAN = np.full((1, 3), 1 / 3)

Plane = NDArray[np.float32]


class Look(NamedTuple):
    """What an image looks like.

    whole: of the image: the median of its cells, so that a defect in some of them changes it little.
    local: (gh, gw) of each cell, relative to the whole: another lamp or exposure changes all cells alike, and nothing
        here.

    The keys of both are ``brightness``, the mean, locally over that of the whole; ``detail``, the mean difference of
    neighbouring pixels over the brightness, high where a surface is rough, locally over that of the whole; and for
    colour images ``red_green`` and ``yellow_blue``, how much redder than green, and yellower than blue, over the
    brightness, locally less that of the whole.
    ``sharpness``, of the whole alone, is how much of the detail is as fine as a pixel: blur lowers it, and neither
    exposure nor contrast does.
    """

    whole: dict[str, float]
    local: dict[str, Plane]


def look_of(pixels: NDArray[np.floating]) -> Look:
    """What an image looks like as a whole, and on a grid.

    Args:
        pixels: (h, w, c) in [0, 1].

    >>> image = np.full((16, 16, 1), 0.5)
    >>> image[:4, :4] = 0.2
    >>> look = look_of(image)
    >>> look.whole["brightness"], [round(share, 2) for share in look.local["brightness"][0].tolist()]
    (0.5, [0.45, 1.0, 1.0, 1.0])
    """
    values = np.asarray(pixels, np.float32)
    height, width, channels = values.shape
    grid = tuple(min(MOST_CELLS, max(1, side // LEAST_PX)) for side in (width, height))

    def means(of_pixels: Plane) -> Plane:
        return np.asarray(cv2.resize(of_pixels, grid, interpolation=cv2.INTER_AREA), np.float32)

    grey = grey_of(values)
    brightness, detail = means(grey), means(_detail(grey))
    fine = means(np.abs(cv2.Laplacian(grey, cv2.CV_32F))) / (detail + _SMOOTH)
    light, roughness = _median(brightness), _median(detail)
    whole = {"brightness": light, "detail": roughness / (light + _DARK), "sharpness": _median(fine)}
    local = {
        "brightness": (brightness + _DARK) / (light + _DARK),
        "detail": (detail + _SMOOTH) / (roughness + _SMOOTH),
    }
    if channels == 3:
        red, green, blue = np.moveaxis(means(values), 2, 0)
        for name, colour in (("red_green", red - green), ("yellow_blue", (red + green) / 2 - blue)):
            colour = colour / (brightness + _DARK)
            whole[name] = _median(colour)
            local[name] = colour - whole[name]
    return Look(whole, local)


def grey_of(pixels: NDArray[np.floating]) -> NDArray[np.floating]:
    """The (h, w) mean of the channels of an (h, w, c) image.

    >>> grey_of(np.array([[[0.0, 0.5, 1.0]]])).tolist()
    [[0.5]]
    """
    return pixels[..., 0] if pixels.shape[2] == 1 else cv2.transform(pixels, _MEAN)


def _median(cells: Plane) -> float:
    return float(np.median(cells))


def _detail(grey: Plane) -> Plane:
    """(h, w) mean difference of each pixel from the next one in its row and in its column."""
    detail = np.zeros_like(grey)
    detail[:, :-1] = cv2.absdiff(grey[:, 1:], grey[:, :-1])
    detail[:-1] += cv2.absdiff(grey[1:], grey[:-1])
    detail /= 2
    return detail
