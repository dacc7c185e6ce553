"""The table of files in one batch: which there are, what they hold, and which look like images."""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from nelbo.data.decoder.decoding import Look, look_into
from nelbo.data.decoder.limits import Limits
from nelbo.data.errors import CHANGED, InputError
from nelbo.data.schemas import MANIFEST_SCHEMA
from nelbo.data.sources.contents import Contents
from nelbo.data.sources.files import File, Stamp
from nelbo.data.sources.listing import Listed, Listing, list_source
from nelbo.data.sources.names import is_utf8, shown
from nelbo.data.sources.roots import open_root

log = logging.getLogger(__name__)

#: Rows that are in memory at a time.
CHUNK_ROWS = 4096

#: The most folders that are named in a warning.
_NAMED = 3


@dataclass(frozen=True)
class Manifest:
    """Files of one batch.

    table: one row for each file, ``MANIFEST_SCHEMA``, ordered by path.
    root: the folder, archive or URL that ``relative_path`` starts from.
    n_skipped: hidden files, links, special files and masks that were passed over.
    n_waiting: files that changed while they were read: they wait for the next batch.
    listed_ns: when its files were listed, in nanoseconds since 1970; 0 where that is not known.
    n_folders_unlisted: folders that could not be listed: their files have no rows.
    """

    table: pa.Table
    root: str
    n_skipped: int = 0
    n_waiting: int = 0
    listed_ns: int = 0
    n_folders_unlisted: int = 0

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def files(self) -> list[File]:
        """The file of each row."""
        paths, ids = (self.table[name].to_pylist() for name in ("relative_path", "image_id"))
        return [File(self.root, path, image_id) for path, image_id in zip(paths, ids, strict=True)]

    @property
    def n_unusable(self) -> int:
        """Rows with a reason why they cannot be scored."""
        return len(self) - self.table["reason"].null_count

    def content_hash(self) -> str:
        """Hex SHA-256 over paths, contents, and what a table says of them: the same for a batch wherever it lies."""
        contents = Contents()
        contents.add(self.table)
        return contents.hash


class Known:
    """Rows of an earlier manifest of the same root: files that have not changed since then are not read again.

    Args:
        tables: rows of the earlier manifest, in its order.
        listed_ns: when its files were listed, in nanoseconds since 1970.
    """

    def __init__(self, tables: Iterable[pa.Table], listed_ns: int) -> None:
        self._rows = (row for table in tables for row in table.to_pylist())
        self._row: dict[str, Any] | None = next(self._rows, None)
        self._listed_ns = listed_ns

    def row(self, listed: Listed) -> dict[str, Any] | None:
        """The row of a file that has not changed, or None; call it in the order of the paths.

        Args:
            listed: a file and what its listing says of it.
        """
        entry = listed.entry
        while self._row is not None and self._row["relative_path"] < entry.path:
            self._row = next(self._rows, None)
        row = self._row
        if row is None or row["relative_path"] != entry.path or row["reason"] is not None:
            return None
        same = Stamp(*(row[name] for name in Stamp._fields)) == entry.stamp
        return row if same and entry.stamp.was_settled(self._listed_ns) else None


