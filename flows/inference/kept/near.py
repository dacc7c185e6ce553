"""What was nearly flagged: the images of a batch with the highest scores that are not flagged."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

#: Images of a batch.
N_NEAR = 12


class Near:
    """Which images are candidates: those with the k highest scores so far. Of equal ones the earlier is the higher.

    Only when all of a batch is scored it is known which they are. An image that is one of the k highest of the batch is
    one of those that came with it, too, however the batch is cut.

    >>> near = Near(k=1)
    >>> near(np.array([True, True, False]), np.array([1.0, 3.0, 9.0]))
    array([False,  True, False])
    >>> near(np.array([True, True]), np.array([2.0, 3.0]))
    array([False, False])
    """

    def __init__(self, k: int = N_NEAR) -> None:
        self._highest, self._k = np.empty(0), k

    def __call__(self, eligible: NDArray[np.bool_], scores: NDArray[np.floating]) -> NDArray[np.bool_]:
        """(n,) which of the next n files are candidates, of those that may be: scores of the others mean nothing."""
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
