"""The table of files in one batch: what is there, what it holds, which of it looks like an image."""

import hashlib
import os
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from data.decoding import Look, look_into
from data.errors import InputError
from data.files import File
from data.limits import Limits
from data.schemas import MANIFEST_SCHEMA

SPLITS = ("train", "validation", "calibration", "test")
_TABLES = (".csv", ".parquet")
_COLUMNS = ("path", "label", "split")
_HIDDEN = {"thumbs.db", "desktop.ini"}
_LABELS = {"": -1, "-1": -1, "0": 0, "1": 1}


@dataclass(frozen=True)
class Manifest:
    """Files of one batch.

    table: one row a file, ``MANIFEST_SCHEMA``, ordered by path.
    root: the folder that ``relative_path`` starts from.
    n_skipped: hidden files, links and special files that were passed over.
    """

    table: pa.Table
    root: Path
    n_skipped: int = 0

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def files(self) -> list[Path]:
        """Full path of each row."""
        return [self.root / path for path in self.table["relative_path"].to_pylist()]

    @property
    def n_unusable(self) -> int:
        """Rows with a reason why they cannot be scored."""
        return len(self) - self.table["reason"].null_count

    def content_hash(self) -> str:
        """Hex SHA-256 over paths, contents, labels and parts: the same batch gives the same, wherever it lies."""
        digest = hashlib.sha256()
        columns = (self.table[name].to_pylist() for name in ("relative_path", "image_id", "label", "split"))
        for row in zip(*columns, strict=True):
            digest.update("\0".join(map(str, row)).encode() + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True)
class _Entry:
    relative_path: str
    label: int = -1
    split: str | None = None


def ingest(
    source: Path | str,
    *,
    root: Path | str | None = None,
    skip: Path | None = None,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    workers: int | None = None,
) -> Manifest:
    """List, hash and look into the headers of the files of a batch; pixels are not decoded.

    Args:
        source: a folder (walked to the bottom, links not followed), a CSV or Parquet manifest with the
            column ``path`` and, if known, ``label`` (0 normal, 1 anomalous, empty or -1 unknown) and
            ``split`` (train, validation, calibration, test), or one image.
        root: the folder that a manifest's paths start from and may not leave; the manifest's own by default.
        skip: a folder below the source that is passed over, for example the one that results are written to.
        limits: on each image.
        workers: decoder processes; by default one a core.

    Raises:
        InputError: nothing to work on: no such file, no file in it, or not one image among them.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("L", (20, 10)).save(folder / "a.png")
    >>> ingest(folder).table.select(["relative_path", "format", "width_px", "reason"]).to_pylist()
    [{'relative_path': 'a.png', 'format': 'PNG', 'width_px': 20, 'reason': None}]
    """
    source = Path(source)
    entries, root, n_skipped = _list(source, None if root is None else Path(root), skip)
    if os.fsencode(root).decode("utf-8", "replace") != str(root):
        raise InputError(f"the folder {str(root)!r} has a name that is not UTF-8. Rename it.")
    looks = look_into((File(str(root), entry.relative_path) for entry in entries), limits=limits, workers=workers)
    rows = [_row(entry, look) for entry, look in zip(entries, looks, strict=True)]
    if all(row["reason"] is not None for row in rows):
        found = Counter(row["reason"] for row in rows)
        counts = ", ".join(f"{n} {reason}" for reason, n in found.most_common())
        raise InputError(
            f"{source} holds no usable image, only {len(rows)} other files ({counts}). "
            "Give a folder with PNG, JPEG, TIFF, BMP or WebP images."
        )
    return Manifest(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA), root, n_skipped)


