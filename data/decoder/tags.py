"""The first directory of a TIFF, checked here because the parser skips damaged tags."""

import struct
from collections.abc import Container
from typing import NamedTuple

from nelbo.data.errors import ImageError

_CLASSIC, _BIG = (b"II*\0", b"MM\0*"), (b"II+\0", b"MM\0+")
#: How a TIFF begins.
SIGNATURES = (*_CLASSIC, *_BIG)

#: Bytes of a value by the number of its type.
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class _Entry(NamedTuple):
    code: int
    value_start: int
    n_bytes: int


def listed_tags(content: bytes) -> set[int]:
    """Codes of all entries, damaged ones too."""
    return {entry.code for entry in _entries(content)}


def check_directory(content: bytes, deciding: Container[int]) -> None:
    """Check that the directory, and the values of the tags that decide on pixels, lie within the file.

    Raises:
        ImageError: ``truncated``.
    """
    end = len(content)
    try:
        entries = _entries(content)
    except struct.error as error:
        raise ImageError("truncated", f"TIFF ends at byte {end}, before its directory does") from error
    if any(entry.code in deciding and entry.value_start + entry.n_bytes > end for entry in entries):
        raise ImageError("truncated", f"TIFF has {end} bytes, and tags that lie beyond them")


def _entries(content: bytes) -> list[_Entry]:
    order, is_big = "<" if content[:2] == b"II" else ">", content[:4] in _BIG
    (start,) = struct.unpack_from(order + ("Q" if is_big else "I"), content, 8 if is_big else 4)
    (n,) = struct.unpack_from(order + ("Q" if is_big else "H"), content, start)
    start += 8 if is_big else 2
    size, layout, room = (20, order + "HHQQ", 8) if is_big else (12, order + "HHII", 4)
    entries = []
    for place in range(start, start + n * size, size):
        code, kind, count, value = struct.unpack_from(layout, content, place)
        n_bytes = count * _VALUE_BYTES.get(kind, 1)
        entries.append(_Entry(code, place + size - room if n_bytes <= room else value, n_bytes))
    return entries
