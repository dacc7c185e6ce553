"""What surrounds a defect on a map: a network sees more around each place than the place itself."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label, maximum

from nelbo.flows.inference.why.spots import EDGE, TOUCHING


def without_halos(units: NDArray[np.floating], level: float) -> NDArray[np.floating]:
    """A map on which a level surrounds each defect closely.

    Connected places above the level are lowered together, until the level lies at half of their largest value, unless
    it lies higher already. So the same groups of places exceed the level, and no others.

    Args:
        units: (gh, gw) how unusual each place is; 0 is usual. NaN places are left alone.
        level: in the same units.

    >>> without_halos(np.array([[0.0, 3.0, 8.0, 5.0], [0.0, 0.0, 0.0, 1.0]]), level=2.0).tolist()
    [[0.0, 1.0, 6.0, 3.0], [0.0, 0.0, 0.0, 1.0]]
    """
    numbered, n = label(units > level, TOUCHING)
    if not n:
        return units
    largest = maximum(units, numbered, np.arange(1, n + 1))
    lowered_by = np.where(largest > 0, np.maximum(EDGE * largest - level, 0), 0)
    return units - np.concatenate([[0], lowered_by])[numbered].astype(units.dtype)
