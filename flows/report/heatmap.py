"""Maps in colours, on one scale for all images of a calibration, by themselves and on their images."""

import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: The colour of each of 256 places on the scale: perceptually uniform, safe for the colour-blind.
_TABLE = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_INFERNO)[0, :, ::-1]

#: How much of the original the top of the scale hides.
OPACITY = 0.7


def colours(levels: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Places on the scale as (..., 3) RGB: 0 and below is black, 1 and above pale yellow."""
    return np.take(_TABLE, (np.clip(levels, 0, 1) * 255 + 0.5).astype(np.uint8), axis=0)


def enlarged(levels: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.float32]:
    """Places on the scale at the size of a picture, (width, height), linearly in between."""
    picture = Image.fromarray(np.asarray(levels, np.float32))
    return np.clip(np.asarray(picture.resize(size, Image.Resampling.BILINEAR)), 0, 1)


def overlay(
    original: Image.Image, heatmap: Image.Image, levels: NDArray[np.floating], opacity: float = OPACITY
) -> Image.Image:
    """A map on its image: the more unusual a place, the less of the image shows through.

    Args:
        original: of mode L or RGB and any size.
        heatmap: of that size, the colours of the levels.
        levels: (h, w) places on the scale.
        opacity: of the top of the scale, in [0, 1]; from there it falls linearly to 0.

    Returns:
        An RGB picture of the original's size.

    >>> levels = np.array([[0.0, 1.0]])
    >>> shown = overlay(Image.new("L", (2, 1), 128), Image.fromarray(colours(levels)), levels, opacity=1.0)
    >>> shown.getpixel((0, 0)), shown.getpixel((1, 0))
    ((128, 128, 128), (252, 255, 164))
    """
    mask = Image.fromarray((255 * opacity * levels).round().astype(np.uint8))
    return Image.composite(heatmap, original.convert("RGB"), mask)


def png(picture: Image.Image) -> bytes:
    """A picture as PNG bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
