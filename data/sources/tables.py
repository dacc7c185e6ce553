"""Tables that list images: CSV or Parquet with the columns path, label, split, group and variant."""

import os
import posixpath
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from nelbo.data.errors import ImageError, InputError
from nelbo.data.sources.names import is_url, path_of, text_of
from nelbo.data.sources.roots import open_root
from nelbo.data.sources.urls import check_urls

SPLITS = ("train", "validation", "calibration", "test")
_COLUMNS = ("path", "label", "split", "group", "variant")
_LABELS = {"": -1, "-1": -1, "0": 0, "1": 1, "false": 0, "true": 1}
#: Larger tables of paths are refused.
_MAX_TABLE_BYTES = 1 << 32


class Row(NamedTuple):
    """What a table says of one file; its path is below the root."""

    path: str
    label: int
    split: str | None
    group: str | None
    variant: str | None


def read_rows(source: str, table_path: str, root: str) -> list[Row]:
    """The rows of a table, in the order of their paths.

    Args:
        source: the table as the caller named it.
        table_path: where it is.
        root: what its paths start from.

    Raises:
        InputError: it cannot be read, or something in it cannot be used.
    """
    table = _read_table(source, table_path)
    if "path" not in table.columns:
        raise InputError(f"{source} has no column 'path'. Name the column of the files 'path'.")
    if table.empty:
        raise InputError(f"{source} lists no files. Add a row for each image.")
    _refuse_credentials(source, table)
    missing = table.index[table["path"].isna()].to_series() + 1
    _check_rows(source, missing, "rows have no path", "Fill in the column 'path', or leave these rows out")
    paths = table["path"].map(lambda path: _inside(path, root))
    _check_rows(
        source, table["path"][paths.isna()], f"values leave {root}", "Keep to that folder, or give another root"
    )
    _check_rows(source, paths[paths.duplicated()], "values are repeated", "List each file once")
    labels, splits, groups, variants = (_words(table, name) for name in _COLUMNS[1:])
    # Spreadsheets and pandas write a column of whole numbers with gaps as 0.0 and 1.0.
    labels = labels.str.lower().str.removesuffix(".0")
    _check_rows(source, labels[~labels.isin(list(_LABELS))], "values are not labels", "Use 0, 1, or nothing")
    _check_rows(
        source,
        splits[~splits.isin(["", *SPLITS])],
        "values are not splits",
        f"Use {', '.join(SPLITS)}, or nothing",
    )
    rows = sorted(zip(paths, labels, splits, groups, variants, strict=True))
    return [Row(path, _LABELS[label], *(text or None for text in texts)) for path, label, *texts in rows]


def _read_table(source: str, table_path: str) -> pd.DataFrame:
    """The columns of a table as texts; None where there is no value."""
    parent, _, name = table_path.rpartition("/")
    try:
        content = BytesIO(open_root(parent or "/").read(name, _MAX_TABLE_BYTES).data)
        if name.lower().endswith(".csv"):
            # Strict: a row with a field too many is an error, not shifted. All text: a file may be called NA.
            texts = csv.ConvertOptions(column_types=dict.fromkeys(_COLUMNS, pa.string()))
            options = csv.ParseOptions(newlines_in_values=True)
            table = csv.read_csv(content, parse_options=options, convert_options=texts)
        else:
            # Column by column: what the schema tells pandas, such as an index, does not matter.
            file = pq.ParquetFile(content)
            table = file.read([name for name in file.schema_arrow.names if name in _COLUMNS])
        names = [name for name in table.column_names if name in _COLUMNS]
        if len(names) > len(set(names)):
            raise ValueError("two columns have the same name")
        return pd.DataFrame({name: pd.Series(map(_text, table[name].to_pylist()), dtype=object) for name in names})
    except (OSError, ValueError, ImageError, pa.ArrowException) as error:
        raise InputError(f"{source} is not a readable manifest ({error}). Give CSV (UTF-8) or Parquet.") from error


def _refuse_credentials(source: str, table: pd.DataFrame) -> None:
    """Refuse URLs with credentials, before anything of the table is stored or reported."""
    for name in table:
        try:
            check_urls([text for text in table[name] if text and ":" in text])
        except InputError as error:
            raise InputError(f"{source}, column {name}: {error}") from None


def _text(value: object) -> str | None:
    """A value of any type as text; None for null and not a number."""
    if value is None or value != value:
        return None
    return value.decode() if isinstance(value, bytes) else str(value)


def _words(table: pd.DataFrame, name: str) -> "pd.Series[str]":
    if name not in table:
        return pd.Series("", index=table.index)
    return table[name].map(lambda text: (text or "").strip())


def _inside(text: str, root: str) -> str | None:
    """A path relative to `root` in POSIX form, or None where it leads out of `root`, also through links.

    Links among its folders are resolved: nothing follows them later.
    """
    if not text or "\0" in text:
        return None
    if is_url(root):
        relative = posixpath.normpath(text)
        return None if relative.startswith(("/", "../")) or relative in (".", "..") else relative
    try:
        folder = path_of(root)
        path = Path(os.path.normpath(folder / path_of(text)))
        path.resolve().relative_to(folder)
        below = (path.parent.resolve() / path.name).relative_to(folder)
    except (ValueError, OSError, RuntimeError):
        return None
    return None if path == folder else text_of(below.as_posix())


def _check_rows(source: str, bad: "pd.Series[str]", what: str, remedy: str) -> None:
    if len(bad):
        raise InputError(f"{source}: {len(bad)} {what}: {_first(bad)}. {remedy}.")


def _first(values: "pd.Series[str]", shown: int = 5) -> str:
    text = ", ".join(repr(value) for value in values.iloc[:shown])
    return text if len(values) <= shown else f"{text} and {len(values) - shown} more"
