"""What the numbers of an array mean. The type that fit saw decides, so that equal values in any type score the same."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Types whose whole range means [0, 1], and what is white in them; in all others white is 1.
_WHITE = {"uint8": 255, "uint16": 65_535}

#: Instead of a type, where fit saw files, which say themselves what is white; most have 8 bits.
FILES = "files"


class Scale(NamedTuple):
    """How a detector reads numbers.

    dtype: NumPy's name of the type that fit saw, or ``files``. None, in detectors that nelbo 0.1 saved, reads each
        array by its own type.
    """

    dtype: str | None

    @property
    def white(self) -> int:
        """The number that means 1."""
        return _WHITE.get(self._type, 1)

    def read(self, images: NDArray[Any], *, clip: bool = False) -> list[NDArray[Any]]:
        """Images as fit saw them: of its type, or in another one that means the same.

        Numbers of another type may be the same values as in fit, or lie on the scale of their own type. They are
        accepted where only one of the two is possible, and refused otherwise.

        Args:
            images: (n, ...), finite.
            clip: whether numbers beyond [0, 1] are clipped, on the scale where white is 1.

        Returns:
            For each image uint8 or uint16 over its whole range, or numbers in [0, 1].

        Raises:
            ValueError: the numbers could mean either, or neither.

        >>> X = np.array([[0, 51, 255]], np.uint8)
        >>> [Scale("uint8").read(same)[0].tolist() for same in (X, X.astype(float), X / 255)]
        [[0, 51, 255], [0, 51, 255], [0, 51, 255]]
        >>> Scale("uint8").read(X.astype(np.uint16))
        Traceback (most recent call last):
            ...
        ValueError: X is uint16 and lies in [0, 255], and fit has seen uint8: these may be ...
        """
        own = _WHITE.get(images.dtype.name, 1)
        low, high = float(images.min()), float(images.max())
        in_unit = low >= 0 and high <= 1
        if self.dtype is None or own == self.white:
            if own > 1 or in_unit:
                return list(images)
            if clip:
                return list(np.clip(images, 0, 1))
            raise ValueError(
                f"images of type {images.dtype} lie in [{low:g}, {high:g}], expected [0, 1]: "
                "divide 8-bit values by 255, or give them as uint8"
            )
        as_own = own > 1 or in_unit
        as_fitted = clip or in_unit if self.white == 1 else low >= 0 and high <= self.white and _whole(images)
        # Black is black on any scale.
        if as_own == as_fitted and not low == high == 0:
            raise ValueError(self._refusal(f"X is {images.dtype} and lies in [{low:g}, {high:g}]", own, as_own))
        if as_fitted:
            return list(images.astype(self._type))
        return [self._brought(image, own) for image in images]

    @property
    def _type(self) -> str:
        return "uint8" if self.dtype is None or self.dtype == FILES else self.dtype

    def _brought(self, image: NDArray[Any], own: int) -> NDArray[Any]:
        """An image on the scale of its own type, converted to fit's type unless that cannot hold its values."""
        unit = image / own
        if self.white == 1:
            return unit
        levels = np.rint(unit * self.white)
        # As exact as numbers of that type are.
        close = np.finfo(np.result_type(image.dtype, np.float16)).eps
        is_exact = (np.abs(levels / self.white - unit) <= close).all()
        return levels.astype(self._type) if is_exact else image

    def _refusal(self, found: str, own: int, could_be_both: bool) -> str:
        found += f", and fit has seen {'files, which are taken as uint8' if self.dtype == FILES else self.dtype}: "
        if not could_be_both:
            return found + f"expected {self._type}, or whole numbers from 0 to {self.white}, or numbers in [0, 1]"
        other = f"X / {own}" if own > 1 else f'(X * {self.white}).astype("{self._type}")'
        return found + (
            f"these may be the same values, or others on the scale where {own} is white. Say which: "
            f'X.astype("{self._type}") for the same values, {other} for the others'
        )


def learn_scale(found: NDArray[Any] | list[Path]) -> Scale:
    """The scale of what fit has found, an array or paths.

    >>> learn_scale(np.zeros((3, 16, 16), np.uint8)), learn_scale([Path("a.png")])
    (Scale(dtype='uint8'), Scale(dtype='files'))
    """
    return Scale(found.dtype.name if isinstance(found, np.ndarray) else FILES)


def _whole(values: NDArray[Any]) -> bool:
    return values.dtype.kind in "bui" or bool((values == np.rint(values)).all())
