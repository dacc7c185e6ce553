"""The root of a name: a folder, an archive, or a place on an object store."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from nelbo.data.errors import ImageError, InputError
from nelbo.data.sources.archives import Archive, copy_aside, is_archive
from nelbo.data.sources.files import Content, Entry, Folder, Root, Stamp, open_regular
from nelbo.data.sources.names import is_hidden, is_url, path_of
from nelbo.data.sources.urls import check_url

#: Names by which file systems give the time of the last change.
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")

#: Names by which they give the version of a file.
_ETAGS = ("ETag", "etag")

#: Bytes that are fetched at a time where the size is unknown.
_PIECE = 1 << 20


def open_root(name: str, skip: Path | None = None) -> Root:
    """The root of that name; each process opens archives and connections one time.

    Args:
        name: a local folder or archive, or a URL such as ``s3://bucket/folder``; credentials come from the
            environment, never from the URL.
        skip: a local folder that is passed over in listings.

    Raises:
        InputError: an archive is damaged, or a URL cannot be opened.
    """
    if is_url(name):
        return _open_archive(name, Stamp()) if is_archive(name) else _open_remote(name)
    path = path_of(name)
    if is_archive(name) and path.is_file():
        return _open_archive(name, Stamp.of(path.stat()))
    return Folder(path, skip)


def is_there(name: str) -> bool:
    """Whether the root called `name` exists; URLs are not looked up, and taken to exist.

    >>> is_there("missing.zip"), is_there("s3://bucket/in")
    (False, True)
    """
    return is_url(name) or path_of(name).exists()


def forget_archive() -> None:
    """Forget archives that were fetched from object stores: others may be there now."""
    _open_archive.cache_clear()


def open_file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path on it.

    Raises:
        InputError: it holds credentials, or there is no such file system, or its package is missing.
    """
    check_url(url)
    try:
        # Other processes write there, too: listings must be fresh.
        return cast(tuple[Any, str], fsspec.core.url_to_fs(url, use_listings_cache=False))
    except ImportError as error:
        raise InputError(f"{url.partition('://')[0]}:// needs a package that is not installed ({error}).") from error
    except ValueError as error:
        raise InputError(
            f"{url} cannot be opened ({error}). Give a path, or a URL such as s3://bucket/folder."
        ) from error


class Remote:
    """A folder on a file system that fsspec knows."""

    def __init__(self, url: str) -> None:
        self._files, self._path = open_file_system(url)

    def walk(self) -> Iterator[Entry]:
        """Files, folder by folder, in the order of their paths."""
        pending = self._entries("")
        while pending:
            entry, is_folder = pending.pop()
            name = entry.path.rstrip("/").rpartition("/")[2]
            if is_hidden(name):
                yield entry._replace(skipped=True)
            elif is_folder:
                try:
                    pending += self._entries(entry.path)
                except (FileNotFoundError, PermissionError) as error:
                    yield Entry(entry.path[:-1], unlisted=error.strerror or str(error))
            else:
                yield entry

    def _entries(self, folder: str) -> list[tuple[Entry, bool]]:
        """What is in a folder, the first one last; as if all paths were sorted, "a/b" comes after "a-b"."""
        start = self._full(folder).rstrip("/")
        found = []
        with _as_os_errors(start):
            infos = self._files.ls(start, detail=True)
        for info in infos:
            name = info["name"].rstrip("/").removeprefix(start).strip("/")
            # Some stores list a folder as a file without a name in itself.
            if name:
                is_folder = info["type"] == "directory"
                path = folder + name + "/" * is_folder
                found.append((Entry(path, _stamp(info)), is_folder))
        return sorted(found, reverse=True, key=lambda item: item[0].path)

    def look(self, path: str) -> Entry:
        """Size, time and version of an object."""
        with _as_os_errors(path):
            info = self._files.info(self._full(path))
        return Entry(path, _stamp(info), skipped=info["type"] != "file")

    def read(self, path: str, max_bytes: int) -> Content:
        """All of an object."""
        stamp = self.look(path).stamp
        if (stamp.size_bytes or 0) > max_bytes:
            raise ImageError("too_large", f"{path} has {stamp.size_bytes} bytes, more than {max_bytes}")
        with _as_os_errors(path):
            if stamp.size_bytes is None or self._is_web:
                return Content(self._in_pieces(path, max_bytes), stamp)
            return Content(self._files.cat_file(self._full(path)), stamp)

    @property
    def _is_web(self) -> bool:
        """Whether sizes are only what a server says: the body may be longer, or compressed."""
        return "http" in self._files.protocol

    def _in_pieces(self, path: str, max_bytes: int) -> bytes:
        found = BytesIO()
        # With block size 0, one answer is read from its beginning, and no parts are requested.
        with self._files.open(self._full(path), "rb", **({"block_size": 0} if self._is_web else {})) as source:
            while piece := source.read(_PIECE):
                found.write(piece)
                if found.tell() > max_bytes:
                    raise ImageError("too_large", f"{path} has more than {max_bytes} bytes")
        return found.getvalue()

    def _full(self, path: str) -> str:
        return f"{self._path.rstrip('/')}/{path}"


@contextmanager
def _as_os_errors(path: str) -> Iterator[None]:
    """Turn the errors of a store's client, which have no class in common, into an OSError."""
    try:
        yield
    except (OSError, ImageError):
        raise
    except Exception as error:
        raise OSError(f"{path} cannot be read ({type(error).__name__}: {error})") from error


def _stamp(info: dict[str, Any]) -> Stamp:
    found = next((info[name] for name in _TIMES if info.get(name)), None)
    seconds = found.timestamp() if isinstance(found, datetime) else found
    modified_ns = int(seconds * 1_000_000_000) if isinstance(seconds, int | float) else None
    etag = next((str(info[name]) for name in _ETAGS if info.get(name)), None)
    return Stamp(info.get("size"), modified_ns, etag=etag)


_open_remote = lru_cache(maxsize=16)(Remote)


@lru_cache(maxsize=4)
def _open_archive(name: str, stamp: Stamp) -> Archive:
    """An archive with that stamp; one on an object store is copied to a temporary file without a name first."""
    if not is_url(name):
        return Archive(name, cast(BinaryIO, open_regular(path_of(name).resolve())), stamp)
    files, path = open_file_system(name)
    with files.open(path, "rb") as source:
        return Archive(name, copy_aside(name, source), stamp)
