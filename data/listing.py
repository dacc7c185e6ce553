"""What a source names: a folder, an archive, a table of paths, a pattern, one file; here or on an object store."""

import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.utils import glob_translate
from pyarrow import csv

from data.archives import is_archive
from data.errors import ImageError, InputError
from data.files import Entry
from data.roots import is_url, open_file_system, open_root

SPLITS = ("train", "validation", "calibration", "test")
_TABLES = (".csv", ".parquet")
_COLUMNS = ("path", "label", "split")
_LABELS = {"": -1, "-1": -1, "0": 0, "1": 1}
_MAGIC = re.compile(r"[*?[]")
#: Larger tables of paths are refused.
_MAX_TABLE_BYTES = 1 << 32


class Listed(NamedTuple):
    """A file to ingest, and what a table says of it."""

    entry: Entry
    label: int = -1
    split: str | None = None


@dataclass(frozen=True)
class Listing:
    """The files of a source in the order of their paths; ``entries`` can be gone through once.

    source: as it was asked for; root: what the paths start from.

    Raises:
        InputError: the root has a name that cannot stand in a table.
    """

    source: str
    root: str
    entries: Iterator[Listed]

    def __post_init__(self) -> None:
        if not is_utf8(self.root):
            raise InputError(f"the folder {self.root!r} has a name that is not UTF-8. Rename it.")


def list_source(source: str, root: str | None = None, skip: Path | None = None) -> Listing:
    """List a source; see `data.ingest` for what it can be.

    Raises:
        InputError: there is no such source, or its table cannot be used.
    """
    source = source.removeprefix("file://")
    if is_url(source):
        return _list_url(source, root)
    path = Path(source)
    if path.is_file() and path.suffix.lower() in _TABLES:
        start = root if root is not None and is_url(root) else str(Path(root or path.parent).resolve())
        return _listed(source, str(path.absolute()), start)
    _refuse_root(source, root)
    if path.is_dir() or (path.is_file() and is_archive(source)):
        return _walked(source, str(path.resolve()), skip)
    if path.is_file():
        # A link that was asked for by name is followed.
        path = path.resolve()
        return _one(source, str(path.parent), path.name)
    if _MAGIC.search(source) and not path.exists():
        start, pattern = _split_pattern(source)
        return _matching(source, str(Path(start).resolve()), pattern, skip)
    if path.exists():
        raise InputError(f"{source} is no regular file. Give a folder, an archive, a table of paths, or an image.")
    raise InputError(f"{source} does not exist. Give a folder, an archive, a CSV or Parquet manifest, or an image.")


def is_utf8(name: str) -> bool:
    """Whether a file's name is text.

    >>> is_utf8("ü.png"), is_utf8(os.fsdecode(b"\\xff.png"))
    (True, False)
    """
    return os.fsencode(name).decode("utf-8", "replace") == name


def _list_url(source: str, root: str | None) -> Listing:
    files, path = open_file_system(source)
    parent, _, name = source.rstrip("/").rpartition("/")
    try:
        is_folder, is_file = files.isdir(path), files.isfile(path)
    except Exception as error:
        # What a store's client raises is not in one family.
        raise InputError(f"{source} cannot be looked at ({type(error).__name__}: {error}).") from error
    if is_file and name.lower().endswith(_TABLES):
        return _listed(source, source, root or parent)
    _refuse_root(source, root)
    if is_file and not is_archive(source):
        return _one(source, parent, name)
    if is_folder or is_file:
        return _walked(source, source.rstrip("/"))
    if _MAGIC.search(source):
        return _matching(source, *_split_pattern(source))
    raise InputError(f"{source} does not exist. Give a folder, an archive, a CSV or Parquet manifest, or an image.")


def _refuse_root(source: str, root: str | None) -> None:
    if root is not None:
        raise InputError(f"root={root} goes with a CSV or Parquet manifest, and {source} is none. Leave it out.")


def _walked(source: str, root: str, skip: Path | None = None) -> Listing:
    return Listing(source, root, map(Listed, _guarded(source, open_root(root, skip).walk())))


