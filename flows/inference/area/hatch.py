"""Hatching over the places of a picture that a model does not look at."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nelbo.data.area.area import Area
from nelbo.data.area.looking import hidden as hidden_in

#: From one stripe to the next: share of a picture's longer side, and the least in pixels; share that is a stripe.
_STEP, _LEAST_PX, _STRIPE = 1 / 24, 8, 0.35
#: How far hidden places fade to a grey, and stripes to a white: share and level of each.
_FADED, _GREY, _STRONG, _WHITE = 0.45, 96, 0.6, 235


def hatched(picture: Image.Image, area: Area | None) -> Image.Image:
    """A picture with diagonal stripes over what the model does not look at, which shows through them.

    Args:
        picture: a whole image, of any size, grey or in colour.
        area: that the model looks at; None is all of the image.

    >>> shown = hatched(Image.new("L", (64, 32), 0), Area(crop=(0, 0, 32, 32), image=(64, 32)))
    >>> values = np.asarray(shown)
    >>> int(values[:, :32].max()), int(values[:, 32:].min()) > 0, len(np.unique(values[:, 32:]))
    (0, True, 2)
    """
    if area is None:
        return picture
    shown = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
    values = np.asarray(shown, np.float32)
    hidden = hidden_in(area, values.shape[:2])
    faded = values + _FADED * (_GREY - values)
    striped = faded + _STRONG * (_WHITE - faded)
    stripes = _stripes(values.shape[:2])
    drawn = np.where(_over(stripes, values), striped, faded)
    return Image.fromarray(np.where(_over(hidden, values), drawn, values).round().astype(np.uint8))


def laid_whole(picture: Image.Image, area: Area | None) -> Image.Image:
    """What a model sees of an image, placed where it lies on the whole image; the rest is grey and hatched.

    Args:
        picture: of the area, of any size.
        area: that the model looks at; None is all of the image.

    >>> whole = laid_whole(Image.new("L", (32, 32), 7), Area(crop=(0, 0, 32, 32), image=(64, 32)))
    >>> whole.size, whole.getpixel((3, 3))
    ((32, 16), 7)
    """
    if area is None:
        return picture
    longer = max(picture.size)
    width, height = (longer / max(1, 1 / area.aspect), longer / max(1, area.aspect))
    whole = Image.new(picture.mode, (max(1, round(width)), max(1, round(height))), "grey")
    sides = (*whole.size, *whole.size)
    left, upper, right, lower = (round(edge * side) for edge, side in zip(area.box, sides, strict=True))
    whole.paste(picture.resize((max(1, right - left), max(1, lower - upper))), (left, upper))
    return hatched(whole, area)


def _stripes(shape: tuple[int, int]) -> NDArray[np.bool_]:
    step = max(_LEAST_PX, round(max(shape) * _STEP))
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((rows + columns) % step < _STRIPE * step)


def _over(plane: NDArray[np.bool_], values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """A plane (h, w), in a shape that broadcasts to values (h, w) or (h, w, c)."""
    return plane if values.ndim == 2 else plane[..., None]
