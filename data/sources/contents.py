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

#: Of a file that was not read.
_NO_KEY = 0


class Contents:
    """What a batch amounts to, noted as its rows go by: 8 bytes a row are kept.

    reasons: how often each stands in a row; None is a usable file.
    """

    def __init__(self) -> None:
        self.reasons: Counter[str | None] = Counter()
        self._digest = hashlib.sha256()
        self._keys = array("Q")

    def add(self, table: pa.Table) -> None:
        """The next rows, in the order of the paths."""
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
        """As `Manifest.content_hash`."""
        return self._digest.hexdigest()

    def with_duplicates(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same rows again, when all have been noted, now with ``duplicate_of``."""
        first_copy = _first_copies(np.frombuffer(self._keys, np.uint64))
        wanted = set(first_copy.values())
        paths: dict[int, str] = {}
        column = MANIFEST_SCHEMA.get_field_index("duplicate_of")
        start = 0
        for table in tables:
            numbers = range(start, start + len(table))
            paths |= {n: table["relative_path"][n - start].as_py() for n in wanted.intersection(numbers)}
            originals = [paths.get(first_copy.get(n, -1)) for n in numbers]
            yield table.set_column(column, MANIFEST_SCHEMA.field(column), pa.array(originals, pa.string()))
            start += len(table)


def _first_copies(keys: NDArray[np.uint64]) -> dict[int, int]:
    """Row number of each repeated content -> that of its first. Contents without a key are not compared."""
    rows = pd.Series(np.arange(len(keys)))
    first = rows.groupby(keys).transform("min")
    repeated = (rows > first) & (keys != _NO_KEY)
    return dict(zip(rows[repeated].tolist(), first[repeated].tolist(), strict=True))


def _key(image_id: str | None) -> int:
    """Sixteen of the hash's digits, which is enough for a note."""
    return _NO_KEY if image_id is None else int(image_id[:16], 16)
