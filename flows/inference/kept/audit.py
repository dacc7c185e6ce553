"""The audit sample: images of a batch that were not flagged, drawn at random for people to look at.

Each file has a key: a hash of its path, the batch's id and a seed, which does not depend on what the image shows. The
sample is the k images with the smallest keys among those that were not flagged: every set of k is equally likely, and
drawing again, in other shards or another order, gives the same sample.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def audit_keys(paths: Iterable[str], batch_id: str, seed: int) -> NDArray[np.uint64]:
    """(n,) keys of a batch's files, given their ``relative_path``.

    >>> audit_keys(["a.png", "b.png"], "b1", seed=0).argsort().tolist()
    [0, 1]
    """
    secret = hashlib.blake2b(f"{seed} {batch_id}".encode()).digest()
    digests = (hashlib.blake2b(path.encode(), digest_size=8, key=secret).digest() for path in paths)
    return np.array([int.from_bytes(digest) for digest in digests], np.uint64)


class Draw:
    """Which files of some shards are candidates: those whose key is among the k smallest of their shard so far.

    Which images are drawn is known only when the whole batch is scored, and no image is decoded again then. So the
    pictures of every candidate are kept: about k (1 + 1/2 + 1/3 + ...) in a shard, with a term for each group of files
    that goes through the model.

    Args:
        keys: of the files of each shard, in scoring order.
        k: images in the sample.

    >>> draw = Draw([np.array([4, 2, 7]), np.array([9])], k=1)
    >>> draw(np.array([True, True])), draw(np.array([True, True]))
    (array([False,  True]), array([False,  True]))
    """

    def __init__(self, keys: Sequence[NDArray[np.integer]], k: int) -> None:
        self._keys = np.concatenate([np.empty(0, np.uint64), *(own.astype(np.uint64) for own in keys)])
        self._shards = np.repeat(np.arange(len(keys)), [len(own) for own in keys])
        self._smallest = [np.empty(0, np.uint64)] * len(keys)
        self._k, self._done = k, 0

    def add(self, keys: NDArray[np.integer]) -> None:
        """Add further files to the last shard."""
        self._keys = np.concatenate([self._keys, keys.astype(np.uint64)])
        self._shards = np.append(self._shards, np.full(len(keys), len(self._smallest) - 1))

    def __call__(self, eligible: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(n,) which of the next n files are candidates; only `eligible` ones may be drawn."""
        here = slice(self._done, self._done + len(eligible))
        self._done = here.stop
        keys, shards = self._keys[here], self._shards[here]
        kept = np.zeros(len(eligible), bool)
        for shard in np.unique(shards):
            own = np.flatnonzero(eligible & (shards == shard))
            self._smallest[shard] = np.sort(np.concatenate([self._smallest[shard], keys[own]]))[: self._k]
            kept[own] = np.isin(keys[own], self._smallest[shard])
        return kept


def keep_none(eligible: NDArray[np.bool_], *_: object) -> NDArray[np.bool_]:
    """A draw that keeps no image."""
    return np.zeros(len(eligible), bool)


def drawn(candidates: pa.Table, batch_id: str, seed: int, k: int) -> pa.Table:
    """The k rows with the smallest keys, in order of their keys; all of them where there are fewer.

    Args:
        candidates: rows with ``relative_path``.
    """
    keys = audit_keys(candidates["relative_path"].to_pylist(), batch_id, seed)
    return candidates.take(pa.array(np.argsort(keys, kind="stable")[:k]))


def candidates_of(rows: pa.Table) -> pa.Table:
    """The rows of a shard that may be drawn, by their verdicts."""
    return rows.filter(pc.and_(pc.equal(rows["verdict"], "normal"), pc.is_valid(rows["thumbnail"])))
