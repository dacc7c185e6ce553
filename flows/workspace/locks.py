"""Locks on files and folders; the system frees them when their holder ends, in whatever way."""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

#: Errors of file systems without locks, or without locks on folders: there nobody waits, as in an object store.
_NO_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


@contextmanager
def locked(place: Path, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file or folder for a block.

    Args:
        place: created if it does not exist: an empty file if its name ends in ``.lock``, otherwise a folder.
        shared: whether others may share it; then nobody has it alone.
        wait: whether to wait until it is free.

    Raises:
        BlockingIOError: it is not free, and `wait` is False.
    """
    operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        descriptor = _open(place)
        try:
            _flock(descriptor, operation, place)
            # The previous holder may have removed the file or folder.
            if _is_at(descriptor, place):
                yield
                return
        finally:
            os.close(descriptor)


def _open(place: Path) -> int:
    is_folder = place.suffix != ".lock"
    (place if is_folder else place.parent).mkdir(parents=True, exist_ok=True)
    return os.open(place, os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT, 0o666)


def _flock(descriptor: int, operation: int, place: Path) -> None:
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _say(str(place), error.strerror)


@cache
def _say(place: str, why: str) -> None:
    """Warn one time for each place."""
    log.warning("%s cannot be locked (%s): let one command at a time write to this workspace", place, why)


def _is_at(descriptor: int, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), place.stat())
    except FileNotFoundError:
        return False
