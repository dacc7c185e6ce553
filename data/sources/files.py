"""Where the files of a batch lie, and how they are listed and read, even if others have put them there."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple, Protocol

from nelbo.data.errors import CHANGED, ImageError
from nelbo.data.sources.names import bytes_of, is_hidden, path_of, text_of

#: A file that was changed this shortly before it was read may change again without its times showing it: file systems
#: count in steps of up to two seconds, and date what is written to a mapped file up to half a minute too early.
YOUNG_NS = 60_000_000_000

#: This process lacks descriptors or memory, which says nothing of the folder that it lists.
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

#: To open a folder that is passed through and not listed: the right to enter it is enough.
_ENTER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY


class File(NamedTuple):
    """One file of a batch.

    root: the folder, archive or URL that it lies in.
    path: of the file below the root, with ``/``.
    image_id: hex SHA-256 of the expected contents; None takes any.
    """

    root: str
    path: str
    image_id: str | None = None

    @classmethod
    def at(cls, path: Path | str) -> "File":
        """A local file at `path`, wherever it lies.

        >>> File.at("/images/a.png")
        File(root='/images', path='a.png', image_id=None)
        """
        # Not Path: parsing a hundred thousand of them takes seconds.
        return cls(*os.path.split(text_of(os.path.join(os.getcwd(), path))))  # noqa: PTH109, PTH118


class Stamp(NamedTuple):
    """What tells contents apart without reading them; None where a file system or a store does not say.

    size_bytes: of the file.
    modified_ns: when its contents were last changed, in nanoseconds since 1970; whoever writes it can set that back.
    changed_ns: when anything of it was last changed, which nobody can set.
    inode: its number on the disk.
    etag: what an object store calls this version.
    """

    size_bytes: int | None = None
    modified_ns: int | None = None
    changed_ns: int | None = None
    inode: int | None = None
    etag: str | None = None

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """The stamp of a local file with this `status`."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    def was_settled(self, when_ns: int) -> bool:
        """Whether every change since `when_ns` shows in the stamp; False where times are missing or in the future.

        Args:
            when_ns: a time, in nanoseconds since 1970.
        """
        if self.modified_ns is None:
            return False
        return max(self.modified_ns, self.changed_ns or 0) < when_ns - YOUNG_NS


class Content(NamedTuple):
    """A file as read: its bytes, and its stamp at that time."""

    data: bytes
    stamp: Stamp


class Entry(NamedTuple):
    """What a listing says of a file.

    skipped: whether it has no row: it is hidden, a link, or not a regular file. A folder that is passed over is one
        entry.
    unlisted: why a folder cannot be listed; its files have no rows.
    """

    path: str
    stamp: Stamp = Stamp()
    skipped: bool = False
    unlisted: str | None = None


class Root(Protocol):
    """A folder, archive or URL with files in it; one object serves all threads."""

    def walk(self) -> Iterator[Entry]:
        """Everything below the root, in the order of the paths.

        Raises:
            OSError: it cannot be listed itself.
        """

    def look(self, path: str) -> Entry:
        """What a listing would say of a file.

        Raises:
            OSError: there is no such file.
        """

    def read(self, path: str, max_bytes: int) -> Content:
        """All of a file below the root.

        Raises:
            ImageError: ``too_large``, it is longer than `max_bytes`; ``changed``, it is being written to.
            OSError: it cannot be read.
        """


