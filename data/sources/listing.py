"""What a source names: a folder, an archive, a table of paths, a pattern, one file; here or on an object store."""

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fsspec.utils import glob_translate

from nelbo.data.errors import InputError
from nelbo.data.sources.archives import is_archive
from nelbo.data.sources.files import Entry
from nelbo.data.sources.names import MASK_FOLDERS, is_url, is_utf8, local_path, text_of
from nelbo.data.sources.roots import forget_archive, open_file_system, open_root
from nelbo.data.sources.tables import read_rows
from nelbo.data.sources.urls import check_urls

_TABLES = (".csv", ".parquet")
_MAGIC = re.compile(r"[*?[]")

#: Masks: pictures that mark where defects are, as in MVTec and VisA, and show none.
_MASK = re.compile(rf"(?:^|/)(?:(?:{'|'.join(MASK_FOLDERS)})/.*_mask\.[^/.]+|data/masks/.*)", re.DOTALL | re.IGNORECASE)


class Listed(NamedTuple):
    """A file to ingest, and what a table says of it."""

    entry: Entry
    label: int = -1
    split: str | None = None
    group: str | None = None
    variant: str | None = None


@dataclass(frozen=True)
class Listing:
    """The files of a source in the order of their paths; ``entries`` can be iterated once.

    source: as the caller named it; root: what the paths start from.

    Raises:
        InputError: the root's name is not UTF-8, and cannot stand in a table.
    """

    source: str
    root: str
    entries: Iterator[Listed]

    def __post_init__(self) -> None:
        if not is_utf8(self.root):
            raise InputError(f"the folder {self.root!r} has a name that is not UTF-8. Rename it.")


def list_source(source: str, root: str | None = None, skip: Path | None = None) -> Listing:
    """List a source; see `data.ingest` for what it can be.

    Args:
        source: what is listed.
        root: the folder that a manifest's paths start from.
        skip: a folder below the source that is passed over.

    Returns:
        Its files, which are found while they are iterated.

    Raises:
        InputError: there is no such source, or its table cannot be used.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.png").write_bytes(b"")
    >>> [listed.entry.path for listed in list_source(str(folder)).entries]
    ['a.png']
    """
    check_urls([source, root])
    source, root = local_path(source), root and local_path(root)
    if is_url(source):
        return _list_url(source, root)
    try:
        return _list_local(source, root, skip)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        # It is too long, out of reach, or has a zero byte in it.
        raise InputError(f"{source} cannot be accessed ({error}). Give a path that you may read.") from error


def _list_local(source: str, root: str | None, skip: Path | None) -> Listing:
    path = Path(source)
    if path.is_file() and path.suffix.lower() in _TABLES:
        start = root if root is not None and is_url(root) else _resolved(Path(root or path.parent))
        return _listed(source, text_of(str(path.absolute())), start)
    _refuse_root(source, root)
    if path.is_dir() or (path.is_file() and is_archive(source)):
        return _walked(source, _resolved(path), skip)
    if path.is_file():
        # A link that the caller named is followed.
        parent, _, name = _resolved(path).rpartition("/")
        return _one(source, parent or "/", name)
    if _MAGIC.search(source) and not path.exists():
        start, pattern = _split_pattern(source)
        return _matching(source, _resolved(Path(start)), text_of(pattern), skip)
    if path.exists():
        raise InputError(f"{source} is not a regular file. Give a folder, an archive, a table of paths, or an image.")
    raise InputError(f"{source} does not exist. Give a folder, an archive, a CSV or Parquet manifest, or an image.")


def _resolved(path: Path) -> str:
    return text_of(str(path.resolve()))


def _list_url(source: str, root: str | None) -> Listing:
    files, path = open_file_system(source)
    parent, _, name = source.rstrip("/").rpartition("/")
    try:
        is_file = files.isfile(path)
        # For a file on a web server, isdir would read all of it.
        is_folder = not is_file and files.isdir(path)
    except Exception as error:
        # The errors of stores' clients have no class in common.
        raise InputError(f"{source} cannot be accessed ({type(error).__name__}: {error}).") from error
    if is_file and name.lower().endswith(_TABLES):
        return _listed(source, source, root or parent)
    _refuse_root(source, root)
    if is_file and not is_archive(source):
        return _one(source, parent, name)
    if is_folder or is_file:
        forget_archive()
        return _walked(source, source.rstrip("/"))
    if _MAGIC.search(source):
        return _matching(source, *_split_pattern(source))
    raise InputError(f"{source} does not exist. Give a folder, an archive, a CSV or Parquet manifest, or an image.")


def _refuse_root(source: str, root: str | None) -> None:
    if root is not None:
        raise InputError(f"root={root} is for a CSV or Parquet manifest, and {source} is not one. Leave it out.")


def _walked(source: str, root: str, skip: Path | None = None) -> Listing:
    return Listing(source, root, map(_without_mask, _guarded(source, open_root(root, skip).walk())))


def _without_mask(entry: Entry) -> Listed:
    return Listed(entry._replace(skipped=True) if is_mask(entry.path) else entry)


def is_mask(path: str) -> bool:
    """Whether a file is a mask, judging by its path as in well-known data sets.

    >>> is_mask("ground_truth/bent/000_mask.png"), is_mask("test/bent/000.png")
    (True, False)
    """
    return _MASK.search(path) is not None


def _guarded(source: str, entries: Iterator[Entry]) -> Iterator[Entry]:
    """The same entries; a root that cannot be listed is an InputError."""
    try:
        yield from entries
    except OSError as error:
        where = error.filename or source
        raise InputError(
            f"{where} cannot be listed ({error.strerror or error}). Grant access or leave it out."
        ) from error


def _one(source: str, root: str, name: str) -> Listing:
    entry = open_root(root).look(name)
    return Listing(source, root, iter([Listed(entry)]))


def _split_pattern(source: str) -> tuple[str, str]:
    """The folder before the first part with a wildcard, and the pattern below it.

    >>> _split_pattern("in/line?/*.png"), _split_pattern("*.png")
    (('in', 'line?/*.png'), ('.', '*.png'))
    """
    parts = source.split("/")
    first = next(index for index, part in enumerate(parts) if _MAGIC.search(part))
    return "/".join(parts[:first]) or ("/" if source.startswith("/") else "."), "/".join(parts[first:])


def _matching(source: str, root: str, pattern: str, skip: Path | None = None) -> Listing:
    try:
        matches = re.compile(glob_translate(pattern)).match
    except ValueError as error:
        raise InputError(f"{source} is not a pattern ({error}). Use *, ? and [...], and ** for any folders.") from error
    found = _walked(source, root, skip)
    return Listing(source, root, (x for x in found.entries if _concerns(x.entry, pattern) or matches(x.entry.path)))


def _concerns(entry: Entry, pattern: str) -> bool:
    """Whether a folder that cannot be listed may hold something that matches."""
    if entry.unlisted is None:
        return False
    folders, parts = entry.path.split("/"), pattern.split("/")
    for folder, part in zip(folders, parts, strict=False):
        if part == "**":
            return True
        if not fnmatch.fnmatchcase(folder, part):
            return False
    return len(folders) < len(parts)


def _listed(source: str, table_path: str, root: str) -> Listing:
    """The files that a table names; missing ones too."""
    rows = read_rows(source, table_path, root)
    return Listing(source, root, (Listed(_look(root, row.path), *row[1:]) for row in rows))


def _look(root: str, path: str) -> Entry:
    try:
        # A file that the table names has a row, whatever it is.
        return open_root(root).look(path)._replace(skipped=False)
    except (OSError, ValueError):
        return Entry(path)
