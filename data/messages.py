"""Messages between this process and its decoders: lengths, fields as JSON, raw bytes, through a pipe."""

import json
import os
import struct
from typing import Any

_LENGTHS = struct.Struct(">IQ")


def write_message(pipe: int, fields: dict[str, Any], content: bytes = b"") -> None:
    """Write all of a message.

    Args:
        pipe: a file descriptor.
        fields: what JSON can hold.
        content: raw bytes.

    Raises:
        BrokenPipeError: nobody reads any more.

    >>> reader, writer = os.pipe()
    >>> write_message(writer, {"reason": None}, b"ab")
    >>> read_message(reader)
    ({'reason': None}, b'ab')
    """
    head = json.dumps(fields).encode()
    # One copy of a small file is cheaper than waking the reader twice.
    parts = [_LENGTHS.pack(len(head), len(content)) + head, content]
    while parts:
        written = os.writev(pipe, parts)
        while parts and written >= len(parts[0]):
            written -= len(parts.pop(0))
        if parts:
            parts[0] = memoryview(parts[0])[written:]  # type: ignore[call-overload]


def read_message(pipe: int) -> tuple[dict[str, Any], bytes]:
    """The next message.

    Raises:
        EOFError: the other side has ended.
    """
    n_head, n_content = _LENGTHS.unpack(_read(pipe, _LENGTHS.size))
    fields = json.loads(bytes(_read(pipe, n_head)))
    return fields, bytes(_read(pipe, n_content))


def _read(pipe: int, n_bytes: int) -> bytearray:
    buffer = bytearray(n_bytes)
    free = memoryview(buffer)
    while free:
        n_read = os.readv(pipe, [free])
        if not n_read:
            raise EOFError
        free = free[n_read:]
    return buffer
