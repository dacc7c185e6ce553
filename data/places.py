"""Files and folders on local disks and on object stores (fsspec URLs), as one kind of path.

Object stores have neither rename nor folders: an object appears when its upload is complete, and a folder that must
appear whole has a file that is uploaded last and shows that it is complete.
"""

import ctypes
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TypeAlias, TypeVar

import pyarrow.parquet as pq
from upath import UPath

from nelbo.data.errors import InputError
from nelbo.data.sources.names import is_url, local_path
from nelbo.data.sources.urls import check_url

#: A local path, or an object or prefix in a store.
Place: TypeAlias = Path | UPath

Result = TypeVar("Result")

#: The file that is uploaded last to a folder on an object store: without it, the folder does not exist.
COMMIT = "checksums.json"

_READS = 5

#: Arguments of Linux's renameat2: relative paths start at the current folder, and both names are exchanged.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def open_place(name: str) -> Place:
    """The place that `name`, a path or an fsspec URL, names; nothing is looked up.

    Raises:
        InputError: the URL holds credentials, or names an unknown kind of store.
        ImportError: the package for this store is not installed.

    >>> open_place("file:///tmp/a b"), open_place("memory://bucket/a").name
    (PosixPath('/tmp/a b'), 'a')
    """
    check_url(name)
    name = local_path(name)
    if not is_url(name):
        return Path(name).absolute()
    if not name.partition("://")[2].strip("/") or set(name) & set("*[]"):
        raise InputError("expected a URL such as s3://bucket/prefix, without *, [ and ].")
    try:
        # Listings must be as fresh as a disk's: other processes write, too.
        place = UPath(name.rstrip("/"), use_listings_cache=False)
        # A missing package shows now, and not midway.
        _ = place.fs
    except ValueError as error:
        raise InputError(f"{name}: {error}. Give a local path or a URL such as s3://bucket/prefix.") from error
    return place


def modified(place: Place) -> float:
    """When the file at `place` was last written, in seconds since 1970.

    Raises:
        FileNotFoundError: it is gone.

    >>> modified(Path(__file__)) > 0
    True
    """
    if isinstance(place, Path):
        return place.stat().st_mtime
    return place.fs.modified(place.path).timestamp()


def upload(source: Path, target: UPath, exclusive: bool = False) -> None:
    """Put a local file under its key in one completed upload: before that, readers see what was there.

    Args:
        exclusive: upload only where there is nothing; the store decides between two simultaneous uploads.

    Raises:
        FileExistsError: `exclusive` was set, and there was something.
    """
    target.fs.put_file(str(source), target.path, **({"mode": "create"} if exclusive else {}))


def publish_folder(unfinished: Path, folder: Place) -> None:
    """Make a local folder of files appear whole at its place, instead of what is there.

    On a disk this is one step: if the process is killed, the old or the new folder is there. In a store,
    ``checksums.json`` is uploaded last: until then, it does not match the other files.

    Args:
        unfinished: the finished files, in a local folder that the caller no longer needs.
        folder: where they are to appear.

    >>> import tempfile
    >>> unfinished, folder = (Path(tempfile.mkdtemp()) for _ in range(2))
    >>> _ = (unfinished / "new").write_text("x"), (folder / "old").write_text("x")
    >>> publish_folder(unfinished, folder)
    >>> [file.name for file in folder.iterdir()], unfinished.exists()
    (['new'], False)
    """
    if not isinstance(folder, Path):
        for file in sorted(unfinished.iterdir(), key=lambda file: file.name == COMMIT):
            upload(file, folder / file.name)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        unfinished.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _exchange(unfinished, folder)
        remove_folder(unfinished)


def _exchange(unfinished: Path, folder: Path) -> None:
    """Exchange the names of two folders in one step; in three where the file system or the C library cannot do that."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        ctypes.set_errno(0)
        names = os.fsencode(unfinished), os.fsencode(folder)
        failed = libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    except (OSError, AttributeError):
        failed = True
    if failed:
        # Between the first two renames no folder has the name, for some microseconds.
        old = unfinished.with_name(f"{unfinished.name}.old")
        folder.rename(old)
        unfinished.rename(folder)
        old.rename(unfinished)


def remove_folder(folder: Place) -> None:
    """Remove a `folder` and what is in it, if it exists; links are not followed.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> remove_folder(folder), remove_folder(folder), folder.exists()
    (None, None, False)
    """
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        with suppress(FileNotFoundError):
            folder.fs.rm(folder.path, recursive=True)


@contextmanager
def open_parquet(source: Place, whole: bool = False) -> Iterator[pq.ParquetFile]:
    """An open Parquet file; its pages are verified where they have checksums.

    Args:
        whole: fetch all of an object at once; otherwise only the parts that are read.
    """
    if isinstance(source, Path):
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            yield file
        return
    # Readahead would fetch the columns in between, too.
    stream = BytesIO(source.fs.cat_file(source.path)) if whole else source.fs.open(source.path, cache_type="none")
    with stream, pq.ParquetFile(stream, pre_buffer=True, page_checksum_verification=True) as file:
        yield file


def read_unchanged(read: Callable[[], Result]) -> Result:
    """What `read` returns; it is called again if an object was replaced while it was being read.

    >>> read_unchanged(lambda: 7)
    7
    """
    for _ in range(_READS - 1):
        try:
            return read()
        except OSError as error:
            if not was_replaced(error):
                raise
    return read()


def was_replaced(error: OSError) -> bool:
    """Whether reading failed because an object was replaced meanwhile."""
    return type(error).__name__ == "FileExpired"
