"""Where on an image a defect would matter: on what stands out from a plain background, if anything does."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nelbo.data.part.part import look

#: The least share of the image that its subject covers: anything smaller is a mark on it, or dirt.
_LEAST_AREA = 0.02


def subject_of(image: NDArray[np.float32]) -> NDArray[np.bool_] | None:
    """(h, w) where the subject of an image is; None where nothing stands out.

    Args:
        image: (h, w, c) in [0, 1].

    >>> image = np.full((60, 80, 1), 0.2, np.float32)
    >>> image[20:40, 30:60] = 0.8
    >>> int(subject_of(image).sum()), subject_of(image[:20])
    (596, None)
    """
    found = look(image).segment
    if not found.found or found.mask.mean() < _LEAST_AREA:
        return None
    mask: Any = cv2.resize(found.mask.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return mask > 0
