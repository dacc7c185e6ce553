"""Maps in colours, on one scale for all images of a calibration."""

import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: The colour of each of 256 places on the scale: perceptually uniform, safe for the colour-blind.
_TABLE = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_INFERNO)[0, :, ::-1]


def colours(levels: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Places on the scale as (..., 3) RGB: 0 and below is black, 1 and above pale yellow."""
    return np.take(_TABLE, (np.clip(levels, 0, 1) * 255 + 0.5).astype(np.uint8), axis=0)


def enlarged(levels: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.float32]:
    """Places on the scale, interpolated linearly to the `size` of a picture, (width, height)."""
    picture = Image.fromarray(np.asarray(levels, np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


def png(picture: Image.Image) -> bytes:
    """A picture as PNG bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
