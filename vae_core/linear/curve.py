"""What models of more and more images say of the same unseen ones."""

from typing import NamedTuple

import numpy as np


class LearningCurve(NamedTuple):
    """Models of more and more of the normal images, scored on the same images, which none of them has seen.

    n_images: that each was fitted on, about twice as many as the one before.
    nats: mean nelbo for each feature of the unseen images under each model; lower = it knows them better.
    spread: standard deviation of that nelbo between the unseen images, under the last model.
    """

    n_images: tuple[int, ...]
    nats: tuple[float, ...]
    spread: float

    @property
    def gains(self) -> tuple[float, ...]:
        """Nats that each doubling brought."""
        doublings = np.diff(np.log2(self.n_images))
        return tuple((-np.diff(self.nats) / doublings).tolist())

    @property
    def next_gain(self) -> float:
        """Nats that twice as many images would bring if gains go on falling as they fell: nats = a + b n^-c.

        >>> round(LearningCurve((10, 20, 40), (5.0, 3.0, 2.0), 1.0).next_gain, 6)
        0.5
        """
        first, last = (max(0.0, gain) for gain in self.gains)
        return last * min(1.0, last / first) if first else last
