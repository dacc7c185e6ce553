"""Zip and tar archives as roots: members are read into memory, and nothing is ever unpacked to a path."""

import bz2
import gzip
import lzma
import math
import re
import shutil
import tarfile
import tempfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from typing import IO, Any, BinaryIO, TypeAlias, cast

from nelbo.data.errors import ImageError, InputError
from nelbo.data.sources.files import Content, Entry, Stamp
from nelbo.data.sources.names import is_hidden

#: A member of a zip or of a tar; None for one without contents: links lead elsewhere, and devices are not files.
_Member: TypeAlias = zipfile.ZipInfo | tarfile.TarInfo | None

#: How names of archives end; a tar may be compressed.
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

_COMPRESSED: dict[str, Callable[[BinaryIO], IO[bytes]]] = {
    "gz": lambda file: cast("IO[bytes]", gzip.GzipFile(fileobj=file)),
    "bz2": lambda file: cast("IO[bytes]", bz2.BZ2File(file)),
    "xz": lambda file: cast("IO[bytes]", lzma.LZMAFile(file)),  # noqa: SIM115 - whoever opens it closes it
}

#: What reading damaged or locked members raises.
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
)

#: Bytes unpacked at a time, and what is left free on the disk.
_BLOCK = 1 << 24
_RESERVE = 1 << 29

#: The most bytes of what a tar says of one member (long names, attributes, maps of holes), and the most members of a
#: tar: all of that is kept in memory.
_MAX_HEADERS = 1 << 20
_MAX_MEMBERS = 2_000_000

_DRIVE = re.compile(r"[A-Za-z]:")


def is_archive(name: str) -> bool:
    """Whether a file of that name is read as an archive.

    >>> is_archive("lot7.TAR.GZ"), is_archive("a.png")
    (True, False)
    """
    return name.lower().endswith(_ARCHIVES)


class Archive:
    """The files in a zip or tar, listed once.

    Args:
        name: for messages; its ending says the format.
        file: the archive, seekable; closed with the object.
        stamp: of the archive: its members changed when it did.

    Raises:
        InputError: it is not such an archive, or unpacks to more than there is room for.
    """

    def __init__(self, name: str, file: BinaryIO, stamp: Stamp) -> None:
        self._stamp = stamp
        weakref.finalize(self, file.close)
        # One file position for all threads.
        self._lock = threading.Lock()
        self._open: Callable[[Any], AbstractContextManager[IO[bytes]]]
        try:
            self._members = self._list_zip(file) if name.lower().endswith(".zip") else self._list_tar(name, file)
        except InputError:
            raise
        except (OSError, ValueError, *_BROKEN) as error:
            raise InputError(f"{name} is not a readable archive ({error}). Make it again, or unpack it.") from error

    def _list_zip(self, file: BinaryIO) -> dict[str, tuple[int, _Member]]:
        archive = zipfile.ZipFile(file)
        self._open = archive.open
        # The format knows slashes only, and some programs on Windows write backslashes.
        named = ((info.filename.replace("\\", "/"), info) for info in archive.infolist())
        return {
            name: (info.file_size, None if _DRIVE.match(name) else info)
            for name, info in named
            if not name.endswith("/")
        }

    def _list_tar(self, name: str, file: BinaryIO) -> dict[str, tuple[int, _Member]]:
        opener = next((_COMPRESSED[kind] for kind in _COMPRESSED if name.lower().endswith(kind)), None)
        if opener:
            # Members are read in another order than that in which they lie.
            with opener(file) as packed:
                file = copy_aside(name, packed)
            weakref.finalize(self, file.close)
        source = _Headers(file)
        archive = tarfile.TarFile(fileobj=cast(BinaryIO, source))
        self._open = lambda info: closing(cast("IO[bytes]", archive.extractfile(info)))
        found: dict[str, tuple[int, _Member]] = {}
        for n, info in enumerate(archive):
            source.left = _MAX_HEADERS
            if n == _MAX_MEMBERS:
                raise InputError(f"{name} has more than {_MAX_MEMBERS:,} members. Unpack it, or split it into several.")
            if not info.isdir():
                found[info.name.removeprefix("./")] = (info.size, info if info.isreg() else None)
        # Python takes a damaged header for the end.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"damaged at byte {archive.offset:,}")
        source.left = math.inf
        return found

    def walk(self) -> Iterator[Entry]:
        """Members in the order of their paths."""
        return map(self.look, sorted(self._members))

    def look(self, path: str) -> Entry:
        """Size of a member."""
        size, info = self._member(path)
        leaves = path.startswith("/") or not {"..", ""}.isdisjoint(path.split("/")) or "\\" in path
        skipped = info is None or leaves or any(map(is_hidden, path.split("/")))
        return Entry(path, self._stamp._replace(size_bytes=size), skipped)

    def read(self, path: str, max_bytes: int) -> Content:
        """All of a member."""
        size, info = self._member(path)
        if size > max_bytes:
            raise ImageError("too_large", f"{path} unpacks to {size} bytes, more than {max_bytes}")
        try:
            with self._lock, self._open(info) as member:
                # A member that unpacks to more than it says is damaged, and not read to its end.
                return Content(member.read(size), self._stamp)
        except _BROKEN as error:
            raise OSError(f"{path} cannot be read from the archive ({error})") from error

    def _member(self, path: str) -> tuple[int, _Member]:
        try:
            return self._members[path]
        except KeyError:
            raise FileNotFoundError(f"{path} is not in the archive") from None


class _Headers:
    """A tar while it is listed: at most `left` bytes are read of a member."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.left: float = _MAX_HEADERS
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > self.left:
            raise tarfile.ReadError(f"the name and the attributes of a member take more than {_MAX_HEADERS:,} bytes")
        self.left -= size
        return self._file.read(size)


def copy_aside(name: str, source: IO[bytes]) -> BinaryIO:
    """A copy of a stream in a temporary file without a name.

    Raises:
        InputError: it is longer than there is room for.
    """
    folder = tempfile.gettempdir()
    target = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - open as long as the archive
    try:
        while block := source.read(_BLOCK):
            if shutil.disk_usage(folder).free < _RESERVE:
                raise InputError(f"{name} unpacks to more than there is room for in {folder}. Unpack it elsewhere.")
            target.write(block)
    except BaseException:
        target.close()
        raise
    target.seek(0)
    return target
