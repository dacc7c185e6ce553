"""Maps as pictures, on one colour scale for all images of a calibration, and brought back to the images' own shape."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nelbo.data import Frame, Preprocessing

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
_STOPS = np.linspace(0, 1, len(_INFERNO))

#: How much of the original the top of the scale hides.
OPACITY = 0.7


def colours(values: NDArray[np.floating], top: float) -> NDArray[np.uint8]:
    """Values as (..., 3) RGB: 0 and below is black, `top` and above pale yellow."""
    position = np.clip(values / top, 0, 1) if top > 0 else np.zeros_like(values)
    channels = [np.interp(position, _STOPS, _INFERNO[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def levels(heatmap: Image.Image) -> NDArray[np.float64]:
    """Where on the scale each pixel of a heatmap lies, (h, w): 0 is black, 1 pale yellow.

    >>> levels(Image.fromarray(colours(np.array([[0.0, 3.0, 6.0]]), top=6.0))).round(2).tolist()
    [[0.0, 0.5, 1.0]]
    """
    # Red, green and blue together rise all along the scale, so their sum says where on it a colour is.
    return np.interp(np.asarray(heatmap.convert("RGB"), float).sum(axis=-1), _INFERNO.sum(axis=1), _STOPS)


def overlay(
    original: Image.Image, heatmap: Image.Image, preprocessing: Preprocessing, opacity: float = OPACITY
) -> Image.Image:
    """The heatmap on its image, at the image's own size: the more unusual a place, the less of the image shows through.

    Args:
        original: upright, of mode L or RGB and any size.
        heatmap: as in ``heatmap_png``, one pixel for each of the model's input.
        preprocessing: how the image became that input.
        opacity: of the top of the scale, in [0, 1]; from there it falls linearly to 0.

    Returns:
        An RGB picture of the original's size.

    >>> heatmap = Image.fromarray(colours(np.array([[0.0, 0.0], [9.0, 9.0]]), top=9.0))
    >>> shown = overlay(Image.new("L", (40, 20), 128), heatmap, Preprocessing(2, 2), opacity=1.0)
    >>> shown.size, shown.getpixel((0, 0)), shown.getpixel((39, 19))
    ((40, 20), (128, 128, 128), (252, 255, 164))
    """
    opaque = Image.fromarray((255 * opacity * levels(heatmap)).round().astype(np.uint8))
    colour, mask = (uncover(picture, original, preprocessing) for picture in (heatmap.convert("RGB"), opaque))
    return Image.composite(colour, original.convert("RGB"), mask)


def uncover(picture: Image.Image, original: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """A picture of the model's input with the shape of the original: without padding, and not stretched.

    Where a part was looked for, it lies where the part does, on black.

    Args:
        picture: of the model's input size.
        original: upright, or a smaller copy.
        preprocessing: how the image became the model's input.
    """
    size = original.size
    if preprocessing.frame is None:
        return picture.resize(size, Image.Resampling.BILINEAR, preprocessing.part_filled(*size))
    return _put_back(picture, np.asarray(original), preprocessing.frame)


def _put_back(picture: Image.Image, original: NDArray[np.uint8], frame: Frame) -> Image.Image:
    # OpenCV takes a tenth of a second to load.
    import cv2

    from nelbo.data.part.part import crop_matrix, found_part

    shape = original.shape[:2]
    crop = np.asarray(picture)
    matrix = crop_matrix(found_part(original, frame), frame, crop.shape[:2], shape)
    return Image.fromarray(cv2.warpAffine(crop, matrix, shape[::-1], flags=cv2.INTER_LINEAR))


def heatmap_png(local_z: NDArray[np.floating], top: float) -> bytes:
    """An (h, w) map as PNG bytes, one pixel a value."""
    return png(Image.fromarray(colours(local_z, top)))


def png(picture: Image.Image) -> bytes:
    """A picture as PNG bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
