"""PNG chunks: what Pillow does not check, and what it would stumble over."""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from nelbo.data.errors import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
#: Ancillary chunks that bear on the picture: transparency and orientation.
_KEPT = (b"tRNS", b"eXIf")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTATIONS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
_PACKED = (b"zTXt", b"iCCP")

#: Pillow refuses longer texts, and with them the image.
_MAX_TEXT = 1 << 20
#: A text that is packed tighter than any that people write is there to do harm.
_MAX_PACKING, _MAX_UNPACKED = 100, 64 << 20


class _Chunk(NamedTuple):
    kind: bytes
    data: memoryview
    whole: memoryview

    @property
    def is_sound(self) -> bool:
        return zlib.crc32(self.whole[4:-4]) == int.from_bytes(self.whole[-4:], "big")


def picture_chunks(content: bytes) -> bytes:
    """The same PNG with only the chunks that make its default image, their checksums verified.

    Damaged or huge metadata and animations are left out, so that they cannot lose the image.

    Args:
        content: all of a file that begins with the PNG signature.

    Raises:
        ImageError: a damaged critical chunk, an unknown one, or a text that unpacks to very much more.
    """
    kept: list[bytes | memoryview] = [content[: len(SIGNATURE)]]
    end = len(SIGNATURE)
    # Pixel chunks must follow each other: leaving out others between them would hide that they do not.
    pixels_ended, before = False, b""
    for chunk in _chunks(memoryview(content)):
        end += len(chunk.whole)
        if chunk.kind == b"IDAT" and pixels_ended:
            raise ImageError("unreadable", "PNG pixels are interrupted by another chunk")
        pixels_ended, before = pixels_ended or before == b"IDAT" != chunk.kind, chunk.kind
        if _bears_on_picture(chunk):
            kept.append(chunk.whole)
        if chunk.kind == b"IEND":
            return b"".join(kept)
    # The decoder judges a file that is cut off.
    return b"".join([*kept, content[end:]])


def size(content: bytes) -> tuple[int, int]:
    """Width and height in pixels.

    Raises:
        ImageError: it does not begin with a whole header.
    """
    if content[12:16] != b"IHDR" or len(content) < 33:
        raise ImageError("unreadable", "PNG does not begin with its header")
    width, height = struct.unpack_from(">II", content, 16)
    return width, height


def may_be_turned(content: bytes) -> bool:
    """Whether what `picture_chunks` gave has a chunk that can hold an orientation."""
    return any(chunk.kind in (b"eXIf", *_TEXTS) for chunk in _chunks(memoryview(content)))


def _chunks(content: memoryview) -> Iterator[_Chunk]:
    """Whole chunks, up to one that is cut off."""
    start = len(SIGNATURE)
    while start + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        end = start + 12 + length
        if end > len(content):
            return
        yield _Chunk(kind, content[start + 8 : end - 4], content[start:end])
        start = end


def _bears_on_picture(chunk: _Chunk) -> bool:
    if chunk.kind[0] & 0x20:
        is_orientation = chunk.kind in _TEXTS and bytes(chunk.data[:32]).startswith(_ORIENTATIONS)
        is_short = max(_unpacked_size(chunk), len(chunk.data)) < _MAX_TEXT
        return (chunk.kind in _KEPT or (is_orientation and is_short)) and chunk.is_sound
    if not chunk.is_sound:
        raise ImageError("unreadable", f"PNG chunk {chunk.kind!r} has a wrong checksum")
    if chunk.kind not in _CRITICAL:
        raise ImageError("unsupported", f"PNG chunk {chunk.kind!r} is critical and unknown")
    return True


def _unpacked_size(chunk: _Chunk) -> int:
    """Bytes that a compressed text or profile unpacks to; 0 for one that is not compressed, or damaged."""
    if chunk.kind not in (*_PACKED, b"iTXt"):
        return 0
    keyword, _, packed = bytes(chunk.data).partition(b"\0")
    if chunk.kind in _PACKED:
        packed = packed[1:]
    elif packed[:1] == b"\1":
        # Flag, method, language and translated keyword lie before the text.
        packed = packed[2:].split(b"\0", 2)[-1]
    else:
        return 0
    most = min(max(_MAX_TEXT, _MAX_PACKING * len(packed)), _MAX_UNPACKED)
    unpacking = zlib.decompressobj()
    try:
        size = len(unpacking.decompress(packed, most))
    except zlib.error:
        return 0
    if unpacking.unconsumed_tail:
        raise ImageError("too_large", f"PNG chunk {chunk.kind!r} ({keyword!r}) unpacks to more than {most} bytes")
    return size
