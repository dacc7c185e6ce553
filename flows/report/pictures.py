"""Pictures of flagged images for a page that holds everything itself, as data URLs."""

import base64
import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nelbo.data import File, ImageError, Limits, Preprocessing, read_thumbnail
from nelbo.flows.inference.heatmap import overlay, uncover
from nelbo.flows.inference.pipeline import Look

#: Longest side of a picture.
SIDE_PX = 192
_QUALITIES = (85, 70, 50, 30, 10)


class Pictures(NamedTuple):
    """Data URLs of one image, all of the shape of the upright original; empty where the file is gone.

    A model of features reconstructs no image: that one is empty, then.

    Of a file that is gone the heatmap is left, in the shape of the model's input.
    """

    original: str = ""
    reconstruction: str = ""
    heatmap: str = ""
    overlay: str = ""


def picture(
    file: File, look: Look | None, heatmap_png: bytes | None, preprocessing: Preprocessing, limits: Limits, n_bytes: int
) -> Pictures:
    """The pictures of one flagged image.

    Args:
        file: the image.
        look: what the model makes of it; None if it cannot be read any more.
        heatmap_png: as in the flagged rows.
        preprocessing: how the image became the model's input.
        limits: on decoding.
        n_bytes: that each picture should take at most.
    """
    original = _thumbnail(file, limits) if look else None
    heatmap = Image.open(io.BytesIO(heatmap_png)) if heatmap_png else None
    if look is None or original is None:
        return Pictures(heatmap=jpeg_url(heatmap, n_bytes) if heatmap else "")
    shown = {"original": original}
    if look.reconstruction is not None:
        shown["reconstruction"] = uncover(as_picture(look.reconstruction), original, preprocessing)
    if heatmap:
        shown["heatmap"] = uncover(heatmap, original, preprocessing)
        shown["overlay"] = overlay(original, heatmap, preprocessing)
    return Pictures(**{name: jpeg_url(made, n_bytes) for name, made in shown.items()})


def jpeg_url(shown: Image.Image, n_bytes: int) -> str:
    """A picture as a JPEG of the best of a few qualities that keeps it within so many bytes."""
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        shown.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= n_bytes:
            break
    return data_url("image/jpeg", buffer.getvalue())


def data_url(kind: str, content: bytes) -> str:
    """A URL that holds what it stands for.

    >>> data_url("text/plain", b"hello")
    'data:text/plain;base64,aGVsbG8='
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _thumbnail(file: File, limits: Limits) -> Image.Image | None:
    try:
        return Image.open(io.BytesIO(read_thumbnail(file, SIDE_PX, limits)))
    except ImageError:
        return None


def as_picture(pixels: NDArray[np.floating]) -> Image.Image:
    """(h, w, c) in [0, 1] as an 8-bit picture."""
    values = (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
