"""What a landing folder's ledger holds: a file is new where it lacks these contents under this path."""

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo.flows.workspace.tables import with_column

#: How often a file whose decoding took too long is tried again.
RETRIES = 3


class Taken:
    """Which contents under which paths a ledger holds, and will not be tried again: 16 bytes a file."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self._timeouts: dict[bytes, int] = {}
        taken = [np.empty(0, "S16")]
        for table in tables:
            keys, timeouts = _keys(table), np.asarray(pc.fill_null(table["n_timeouts"], 0))
            late = timeouts > 0
            self._timeouts |= zip(keys[late].tolist(), timeouts[late].tolist(), strict=True)
            taken.append(keys[~late | (timeouts > RETRIES)])
        self._keys = np.sort(np.concatenate(taken))

    def lacks(self, table: pa.Table) -> pa.Array:
        """For each row whether it is not among them."""
        keys = _keys(table)
        return pa.array(np.searchsorted(self._keys, keys) == np.searchsorted(self._keys, keys, "right"))

    def noted(self, table: pa.Table) -> pa.Table:
        """The same rows, with how often decoding has taken too long."""
        timeouts = [self._timeouts.get(key) for key in _keys(table).tolist()] if self._timeouts else [None] * len(table)
        return with_column(table, "n_timeouts", timeouts)


def _keys(table: pa.Table) -> np.ndarray:
    """The beginning of a hash of each row's path and contents; of a file that was not read, of its size and time."""
    columns = (table[name].to_pylist() for name in ("relative_path", "image_id", "size_bytes", "modified_ns"))
    contents = (
        f"{path}\0{image_id or (size, modified_ns)}" for path, image_id, size, modified_ns in zip(*columns, strict=True)
    )
    return np.array([hashlib.sha256(text.encode()).digest()[:16] for text in contents], "S16")
