"""Nearly flagged images: those of a batch with the highest scores that are not flagged."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

#: Nearly flagged images that are kept of a batch.
N_NEAR = 12


class Near:
    """Which images are candidates: those with the k highest scores so far; of equal scores the earlier counts more.

    Which images are nearest is known only when the whole batch is scored. However the batch is cut, one of its k
    highest is also one of the k highest at the time when it is scored.

    >>> near = Near(k=1)
    >>> near(np.array([True, True, False]), np.array([1.0, 3.0, 9.0]))
    array([False,  True, False])
    >>> near(np.array([True, True]), np.array([2.0, 3.0]))
    array([False, False])
    """

    def __init__(self, k: int = N_NEAR) -> None:
        self._highest, self._k = np.empty(0), k

    def __call__(self, eligible: NDArray[np.bool_], scores: NDArray[np.floating]) -> NDArray[np.bool_]:
        """(n,) which of the next n files are candidates; only `eligible` ones can be, and only their scores count."""
        n_before, own = len(self._highest), np.flatnonzero(eligible)
        merged = np.concatenate([self._highest, scores[own]])
        order = _highest_first(merged)[: self._k]
        self._highest = merged[order]
        kept = np.zeros(len(eligible), bool)
        kept[own[order[order >= n_before] - n_before]] = True
        return kept


def nearest(candidates: pa.Table, k: int = N_NEAR) -> pa.Table:
    """The k rows with the highest scores, in that order; all of them where there are fewer."""
    return candidates.take(pa.array(_highest_first(candidates["anomaly_score"].to_numpy())[:k]))


def _highest_first(scores: NDArray[np.floating]) -> NDArray[np.intp]:
    return np.argsort(-scores, kind="stable")
