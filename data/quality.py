"""What images look like before any model: plain numbers in which a change of lamp, lens or camera shows."""

import numpy as np
from numpy.typing import NDArray


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
