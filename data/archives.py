"""Zip and tar archives as roots: members are read into memory, and nothing is ever unpacked to a path."""

import bz2
import gzip
import lzma
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

from data.errors import ImageError, InputError
from data.files import Content, Entry, is_hidden

#: Of a zip, of a tar, or something without contents: links lead elsewhere, and devices are no files.
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
        modified_ns: when the archive was last changed: its members did so then.

    Raises:
        InputError: it is no such archive, or unpacks to more than there is room.
    """

    def __init__(self, name: str, file: BinaryIO, modified_ns: int | None) -> None:
        self._modified_ns = modified_ns
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
        return {info.filename: (info.file_size, info) for info in archive.infolist() if not info.is_dir()}

    def _list_tar(self, name: str, file: BinaryIO) -> dict[str, tuple[int, _Member]]:
        opener = next((_COMPRESSED[kind] for kind in _COMPRESSED if name.lower().endswith(kind)), None)
        if opener:
            file = _unpacked(name, file, opener)
            weakref.finalize(self, file.close)
        archive = tarfile.TarFile(fileobj=file)
        self._open = lambda info: closing(cast("IO[bytes]", archive.extractfile(info)))
        return {
            info.name.removeprefix("./"): (info.size, info if info.isreg() else None)
            for info in archive
            if not info.isdir()
        }

    def walk(self) -> Iterator[Entry]:
        """Members in the order of their paths."""
        return map(self.look, sorted(self._members))

    def look(self, path: str) -> Entry:
        """Size of a member."""
        size, info = self._member(path)
        leaves = path.startswith("/") or not {"..", ""}.isdisjoint(path.split("/")) or "\\" in path
        skipped = info is None or leaves or any(map(is_hidden, path.split("/")))
        return Entry(path, size, self._modified_ns, skipped)

    def read(self, path: str, max_bytes: int) -> Content:
        """All of a member."""
        size, info = self._member(path)
        if size > max_bytes:
            raise ImageError("too_large", f"{path} unpacks to {size} bytes, more than {max_bytes}")
        try:
            with self._lock, self._open(info) as member:
                # A member that unpacks to more than it says is damaged, and not read to its end.
                return Content(member.read(size), self._modified_ns)
        except _BROKEN as error:
            raise OSError(f"{path} cannot be read from the archive ({error})") from error

    def _member(self, path: str) -> tuple[int, _Member]:
        try:
            return self._members[path]
        except KeyError:
            raise FileNotFoundError(f"{path} is not in the archive") from None


def _unpacked(name: str, file: BinaryIO, opener: Callable[[BinaryIO], IO[bytes]]) -> BinaryIO:
    """A compressed tar unpacked into a file without a name: members are asked for in another order than they lie in."""
    folder = tempfile.gettempdir()
    target = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - open as long as the archive
    try:
        with opener(file) as source:
            while block := source.read(_BLOCK):
                if shutil.disk_usage(folder).free < _RESERVE:
                    raise InputError(f"{name} unpacks to more than there is room for in {folder}. Unpack it elsewhere.")
                target.write(block)
    except BaseException:
        target.close()
        raise
    target.seek(0)
    return target
