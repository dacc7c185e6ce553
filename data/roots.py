"""The root of a name: a folder, an archive, or a place on an object store."""

import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from data.archives import Archive, is_archive
from data.errors import ImageError, InputError
from data.files import Content, Entry, Folder, Root, is_hidden, open_regular

#: Where file systems keep the time of the last change.
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")


def open_root(name: str, skip: Path | None = None) -> Root:
    """The root of that name; archives and connections are opened once a process.

    Args:
        name: a local folder or archive, or a URL such as ``s3://bucket/folder``; credentials come from the
            environment, never from the URL.
        skip: a local folder that is passed over in listings.

    Raises:
        InputError: an archive is damaged, or a URL cannot be opened.
    """
    if is_url(name):
        return _open_archive(name, None) if is_archive(name) else _open_url(name)
    path = Path(name)
    if is_archive(name) and path.is_file():
        return _open_archive(name, path.stat().st_mtime_ns)
    return Folder(path, skip)


def is_url(name: str) -> bool:
    """Whether a name is a URL.

    >>> is_url("s3://bucket/a"), is_url("a/b")
    (True, False)
    """
    return "://" in name


def open_file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path on it.

    Raises:
        InputError: it holds credentials, or there is no such file system, or its package is missing.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.username is not None or parts.password is not None or "::" in url:
        raise InputError(
            f"the {parts.scheme} URL holds credentials or is a chain. Give the plain address; credentials come from "
            "the environment."
        )
    try:
        # Other processes write there, too: listings must be fresh.
        return cast(tuple[Any, str], fsspec.core.url_to_fs(url, use_listings_cache=False))
    except ImportError as error:
        raise InputError(f"{parts.scheme}:// needs a package that is not installed ({error}).") from error
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
                pending += self._entries(entry.path)
            else:
                yield entry

    def _entries(self, folder: str) -> list[tuple[Entry, bool]]:
        """What is in a folder, the first one last; as if all paths were sorted, "a/b" comes after "a-b"."""
        start = self._full(folder).rstrip("/")
        found = []
        for info in self._files.ls(start, detail=True):
            name = info["name"].rstrip("/").removeprefix(start).strip("/")
            # Some stores list a folder as a file without a name in itself.
            if name:
                is_folder = info["type"] == "directory"
                path = folder + name + "/" * is_folder
                found.append((Entry(path, info.get("size"), _modified_ns(info)), is_folder))
        return sorted(found, reverse=True, key=lambda item: item[0].path)

    def look(self, path: str) -> Entry:
        """Size and time of an object."""
        info = self._files.info(self._full(path))
        return Entry(path, info.get("size"), _modified_ns(info), skipped=info["type"] != "file")

    def read(self, path: str, max_bytes: int) -> Content:
        """All of an object."""
        entry = self.look(path)
        if entry.size_bytes is not None and entry.size_bytes > max_bytes:
            raise ImageError("too_large", f"{path} has {entry.size_bytes} bytes, more than {max_bytes}")
        return Content(self._files.cat_file(self._full(path)), entry.modified_ns)

    def _full(self, path: str) -> str:
        return f"{self._path.rstrip('/')}/{path}"


def _modified_ns(info: dict[str, Any]) -> int | None:
    found = next((info[name] for name in _TIMES if info.get(name)), None)
    seconds = found.timestamp() if isinstance(found, datetime) else found
    return int(seconds * 1_000_000_000) if isinstance(seconds, int | float) else None


@lru_cache(maxsize=16)
def _open_url(url: str) -> Remote:
    return Remote(url)


@lru_cache(maxsize=4)
def _open_archive(name: str, modified_ns: int | None) -> Archive:
    """An archive of that age; one on an object store is copied into a file without a name first."""
    if not is_url(name):
        return Archive(name, cast(BinaryIO, open_regular(Path(name).resolve())), modified_ns)
    files, path = open_file_system(name)
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - stays open with the archive
    with files.open(path, "rb") as source:
        shutil.copyfileobj(source, copy, 1 << 24)
    copy.seek(0)
    return Archive(name, cast(BinaryIO, copy), None)
