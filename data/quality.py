"""What images look like before any model: plain numbers in which a change of lamp, lens or camera shows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data.frame import Part


def image_quality(pixels: NDArray[np.floating]) -> dict[str, NDArray[np.float64]]:
    """Brightness, contrast and sharpness of each image, over the mean of its channels.

    Args:
        pixels: (n, h, w, c) in [0, 1], h and w at least 3.

    Returns:
        Each (n,): ``brightness``, the mean; ``contrast``, the standard deviation; ``sharpness``, the standard
        deviation of the Laplacian over the inner pixels, which blur lowers.

    Source: Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy", for the Laplacian.

    >>> step = np.repeat([0.0, 0.0, 1.0, 1.0], 4).reshape(1, 4, 4, 1)
    >>> {name: float(values[0]) for name, values in image_quality(step).items()}
    {'brightness': 0.5, 'contrast': 0.5, 'sharpness': 1.0}
    """
    grey = np.asarray(pixels).mean(axis=3, dtype=np.float64)
    inner = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return {
        "brightness": grey.mean(axis=(1, 2)),
        "contrast": grey.std(axis=(1, 2)),
        "sharpness": (around - 4 * inner).std(axis=(1, 2)),
    }


def part_quality(parts: Sequence[Part | None]) -> dict[str, NDArray[np.float64]]:
    """How the parts lie: a camera that moved shows in it.

    Returns:
        Each (n,), NaN where no part is looked for, or none was found: ``part_area``, over that of the training parts;
        ``part_x`` and ``part_y``, of its middle, shares of the picture's width and height; ``part_degrees``, that it
        was turned by.

    >>> {name: values.tolist() for name, values in part_quality([None]).items()}
    {'part_area': [nan], 'part_x': [nan], 'part_y': [nan], 'part_degrees': [nan]}
    """
    rows = [
        (np.nan,) * 4 if part is None or not part.area else (part.area, part.x, part.y, part.degrees) for part in parts
    ]
    columns = np.array(rows, np.float64).reshape(-1, 4).T
    return dict(zip(("part_area", "part_x", "part_y", "part_degrees"), columns, strict=True))