class Folder:
    """A local folder; links in it are not followed.

    skip: a folder below it that is passed over.
    """

    def __init__(self, path: Path, skip: Path | None = None) -> None:
        self._path = path
        self._skip = skip.resolve() if skip is not None else None

    def walk(self, below: str = "") -> Iterator[Entry]:
        """Files, folder by folder; only the names in one line of folders are in memory at once.

        Args:
            below: a folder below this one, to which the walk is limited.
        """
        pending = self._names(f"{below}/" if below else "")
        while pending:
            path = pending.pop()
            if not path.endswith("/"):
                yield self._entry(path)
            elif self._passes_over(path):
                yield Entry(path[:-1], skipped=True)
            else:
                try:
                    pending += self._names(path)
                except OSError as error:
                    if error.errno in _OURS or not self._path.exists():
                        raise
                    yield Entry(path[:-1], unlisted=error.strerror or str(error))

    def _names(self, folder: str) -> list[str]:
        """What is in a folder, the first one last; as if all paths were sorted, "a/b" comes after "a-b"."""
        with os.scandir(self._path / path_of(folder)) as found:
            names = [text_of(entry.name) + "/" * _is_folder(entry) for entry in found]
        return [folder + name for name in sorted(names, reverse=True)]

    def _passes_over(self, folder: str) -> bool:
        if is_hidden(folder[:-1].rpartition("/")[2]):
            return True
        return self._skip is not None and (self._path / path_of(folder)).resolve() == self._skip

    def _entry(self, path: str) -> Entry:
        if is_hidden(path.rpartition("/")[2]):
            return Entry(path, skipped=True)
        try:
            return _entry_of(path, os.lstat(os.fsencode(self._path) + b"/" + bytes_of(path)))
        except OSError:
            # Gone since the folder was listed, or out of reach: `read` will say so.
            return Entry(path)

    def passes_over(self, folder: str) -> bool:
        """Whether a folder, or one that it lies in, is hidden or left out."""
        parts = folder.split("/") if folder else []
        return any(self._passes_over("/".join(parts[: n + 1]) + "/") for n in range(len(parts)))

    def look(self, path: str) -> Entry:
        """Size and times of a file."""
        with self._reached(path) as (folder, name):
            return _entry_of(path, os.stat(name, dir_fd=folder, follow_symlinks=False))

    def read(self, path: str, max_bytes: int) -> Content:
        """All of a regular file."""
        with self._reached(path) as (folder, name), open_regular(name, folder) as file:
            stamp = Stamp.of(os.fstat(file.fileno()))
            size = stamp.size_bytes or 0
            if size > max_bytes:
                raise ImageError("too_large", f"{path} has {size} bytes, more than {max_bytes}")
            # One byte more than expected, so that a file that grows meanwhile is noticed, and does not fill the memory.
            data = file.read(size + 1)
            if len(data) != size or os.fstat(file.fileno()).st_mtime_ns != stamp.modified_ns:
                raise ImageError(CHANGED, f"{path} is being written to")
            return Content(data, stamp)

    @contextmanager
    def _reached(self, path: str) -> Iterator[tuple[int, bytes]]:
        """A descriptor of the folder that a file lies in, and the file's name there.

        Each folder is entered from the one above: links that were put there since the listing are not followed.
        """
        *folders, name = bytes_of(path).split(b"/")
        here = os.open(self._path, _ENTER)
        try:
            for folder in folders:
                if folder == b"..":
                    raise FileNotFoundError(f"{path} leads out of the folder")
                above, here = here, os.open(folder, _ENTER | os.O_NOFOLLOW, dir_fd=here)
                os.close(above)
            yield here, name
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            raise FileNotFoundError(f"{path} is a link, or lies behind one") from error
        finally:
            os.close(here)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        # In a folder of which the names can be read, and nothing else.
        return False


def _entry_of(path: str, status: os.stat_result) -> Entry:
    return Entry(path, Stamp.of(status), skipped=not stat.S_ISREG(status.st_mode))


def open_regular(path: Path | str | bytes, folder: int | None = None) -> BufferedReader:
    """Open a local file for reading, without waiting on a pipe or following a link that is in its place.

    Args:
        folder: a descriptor of the folder that `path` starts from.

    Raises:
        OSError: it is missing, a link, or not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{os.fsdecode(path)} is not a regular file")
    return os.fdopen(descriptor, "rb")
