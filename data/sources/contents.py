"""What the contents of a batch amount to: its hash, its copies, and how much of it can be used."""

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from nelbo.data.schemas import MANIFEST_SCHEMA

#: The key of a file that was not read.
_NO_KEY = 0


class Contents:
    """What a batch amounts to, noted row by row; keeps 8 bytes for each row.

    reasons: how many rows have each reason; None is a usable file.
    """

    def __init__(self) -> None:
        self.reasons: Counter[str | None] = Counter()
        self._digest = hashlib.sha256()
        self._keys = array("Q")

    def add(self, table: pa.Table) -> None:
        """Take note of the next rows, in the order of the paths.

        Args:
            table: manifest rows.
        """
        self.reasons.update(table["reason"].to_pylist())
        self._keys.extend(map(_key, table["image_id"].to_pylist()))
        columns = (
            table[name].to_pylist() for name in ("relative_path", "image_id", "label", "split", "group", "variant")
        )
        for *row, group, variant in zip(*columns, strict=True):
            # Without groups and variants a batch keeps the id that it had before there were any.
            named = [] if group is None else [json.dumps(group)]
            named += [] if variant is None else [json.dumps({"variant": variant})]
            self._digest.update("\0".join([*map(str, row), *named]).encode() + b"\n")

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def hash(self) -> str:
        """The same as `Manifest.content_hash`."""
        return self._digest.hexdigest()

    def with_duplicates(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same rows again, now with ``duplicate_of``; call it after all have been added.

        Args:
            tables: the rows that `add` was given, in any pieces.
        """
        first = _first_copies(np.frombuffer(self._keys, np.uint64))
        wanted = np.unique(first[first < np.arange(len(first))])
        paths: dict[int, str] = {}
        column = MANIFEST_SCHEMA.get_field_index("duplicate_of")
        start = 0
        for table in tables:
            end = start + len(table)
            from_here = wanted[slice(*np.searchsorted(wanted, (start, end)))].tolist()
            paths |= {n: table["relative_path"][n - start].as_py() for n in from_here}
            places = enumerate(first[start:end].tolist(), start)
            originals = [paths[place] if place < n else None for n, place in places]
            yield table.set_column(column, MANIFEST_SCHEMA.field(column), pa.array(originals, pa.string()))
            start = end


def _first_copies(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(n,) number of the first row with the same content; the row's own number where it has no key to compare."""
    rows = np.arange(len(keys))
    first = pd.Series(rows).groupby(keys).transform("min").to_numpy()
    return np.where(keys == _NO_KEY, rows, first)


def _key(image_id: str | None) -> int:
    """The first 16 digits of the hash, which are enough to tell contents apart."""
    return _NO_KEY if image_id is None else int(image_id[:16], 16)
