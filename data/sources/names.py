"""Names of files: text in tables and messages, bytes on a disk, whatever the locale."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from nelbo.data.errors import InputError

_HIDDEN = {"thumbs.db", "desktop.ini"}
_FILE_URL = re.compile(r"(?:file|local):(?://(?P<host>[^/]*))?(?P<path>/.*)?", re.IGNORECASE | re.DOTALL)


#: Folders that hold masks beside images, as MVTec, VisA and others call them; casefolded.
MASK_FOLDERS = ("ground_truth", "masks")


def is_mask_folder(name: str) -> bool:
    """Whether a folder of that name holds masks, which say where defects are, and show none.

    >>> is_mask_folder("Ground_Truth"), is_mask_folder("Masks"), is_mask_folder("crack")
    (True, True, False)
    """
    return name.casefold() in MASK_FOLDERS


def text_of(path: str) -> str:
    """A path of this system as text: its bytes read as UTF-8, whatever the locale; other bytes stay escaped.

    >>> text_of("ü.png")
    'ü.png'
    """
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    """The bytes on the disk of a text from `text_of`.

    >>> bytes_of("ü.png") == os.fsencode("ü.png")
    True
    """
    return text.encode("utf-8", "surrogateescape")


def path_of(text: str) -> Path:
    """The path of this system that a text from `text_of` names.

    >>> path_of("in/ü.png")
    PosixPath('in/ü.png')
    """
    return Path(os.fsdecode(bytes_of(text)))


def is_utf8(text: str) -> bool:
    """Whether a name is UTF-8, and can stand in a table.

    >>> is_utf8("ü.png"), is_utf8(text_of(os.fsdecode(b"\\xff.png")))
    (True, False)
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def shown(text: str) -> str:
    """A name to show or store, escaped where it is not UTF-8.

    >>> shown(text_of(os.fsdecode(b"\\xff.png")))
    '\\\\xff.png'
    """
    return bytes_of(text).decode("utf-8", "backslashreplace")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is passed over.

    >>> [is_hidden(name) for name in (".DS_Store", "Thumbs.db", "a.png")]
    [True, True, False]
    """
    return name.startswith(".") or name.lower() in _HIDDEN


def is_url(name: str) -> bool:
    """Whether a `name` is a URL.

    >>> is_url("s3://bucket/a"), is_url("a/b")
    (True, False)
    """
    return "://" in name


def local_path(name: str) -> str:
    """The local path that a ``file://`` URL names; other names as they are.

    Raises:
        InputError: the URL names another machine, or a path that is not absolute.

    >>> local_path("file:///a%20b"), local_path("file://localhost/a"), local_path("a%20b")
    ('/a b', '/a', 'a%20b')
    """
    found = _FILE_URL.match(name)
    # A relative path may begin with that word, too.
    if found is None or not (is_url(name) or found["path"]):
        return name
    if found["path"] is None or (found["host"] or "localhost").lower() != "localhost":
        raise InputError(
            f"{name} names another machine, or a path that is not absolute. Expected a path on this machine with three "
            "slashes, as in file:///folder; mount folders of other machines."
        )
    return os.fsdecode(bytes_of(unquote(found["path"], errors="surrogateescape")))
