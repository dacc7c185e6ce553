"""Defects painted on normal images, to see what a model would miss; no backbone learns from these."""

from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nelbo.data.defects.shapes import Shape, Window, blot, covered, ellipse, rectangle, scratch

#: Kinds of defects: painted with a contrast, painted on colour images only, and made from the image itself.
WITH_CONTRAST, OF_COLOUR, OF_ITSELF = ("scratch", "spot", "stain"), ("colour",), ("cut_paste", "blur")
KINDS = (*WITH_CONTRAST, *OF_COLOUR, *OF_ITSELF)
#: Lengths, in shares of the original's shorter side.
_SIZES = (0.05, 0.1, 0.2)
#: In standard deviations of the surroundings.
CONTRASTS = (2.0, 5.0)

#: Least standard deviation assumed for a surface: two grey levels of 255.
_LEAST_NOISE = 2 / 255
#: Pixels along a side of the surroundings, at least.
_AROUND_PX = 9
#: Places tried until the change can be seen at one, and the change that is enough, in standard deviations of the
#: surroundings.
_PLACES, _LEAST_SEEN = 12, 1.0
#: Width of a scratch, and standard deviation of a blur, over the length.
_THIN, _BLURRED = 0.1, 0.25

Values = NDArray[Any]


class Defect(NamedTuple):
    """A defect to be painted.

    kind: one of `KINDS`.
    size_px: its length, in pixels of the original image.
    contrast: in standard deviations of the surroundings; None for kinds that are made from the image itself.
    """

    kind: str
    size_px: float
    contrast: float | None = None


class Painted(NamedTuple):
    """An image with a defect.

    pixels: (h, w, c) in [0, 1].
    x, y: of the defect's middle, shares of the image's width and height.
    length: of the defect, a share of the image's width.
    """

    pixels: Values
    x: float
    y: float
    length: float


class _Site(NamedTuple):
    """Where a defect is painted: an image, a row and a column of it, its scale, and the surroundings."""

    image: Values
    place: NDArray[np.float64]
    scale: NDArray[np.float64]
    window: Window
    noise: float


def usual_sizes(sizes_px: Sequence[tuple[int, int]]) -> tuple[float, ...]:
    """Lengths of defects for images of these sizes: a twentieth, a tenth and a fifth of the shorter side.

    >>> usual_sizes([(300, 200), (300, 220), (100, 100)])
    (10.0, 20.0, 40.0)
    """
    shorter = float(np.median([min(size) for size in sizes_px]))
    return tuple(float(max(1, round(share * shorter))) for share in _SIZES)


def defects(sizes_px: Sequence[float], *, coloured: bool) -> list[Defect]:
    """All kinds in all sizes and contrasts.

    >>> len(defects((5, 10), coloured=False)), defects((5,), coloured=True)[-1]
    (16, Defect(kind='blur', size_px=5, contrast=None))
    """
    kinds = (*WITH_CONTRAST, *(OF_COLOUR if coloured else ()))
    return [
        *(Defect(kind, size, contrast) for kind in kinds for size in sizes_px for contrast in CONTRASTS),
        *(Defect(kind, size) for kind in OF_ITSELF for size in sizes_px),
    ]


