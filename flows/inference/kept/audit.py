"""The audit sample: images of a batch that were not flagged, drawn at random for people to look at.

Each file has a key, a hash of its path under the batch and a seed, which knows nothing of what the image shows. Of the
images that were not flagged those with the k smallest keys are the sample: each k of them are as likely as any other,
and whoever draws again, in other shards or another order, draws the same.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def audit_keys(paths: Iterable[str], batch_id: str, seed: int) -> NDArray[np.uint64]:
    """(n,) key of each file of a batch, by its ``relative_path``.

    >>> audit_keys(["a.png", "b.png"], "b1", seed=0).argsort().tolist()
    [0, 1]
    """
    secret = hashlib.blake2b(f"{seed} {batch_id}".encode()).digest()
    digests = (hashlib.blake2b(path.encode(), digest_size=8, key=secret).digest() for path in paths)
    return np.array([int.from_bytes(digest) for digest in digests], np.uint64)


class Draw:
    """Which files of some shards are candidates: in each shard those that have, or had on the way, the k smallest keys.

    Only when all of a batch is scored it is known which images are drawn, and then none is decoded again: what a
    drawn one is looked at by is kept of each candidate, of k (1 + 1/2 + 1/3 + ...) in a shard, a term for each batch
    that goes through the model.

    Args:
        keys: of the files of each shard, in the order in which they are scored.
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

    def __call__(self, eligible: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(n,) which of the next n files are candidates, of those that may be drawn."""
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
    """A draw of nothing."""
    return np.zeros(len(eligible), bool)


def drawn(candidates: pa.Table, batch_id: str, seed: int, k: int) -> pa.Table:
    """The k rows with the smallest keys, in order of their keys; all of them where there are fewer.

    Args:
        candidates: rows with ``relative_path``.
    """
    keys = audit_keys(candidates["relative_path"].to_pylist(), batch_id, seed)
    return candidates.take(pa.array(np.argsort(keys, kind="stable")[:k]))


def candidates_of(rows: pa.Table) -> pa.Table:
    """Of a shard's rows, with their verdicts, those that may be drawn."""
    return rows.filter(pc.and_(pc.equal(rows["verdict"], "normal"), pc.is_valid(rows["thumbnail"])))