def _list(source: Path, root: Path | None, skip: Path | None) -> tuple[list[_Entry], Path, int]:
    if not source.exists():
        raise InputError(f"{source} does not exist. Give a folder, a CSV or Parquet manifest, or an image.")
    is_table = source.is_file() and source.suffix.lower() in _TABLES
    if root is not None and not is_table:
        raise InputError(f"root={root} goes with a CSV or Parquet manifest, and {source} is none. Leave it out.")
    if is_table:
        root = (root or source.parent).resolve()
        return _listed(source, root), root, 0
    if source.is_dir():
        paths, n_skipped = _walk(source, skip)
        if not paths:
            raise InputError(f"{source} holds no files ({n_skipped} hidden or linked). Put images into it.")
        return [_Entry(path) for path in paths], source.resolve(), n_skipped
    # A link that was asked for by name is followed.
    source = source.resolve()
    return [_Entry(source.name)], source.parent, 0


def _walk(folder: Path, skip: Path | None) -> tuple[list[str], int]:
    skip = skip.resolve() if skip is not None else None
    paths: list[str] = []
    n_skipped = 0
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        kept = [name for name in folders if not _passed_over(Path(parent) / name, skip)]
        n_skipped += len(folders) - len(kept)
        folders[:] = kept
        for name in files:
            path = Path(parent) / name
            if _hidden(name) or not stat.S_ISREG(path.lstat().st_mode):
                n_skipped += 1
            else:
                paths.append(path.relative_to(folder).as_posix())
    return sorted(paths), n_skipped


def _passed_over(folder: Path, skip: Path | None) -> bool:
    return _hidden(folder.name) or folder.is_symlink() or folder.resolve() == skip


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be listed ({error.strerror}). Grant access or leave it out.") from error


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _HIDDEN


def _row(entry: _Entry, look: Look) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(MANIFEST_SCHEMA.names)
    # A name that is not UTF-8 cannot stand in a table; its row shows it escaped.
    shown = os.fsencode(entry.relative_path).decode("utf-8", "backslashreplace")
    row |= {"relative_path": shown, "label": entry.label, "split": entry.split}
    if shown != entry.relative_path:
        return row | {"reason": "unreadable"}
    return row | {name: value for name, value in look._asdict().items() if name in row}


def _listed(source: Path, root: Path) -> list[_Entry]:
    table = _read_table(source)
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
    entries = (_Entry(p, _LABELS[n], s or None) for p, n, s in zip(paths, labels, splits, strict=True))
    return sorted(entries, key=lambda entry: entry.relative_path)


def _read_table(source: Path) -> pd.DataFrame:
    try:
        if source.suffix.lower() == ".csv":
            # Strict: a row with a field too many is an error, not shifted. All text: a file may be called NA.
            texts = csv.ConvertOptions(column_types=dict.fromkeys(_COLUMNS, pa.string()))
            table = csv.read_csv(source, parse_options=csv.ParseOptions(newlines_in_values=True), convert_options=texts)
        else:
            table = pq.read_table(source, columns=[name for name in pq.read_schema(source).names if name in _COLUMNS])
        table = table.select([name for name in table.column_names if name in _COLUMNS]).to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{source} is not a readable manifest ({error}). Give CSV (UTF-8) or Parquet.") from error
    return pd.DataFrame({name: table[name].map(_text) for name in table})


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value)


def _inside(path: str, root: Path) -> str | None:
    """`path` relative to `root` in POSIX form, or None where it points out of it, links included."""
    if not path or "\0" in path:
        return None
    try:
        relative = Path(os.path.normpath(root / path)).relative_to(root)
        (root / relative).resolve().relative_to(root)
    except (ValueError, OSError, RuntimeError):
        return None
    return None if relative == Path() else relative.as_posix()


def _check_rows(source: Path, bad: "pd.Series[str]", what: str, remedy: str) -> None:
    if len(bad):
        raise InputError(f"{source}: {len(bad)} values {what}: {_first(bad)}. {remedy}.")


def _first(values: "pd.Series[str]", shown: int = 5) -> str:
    text = ", ".join(repr(value) for value in values.iloc[:shown])
    return text if len(values) <= shown else f"{text} and {len(values) - shown} more"
