"""Where the files of a batch lie, and how they are listed and read: others may have put them there."""

import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple, Protocol

from data.errors import CHANGED, ImageError

_HIDDEN = {"thumbs.db", "desktop.ini"}


class File(NamedTuple):
    """One file of a batch.

    root: the folder, archive or URL that it lies in.
    path: of the file below the root, with ``/``.
    image_id: hex SHA-256 of the contents that are expected; None takes what is there.
    """

    root: str
    path: str
    image_id: str | None = None

    @classmethod
    def at(cls, path: Path | str) -> "File":
        """A local file, wherever it lies.

        >>> File.at("/images/a.png")
        File(root='/images', path='a.png', image_id=None)
        """
        # Not Path: its parsing of a hundred thousand takes seconds.
        return cls(*os.path.split(os.path.join(os.getcwd(), path)))  # noqa: PTH109, PTH118


class Content(NamedTuple):
    """A file as read: its bytes, and when it was last changed (nanoseconds since 1970; None where nobody knows)."""

    data: bytes
    modified_ns: int | None


class Entry(NamedTuple):
    """What a listing says of a file; ``skipped`` is one that has no row: hidden, a link, or no regular file.

    A folder that is passed over is one entry.
    """

    path: str
    size_bytes: int | None = None
    modified_ns: int | None = None
    skipped: bool = False


class Root(Protocol):
    """A folder, archive or URL with files in it; one object serves all threads."""

    def walk(self) -> Iterator[Entry]:
        """Everything below the root, in the order of the paths.

        Raises:
            OSError: a folder cannot be listed.
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

    def walk(self) -> Iterator[Entry]:
        """Files, folder by folder; no more than the names in one line of folders are in memory at once."""
        pending = self._names("")
        while pending:
            path = pending.pop()
            if not path.endswith("/"):
                yield self._entry(path)
            elif self._passes_over(path):
                yield Entry(path[:-1], skipped=True)
            else:
                pending += self._names(path)

    def _names(self, folder: str) -> list[str]:
        """What is in a folder, the first one last; as if all paths were sorted, "a/b" comes after "a-b"."""
        with os.scandir(self._path / folder) as found:
            names = [entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in found]
        return [folder + name for name in sorted(names, reverse=True)]

    def _passes_over(self, folder: str) -> bool:
        if is_hidden(folder[:-1].rpartition("/")[2]):
            return True
        return self._skip is not None and (self._path / folder).resolve() == self._skip

    def _entry(self, path: str) -> Entry:
        if is_hidden(path.rpartition("/")[2]):
            return Entry(path, skipped=True)
        try:
            return self.look(path)
        except FileNotFoundError:
            # Gone since the folder was listed: `read` will say so.
            return Entry(path)

    def look(self, path: str) -> Entry:
        """Size and time of a file."""
        status = (self._path / path).lstat()
        return Entry(path, status.st_size, status.st_mtime_ns, skipped=not stat.S_ISREG(status.st_mode))

    def read(self, path: str, max_bytes: int) -> Content:
        """All of a regular file."""
        # As text: joining paths takes as long as reading a small file.
        with open_regular(f"{self._path}/{path}") as file:
            status = os.fstat(file.fileno())
            if status.st_size > max_bytes:
                raise ImageError("too_large", f"{path} has {status.st_size} bytes, more than {max_bytes}")
            # One byte more than there should be, so that a file that grows meanwhile neither fits nor fills the memory.
            data = file.read(status.st_size + 1)
            if len(data) != status.st_size or os.fstat(file.fileno()).st_mtime_ns != status.st_mtime_ns:
                raise ImageError(CHANGED, f"{path} is being written to")
            return Content(data, status.st_mtime_ns)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is passed over.

    >>> [is_hidden(name) for name in (".DS_Store", "Thumbs.db", "a.png")]
    [True, True, False]
    """
    return name.startswith(".") or name.lower() in _HIDDEN


def open_regular(path: Path | str) -> BufferedReader:
    """Open a local file to read, without waiting on a pipe or following a link that stands in its place.

    Raises:
        OSError: it is missing, a link, or no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb")
