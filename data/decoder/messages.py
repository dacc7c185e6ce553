"""Messages between this process and its decoders, through a pipe: two lengths, a head of JSON, raw bytes."""

import os
import struct
from collections.abc import Iterable
from typing import Any, BinaryIO

_LENGTHS = struct.Struct(">IQ")

#: Bytes read at a time: most messages arrive whole, and waking up costs more than copying.
BUFFER = 1 << 18


def write_messages(pipe: int, messages: Iterable[tuple[Any, ...]]) -> None:
    """Write several messages at once.

    Args:
        pipe: a file descriptor.
        messages: for each, the head, which is JSON, and the content, raw bytes in one or several pieces, which are not
            copied.

    Raises:
        BrokenPipeError: the reading side has ended.

    >>> reader, writer = os.pipe()
    >>> write_messages(writer, [(b"{}", b"ab")])
    >>> with open(reader, "rb") as file:
    ...     read_message(file)
    (b'{}', b'ab')
    """
    left = []
    for head, *contents in messages:
        pieces = [memoryview(piece).cast("B") for piece in contents]
        left += [memoryview(_LENGTHS.pack(len(head), sum(map(len, pieces))) + head), *pieces]
    while left:
        written = os.writev(pipe, left)
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if left:
            left[0] = left[0][written:]


def read_message(pipe: BinaryIO) -> tuple[bytes, bytes]:
    """The head and the content of the next message.

    Raises:
        EOFError: the writing side has ended.
    """
    n_head, n_content = _LENGTHS.unpack(_read(pipe, _LENGTHS.size))
    return _read(pipe, n_head), _read(pipe, n_content)


def _read(pipe: BinaryIO, n_bytes: int) -> bytes:
    found = pipe.read(n_bytes)
    if len(found) < n_bytes:
        raise EOFError
    return found
