"""Which scores count where images come in groups, such as views of one part: a group is a single draw."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def one_of_each(groups: Sequence[Hashable | None], keys: ArrayLike) -> NDArray[np.int64]:
    """The row with the highest key of each group, in order of the rows.

    With random keys, this is one random image of each group: a threshold from these keeps its promise for images of
    fresh groups. With scores as keys, it is the highest of each group: the promise is then for groups as a whole, of
    which no image is flagged, as long as fresh groups have no more images.

    Args:
        groups: (n,) group of each row; None is a row alone.
        keys: (n,) numbers.

    Source: Dunn, Wasserman and Ramdas 2022, "Distribution-free prediction sets for two-layer hierarchical models",
    section 3.3, "subsampling once".

    >>> one_of_each(["p", "p", None, "q"], [1.0, 2.0, 0.0, 5.0]).tolist()
    [1, 2, 3]
    """
    keys = np.asarray(keys)
    best: dict[Hashable, int] = {}
    for row, group in enumerate(groups):
        own = (row,) if group is None else group
        if own not in best or keys[row] > keys[best[own]]:
            best[own] = row
    return np.array(sorted(best.values()), np.int64)