def spread(n_images: int, kinds: Sequence[Defect], most: int, random: np.random.Generator) -> list[tuple[int, Defect]]:
    """Which defect goes on which image: each about equally often, about equally many on each image, `most` in all.

    >>> some = spread(3, defects((5,), coloured=False), 12, np.random.default_rng(0))
    >>> len(some), sorted({image for image, _ in some}), len({defect for _, defect in some})
    (12, [0, 1, 2], 8)
    """
    n = min(most, n_images * len(kinds))
    rounds = -(-n // n_images)
    images = np.concatenate([random.permutation(n_images) for _ in range(rounds)])[:n].tolist()
    return list(zip(images, islice(cycle(kinds), n), strict=True))


def paint(
    image: Values,
    defect: Defect,
    scale: tuple[float, float],
    random: np.random.Generator,
    subject: NDArray[np.bool_] | None = None,
) -> Painted:
    """Paint a defect somewhere on an image.

    The image may be smaller than the original: each pixel changes by the share of it that the defect covers.

    Args:
        image: (h, w, c) in [0, 1].
        defect: its kind, size and contrast.
        scale: pixels of the image for each pixel of the original, down and across.
        random: where the choices come from.
        subject: (h, w) where it may lie; None for anywhere.

    >>> grey = np.full((64, 64, 1), 0.5, np.float32)
    >>> painted = paint(grey, Defect("spot", 10.0, 5.0), (1.0, 1.0), np.random.default_rng(0))
    >>> changed = (painted.pixels != grey).sum()
    >>> bool(30 < changed < 100), round(float(np.abs(painted.pixels - grey).max()) * 255)
    (True, 10)
    """
    places = np.argwhere(np.ones(image.shape[:2], bool) if subject is None or not subject.any() else subject)
    steps = np.asarray(scale, np.float64)
    seen = -1.0
    # A piece that looks like what it covers, or a blur of what is smooth, would be no defect.
    for place in places[random.integers(len(places), size=_PLACES)]:
        here = _site(image, place + random.uniform(-0.5, 0.5, 2), steps, defect.size_px)
        changed = _KINDS[defect.kind](here, defect, random)
        strength = float(np.abs(changed).max()) / here.noise
        if strength > seen:
            seen, change, site = strength, changed, here
        if seen >= (defect.contrast or _LEAST_SEEN) - 1e-6:
            break
    shape = _SHAPES[defect.kind](defect.size_px, random)
    share = covered(shape, site.window, site.place, site.scale, _thinnest(defect))
    painted = image.copy()
    painted[site.window.slices] += share[..., None] * change
    row, column = (site.place + 0.5) / image.shape[:2]
    length = defect.size_px * scale[1] / image.shape[1]
    return Painted(np.clip(painted, 0, 1), float(column), float(row), length)


def _site(image: Values, place: NDArray[np.float64], scale: NDArray[np.float64], size_px: float) -> _Site:
    around = Window.about(place, np.maximum(size_px * scale, _AROUND_PX / 2), image.shape)
    noise = float(image[around.slices].mean(axis=-1).std())
    # An uneven blot reaches beyond its length.
    return _Site(image, place, scale, Window.about(place, size_px * scale, image.shape), max(noise, _LEAST_NOISE))


def _lighter(site: _Site, defect: Defect, random: np.random.Generator) -> Values:
    """Lighter or darker, at random where both are possible."""
    by = np.float32((defect.contrast or 0) * site.noise)
    level = float(np.mean(site.image[site.window.slices]))
    down = level + by > 1 or (level - by >= 0 and random.random() < 0.5)
    return np.full((1, 1, 1), -by if down else by, np.float32)


def _darker(site: _Site, defect: Defect, _random: np.random.Generator) -> Values:
    return np.full((1, 1, 1), -(defect.contrast or 0) * site.noise, np.float32)


def _other_colour(site: _Site, defect: Defect, random: np.random.Generator) -> Values:
    """Another colour, as light as before."""
    direction = np.asarray(random.standard_normal(site.image.shape[-1]))
    direction -= direction.mean()
    direction /= max(float(np.abs(direction).max()), 1e-6)
    return ((defect.contrast or 0) * site.noise * direction).astype(np.float32)[None, None]


def _piece(site: _Site, _defect: Defect, random: np.random.Generator) -> Values:
    """The change that pastes another place of the image, at least a length away, over this one."""
    height, width = site.image.shape[:2]
    window = site.window
    rows, columns = window.height, window.width
    upper, left = int(random.integers(height - rows + 1)), int(random.integers(width - columns + 1))
    if abs(upper - window.upper) < rows and abs(left - window.left) < columns:
        # Too near: take one as far away as possible.
        upper = 0 if window.upper > height - window.lower else height - rows
    return site.image[upper : upper + rows, left : left + columns] - site.image[window.slices]


def _blurred(site: _Site, defect: Defect, _random: np.random.Generator) -> Values:
    down, across = np.maximum(_BLURRED * defect.size_px * site.scale, 1e-3)
    # With as much of the surroundings as the blur reaches.
    around = Window.about(site.place, defect.size_px * site.scale + 3 * np.array([down, across]), site.image.shape)
    image = site.image[around.slices]
    smooth = cv2.GaussianBlur(image, (0, 0), sigmaX=float(across), sigmaY=float(down)).reshape(image.shape)
    upper, left = site.window.upper - around.upper, site.window.left - around.left
    change = smooth - image
    return change[upper : upper + site.window.height, left : left + site.window.width]


def _thinnest(defect: Defect) -> float:
    return _width(defect.size_px) if defect.kind == "scratch" else defect.size_px / 2


def _width(length: float) -> float:
    return max(1.0, _THIN * length)


def _scratch(size_px: float, random: np.random.Generator) -> Shape:
    return scratch(size_px, _width(size_px), random)


_KINDS: dict[str, Callable[..., Values]] = {
    "scratch": _lighter,
    "spot": _lighter,
    "stain": _darker,
    "colour": _other_colour,
    "cut_paste": _piece,
    "blur": _blurred,
}
_SHAPES: dict[str, Callable[[float, Any], Shape]] = {
    "scratch": _scratch,
    "spot": ellipse,
    "stain": blot,
    "colour": ellipse,
    "cut_paste": rectangle,
    "blur": ellipse,
}
