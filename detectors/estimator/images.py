"""Images given to a detector, as its model takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nelbo.detectors.estimator.inputs import Rows
from nelbo.detectors.scale import Scale

if TYPE_CHECKING:
    from nelbo.data import Part, Preprocessing

#: What X is, once it is checked: paths, or images or rows.
Found = list[Path] | NDArray[Any]
Images = list[Path] | list[NDArray[Any]]


class Prepared(NamedTuple):
    """Images as the model takes them.

    pixels: (n, h, w, c) float32 in [0, 1]; typed as any array, as in vae_core.
    size_z: (n,) how far each part's size is off, see `data.Part`; 0 where none is looked for.
    n_coloured: images with colour that one channel does not hold.
    """

    pixels: Any
    size_z: NDArray[np.float64]
    n_coloured: int

    def take(self, rows: list[int]) -> Prepared:
        """The images of some rows."""
        return self._replace(pixels=self.pixels[rows], size_z=self.size_z[rows])

    def contents(self) -> list[str]:
        """A hash of each image, by which copies are recognised."""
        return [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in self.pixels]


def as_images(found: Found, rows: Rows | None, scale: Scale) -> Images:
    """Paths, or images: uint8 or uint16 over their whole range, or numbers in [0, 1]."""
    if not isinstance(found, np.ndarray):
        return found
    if rows is None:
        return scale.read(found)
    if rows.value_range is not None:
        return list(rows.images(found))
    return [rows.images(row)[0] for row in scale.read(found, clip=True)]


def as_stored(image: NDArray[Any]) -> NDArray[Any]:
    """Numbers in [0, 1] as floats, whatever their type; uint8 and uint16 as they are."""
    return image if image.dtype in (np.uint8, np.uint16) else image.astype(np.float32, copy=False)


def prepared(images: Images, preprocessing: Preprocessing) -> Prepared:
    """The images, or a ValueError that names the files that cannot be read."""
    from nelbo.data import image_of, read_images

    arrays = [as_stored(image) for image in images if isinstance(image, np.ndarray)]
    if arrays:
        # Arrays are on the scale of fit already; the range is for floating-point files.
        preprocessing = replace(preprocessing, float_range=None)
        made = [image_of(image, preprocessing) for image in arrays]
        pixels = np.concatenate([one.pixels for one in made])
        n_coloured = sum(int(one.drops_colour.sum()) for one in made)
        return Prepared(pixels, _size_z([part for one in made for part in one.parts]), n_coloured)
    paths = [image for image in images if isinstance(image, Path)]
    found = read_images(paths, preprocessing)
    bad = [
        f"{path} ({reason if path.exists() else 'does not exist'})"
        for path, reason in zip(paths, found.reasons, strict=True)
        if reason is not None
    ]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise ValueError(f"{len(bad)} of {len(paths)} images cannot be read: {', '.join(bad[:5])}{more}")
    return Prepared(found.pixels, _size_z(found.parts), int(found.drops_colour.sum()))


def _size_z(parts: Sequence[Part | None]) -> NDArray[np.float64]:
    return np.array([0.0 if part is None else part.size_z for part in parts])
