"""What the file system of a folder can do."""

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def describe(folder: Path) -> dict[str, Any]:
    """The type, free space and abilities of a folder's file system, tried out in a temporary folder inside.

    >>> sorted(describe(Path(tempfile.mkdtemp())))
    ['case_sensitive', 'free_bytes', 'hard_links', 'locks', 'syncs_folders', 'type']
    """
    with tempfile.TemporaryDirectory(prefix=".nelbo-", dir=folder) as aside:
        inside = Path(aside)
        (inside / "a").touch()
        opened = os.open(inside, os.O_RDONLY)
        try:
            return {
                "type": kind(folder),
                "free_bytes": shutil.disk_usage(folder).free,
                "syncs_folders": _can(os.fsync, opened),
                "hard_links": _can(os.link, inside / "a", inside / "b"),
                "locks": _can(fcntl.flock, opened, fcntl.LOCK_EX),
                "case_sensitive": not (inside / "A").exists(),
            }
        finally:
            os.close(opened)


def kind(folder: Path) -> str:
    """The file system's name, such as ext4 or nfs4; "unknown" where the system does not say."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown"
    mounts = {_unescaped(fields[1]): fields[2] for fields in map(str.split, lines)}
    path = folder.resolve()
    return next((mounts[str(place)] for place in (path, *path.parents) if str(place) in mounts), "unknown")


def _unescaped(path: str) -> str:
    """A path of the table of mounts, which writes blanks, line ends and backslashes as octal numbers.

    >>> _unescaped(r"/mnt/a\\040b")
    '/mnt/a b'
    """
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _can(attempt: Callable[..., object], *args: Any) -> bool:
    try:
        attempt(*args)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    return True
