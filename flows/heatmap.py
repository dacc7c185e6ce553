"""Maps as pictures, on one colour scale for all images of a model."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Nine evenly spaced colours of Matplotlib's "inferno": perceptually uniform, safe for the colour-blind.
_INFERNO = np.array(
    [
        (0, 0, 4),
        (32, 12, 74),
        (87, 16, 110),
        (138, 34, 106),
        (188, 55, 84),
        (227, 89, 51),
        (249, 142, 9),
        (249, 203, 53),
        (252, 255, 164),
    ],
    float,
)


def colours(values: NDArray[np.floating], top: float) -> NDArray[np.uint8]:
    """Values as (..., 3) RGB: 0 and below is black, `top` and above pale yellow."""
    position = np.clip(values / top, 0, 1) if top > 0 else np.zeros_like(values)
    stops = np.linspace(0, 1, len(_INFERNO))
    channels = [np.interp(position, stops, _INFERNO[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def heatmap_png(local_z: NDArray[np.floating], top: float) -> bytes:
    """An (h, w) map as PNG bytes, one pixel a value."""
    return png(Image.fromarray(colours(local_z, top)))


def png(picture: Image.Image) -> bytes:
    """A picture as PNG bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