def _guarded(source: str, entries: Iterator[Entry]) -> Iterator[Entry]:
    """The same entries; a folder that cannot be listed is an error of the source."""
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
    return Listing(source, root, (listed for listed in found.entries if matches(listed.entry.path)))


def _listed(source: str, table_path: str, root: str) -> Listing:
    """The files that a table names; missing ones too."""
    table = _read_table(source, table_path)
    if "path" not in table.columns:
        raise InputError(f"{source} has no column 'path'. Name the column of the files 'path'.")
    if table.empty:
        raise InputError(f"{source} lists no files. Add a row for each image.")
    paths = table["path"].map(lambda path: _inside(path, root))
    _check_rows(source, table["path"][paths.isna()], f"leave {root}", "Keep to that folder, or give another root")
    _check_rows(source, paths[paths.duplicated()], "are repeated", "List each file once")
    labels = table["label"] if "label" in table else pd.Series("", index=table.index)
    # Spreadsheets and pandas write a column of whole numbers with gaps as 0.0 and 1.0.
    labels = labels.str.strip().str.removesuffix(".0")
    _check_rows(source, labels[~labels.isin(list(_LABELS))], "are no labels", "Use 0, 1, or nothing")
    splits = table["split"].str.strip() if "split" in table else pd.Series("", index=table.index)
    _check_rows(source, splits[~splits.isin(["", *SPLITS])], "are no splits", f"Use {', '.join(SPLITS)}, or nothing")
    rows = sorted(zip(paths, labels, splits, strict=True))
    return Listing(source, root, (Listed(_look(root, p), _LABELS[n], s or None) for p, n, s in rows))


def _look(root: str, path: str) -> Entry:
    try:
        # What is named has a row, whatever it is.
        return open_root(root).look(path)._replace(skipped=False)
    except (OSError, ValueError):
        return Entry(path)


def _read_table(source: str, table_path: str) -> pd.DataFrame:
    parent, _, name = table_path.rpartition("/")
    try:
        content = BytesIO(open_root(parent or "/").read(name, _MAX_TABLE_BYTES).data)
        if name.lower().endswith(".csv"):
            # Strict: a row with a field too many is an error, not shifted. All text: a file may be called NA.
            texts = csv.ConvertOptions(column_types=dict.fromkeys(_COLUMNS, pa.string()))
            options = csv.ParseOptions(newlines_in_values=True)
            table = csv.read_csv(content, parse_options=options, convert_options=texts)
        else:
            table = pq.read_table(content, columns=[name for name in pq.read_schema(content).names if name in _COLUMNS])
        table = table.select([name for name in table.column_names if name in _COLUMNS]).to_pandas()
    except (OSError, ValueError, ImageError, pa.ArrowException) as error:
        raise InputError(f"{source} is not a readable manifest ({error}). Give CSV (UTF-8) or Parquet.") from error
    return pd.DataFrame({name: table[name].map(_text) for name in table})


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value)


def _inside(path: str, root: str) -> str | None:
    """`path` relative to `root` in POSIX form, or None where it points out of it, links included."""
    if not path or "\0" in path:
        return None
    if is_url(root):
        relative = posixpath.normpath(path)
        return None if relative.startswith(("/", "../")) or relative in (".", "..") else relative
    try:
        below = Path(os.path.normpath(Path(root) / path)).relative_to(root)
        (root / below).resolve().relative_to(root)
    except (ValueError, OSError, RuntimeError):
        return None
    return None if below == Path() else below.as_posix()


def _check_rows(source: str, bad: "pd.Series[str]", what: str, remedy: str) -> None:
    if len(bad):
        raise InputError(f"{source}: {len(bad)} values {what}: {_first(bad)}. {remedy}.")


def _first(values: "pd.Series[str]", shown: int = 5) -> str:
    text = ", ".join(repr(value) for value in values.iloc[:shown])
    return text if len(values) <= shown else f"{text} and {len(values) - shown} more"