class Scan:
    """Lists and hashes the files of a source and reads their headers: gives manifest rows in the order of the paths.

    Iterating, once, gives tables of ``MANIFEST_SCHEMA``; memory does not grow with their number. The counts are
    complete at the end: ``contents``, ``n_skipped``, ``n_known`` (not read again), ``waiting``, the paths of files that
    have no row yet, and ``unlisted``, the folders that could not be listed, which a warning names.

    Args:
        listing: the files.
        known: an earlier manifest of the same root.
        limits: on each image.
        workers: processes that read files; by default one for each CPU that may be used.
        min_age_s: files that were changed within that time wait for the next batch, because they may not be written
            completely. A time that lies further in the future comes from a wrong clock: such a file does not wait.
    """

    def __init__(
        self,
        listing: Listing,
        *,
        known: Known | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        workers: int | None = None,
        min_age_s: float = 0,
    ) -> None:
        self.listing = listing
        self.started_ns = time.time_ns()
        self.contents = Contents()
        self.waiting: list[str] = []
        self.unlisted: list[str] = []
        self.n_skipped = self.n_known = 0
        self._known = known or Known([], 0)
        self._limits, self._workers, self._min_age_ns = limits, workers, int(min_age_s * 1e9)

    def __iter__(self) -> Iterator[pa.Table]:
        entries = self._due()
        while chunk := list(islice(entries, CHUNK_ROWS)):
            rows = [row for row in self._rows(chunk) if row is not None]
            if rows:
                table = pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)
                self.contents.add(table)
                yield table
        if self.unlisted:
            named, more = ", ".join(self.unlisted[:_NAMED]), len(self.unlisted) - _NAMED
            log.warning(
                "%s: folders that cannot be listed: %s%s. Their files have no rows; all others are processed. "
                "Grant access to them, or leave them out.",
                self.listing.source,
                named,
                f" and {more} more" if more > 0 else "",
            )

    @property
    def n_waiting(self) -> int:
        """Files that have no row yet."""
        return len(self.waiting)

    @property
    def n_folders_unlisted(self) -> int:
        """Folders that could not be listed."""
        return len(self.unlisted)

    def manifest(self) -> Manifest:
        """All rows at once; raises an InputError as `ingest` does."""
        tables = list(self)
        self.check()
        table = pa.concat_tables(self.contents.with_duplicates(tables))
        counts = (self.n_skipped, self.n_waiting, self.started_ns, self.n_folders_unlisted)
        return Manifest(table, self.listing.root, *counts)

    def _due(self) -> Iterator[Listed]:
        for listed in self.listing.entries:
            modified_ns = listed.entry.stamp.modified_ns
            if listed.entry.skipped:
                self.n_skipped += 1
            elif listed.entry.unlisted is not None:
                self.unlisted.append(_shown(listed))
            # Compared with the time now: a long listing finds files that were written after it began.
            elif modified_ns is not None and abs(time.time_ns() - modified_ns) < self._min_age_ns:
                self.waiting.append(_shown(listed))
            else:
                yield listed

    def _rows(self, chunk: list[Listed]) -> Iterator[dict[str, Any] | None]:
        known = [self._known.row(listed) for listed in chunk]
        root = self.listing.root
        # A name that is not UTF-8 cannot stand in a table: its file is not read.
        files = [File(root, x.entry.path) for x, row in zip(chunk, known, strict=True) if not row and _is_text(x)]
        looks = look_into(files, limits=self._limits, workers=self._workers)
        for listed, row in zip(chunk, known, strict=True):
            if row is not None:
                self.n_known += 1
                look = Look(**{name: row[name] for name in Look._fields})
            elif _is_text(listed):
                look = next(looks)
                if self._has_changed(listed, look):
                    self.waiting.append(_shown(listed))
                    yield None
                    continue
                if look.size_bytes is None:
                    look = look._replace(**listed.entry.stamp._asdict())
            else:
                look = Look(reason="unreadable")
            yield _row(listed, look)

    def _has_changed(self, listed: Listed, look: Look) -> bool:
        """Whether a file has changed since it was listed, or has gone."""
        path, stamp, *_ = listed.entry
        if look.reason == CHANGED:
            return True
        if look.size_bytes is None:
            return stamp.size_bytes is not None and self._is_gone(path)
        # The other times do not count: links to a file, or its rights, change them, too.
        return (look.size_bytes, look.modified_ns) != stamp[:2] and stamp.size_bytes is not None

    def _is_gone(self, path: str) -> bool:
        try:
            open_root(self.listing.root).look(path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return False

    def check(self) -> None:
        """Check, after all rows have been made, that there is something to work on.

        Raises:
            InputError: there are no files, or no usable image among them.
        """
        source, skipped, reasons = self.listing.source, self.n_skipped, self.contents.reasons
        if not self.contents:
            others = f", {self.n_waiting} still being written" if self.n_waiting else ""
            others += f", folders that cannot be listed: {self.n_folders_unlisted}" if self.unlisted else ""
            raise InputError(
                f"{source} holds no files ({skipped} hidden, linked or masks{others}). Put images into it."
            )
        if not reasons[None]:
            counts = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
            raise InputError(
                f"{source} holds no usable image, only {len(self.contents)} other files ({counts}). "
                "Give a folder with PNG, JPEG, TIFF, BMP or WebP images."
            )


def ingest(
    source: Path | str,
    *,
    root: Path | str | None = None,
    skip: Path | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    workers: int | None = None,
) -> Manifest:
    """List and hash the files of a batch, and read their headers; pixels are not decoded.

    Args:
        source: a folder (with all folders below, links not followed), a zip or tar archive, a CSV or Parquet manifest
            with the column ``path`` and, if known, ``label`` (0 normal, 1 anomalous, empty or -1 unknown), ``split``
            (train, validation, calibration, test), ``group`` (a name for images that belong together) and ``variant``
            (of the product that is shown), a pattern such as ``in/**/*.png``, or one image; each may be a URL that
            fsspec knows.
        root: the folder that a manifest's paths start from and may not leave; the manifest's own by default.
        skip: a folder below the source that is passed over, for example the one that results are written to.
        limits: on each image; a larger one is refused before its pixels are decoded.
        workers: processes that read files; by default one for each CPU that may be used.

    Returns:
        A row for each file: its stamp, size and format, or why it cannot be used.

    Raises:
        InputError: there is nothing to work on: no such file, no file in it, or no image among them.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("L", (20, 10)).save(folder / "a.png")
    >>> ingest(folder).table.select(["relative_path", "format", "width_px", "reason"]).to_pylist()
    [{'relative_path': 'a.png', 'format': 'PNG', 'width_px': 20, 'reason': None}]
    """
    listing = list_source(str(source), None if root is None else str(root), skip)
    return Scan(listing, limits=limits, workers=workers).manifest()


def _row(listed: Listed, look: Look) -> dict[str, Any]:
    row = dict.fromkeys(MANIFEST_SCHEMA.names) | look._asdict()
    return row | dict(zip(Listed._fields[1:], listed[1:], strict=True)) | {"relative_path": _shown(listed)}


def _shown(listed: Listed) -> str:
    """The path, escaped where it is not UTF-8."""
    return shown(listed.entry.path)


def _is_text(listed: Listed) -> bool:
    return is_utf8(listed.entry.path)
