"""Where the files of a batch lie, and how they are opened: others may have put them there."""

import os
import stat
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple, Protocol

from data.errors import ImageError


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
        path = Path(path).absolute()
        return cls(str(path.parent), path.name)


class Content(NamedTuple):
    """A file as read: its bytes, and when it was last changed (nanoseconds since 1970; None where nobody knows)."""

    data: bytes
    modified_ns: int | None


class Root(Protocol):
    """A folder, archive or URL with files in it; one object serves all threads."""

    def read(self, path: str, max_bytes: int) -> Content:
        """All of a file below the root.

        Raises:
            ImageError: ``too_large``, it is longer than `max_bytes`.
            OSError: it cannot be read.
        """


class Folder:
    """A local folder."""

    def __init__(self, name: str) -> None:
        self._path = Path(name)

    def read(self, path: str, max_bytes: int) -> Content:
        """All of a regular file."""
        with open_regular(self._path / path) as file:
            status = os.fstat(file.fileno())
            if status.st_size > max_bytes:
                raise ImageError("too_large", f"{path} has {status.st_size} bytes, more than {max_bytes}")
            return Content(file.read(), status.st_mtime_ns)


@lru_cache(maxsize=16)
def open_root(name: str) -> Root:
    """The root of that name, opened once a process."""
    return Folder(name)


def read_file(file: File, max_bytes: int) -> bytes:
    """All of a file; see `Root.read` for errors."""
    return open_root(file.root).read(file.path, max_bytes).data


def open_regular(path: Path) -> BufferedReader:
    """Open a local file to read, without waiting on a pipe or following a link that stands in its place.

    Raises:
        OSError: it is missing, a link, or no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb")
