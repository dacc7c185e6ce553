"""New contents with the same name, size and time are noticed, and no other file is read again."""

import mmap
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from synthetic import encoded

import nelbo.data.sources.manifest
from nelbo.data import MANIFEST_SCHEMA, Known, Scan, read_images
from nelbo.data.decoder.preprocessing import Preprocessing
from nelbo.data.sources.files import File, Stamp
from nelbo.data.sources.listing import list_source

OLD = 1_700_000_000


def put(path: Path, value: int, when: float = OLD) -> Path:
    path.write_bytes(encoded(value, "BMP"))
    os.utime(path, (when, when))
    return path


def in_place(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(other.stat().st_mtime_ns,) * 2)


def mapped(path: Path, other: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        content[:] = other.read_bytes()
        content.flush()
    os.utime(path, ns=(other.stat().st_mtime_ns,) * 2)


def moved_over(path: Path, other: Path) -> None:
    other.replace(path)


def copied_and_renamed(path: Path, other: Path) -> None:
    """Replace a file as rsync does."""
    temporary = path.with_name(f".{path.name}.X1y2Z3")
    shutil.copy2(other, temporary)
    temporary.replace(path)


WAYS = [in_place, mapped, moved_over, copied_and_renamed]


def scan_of(folder: Path, *earlier: Any, **options: Any) -> Scan:
    return Scan(list_source(str(folder)), known=Known(*earlier) if earlier else None, **options)


@pytest.fixture
def all_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a test has written count as old at once."""
    monkeypatch.setattr("nelbo.data.sources.files.YOUNG_NS", 0)


@pytest.mark.usefixtures("all_old")
@pytest.mark.parametrize("way", WAYS)
def test_new_contents_with_the_same_name_size_and_time_are_noticed(
    way: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path, other = put(folder / "a.bmp", 1), put(tmp_path / "b.bmp", 200)
    put(folder / "same.bmp", 3)
    first = scan_of(folder)
    tables = list(first)
    before = path.stat()
    way(path, other)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    second = scan_of(folder, tables, first.started_ns)
    (table,) = second
    (fresh,) = scan_of(folder)
    assert table.equals(fresh)
    assert table["image_id"][0] != tables[0]["image_id"][0]
    assert (second.n_known, second.waiting) == (1, [])


@pytest.mark.usefixtures("all_old")
def test_a_file_replaced_between_listing_and_reading_is_recorded_as_read(tmp_path: Path) -> None:
    path, other = put(tmp_path / "a.bmp", 1), put(tmp_path / ".b.bmp", 200)
    first = scan_of(tmp_path)
    first.listing.__dict__["entries"] = iter(list(first.listing.entries))
    moved_over(path, other)
    tables = list(first)
    second = scan_of(tmp_path, tables, first.started_ns)
    assert pa.concat_tables(second).equals(tables[0])
    assert read_images(
        [File(str(tmp_path), "a.bmp", tables[0]["image_id"][0].as_py())], Preprocessing(2, 2)
    ).reasons == [None]


def without(table: pa.Table, *names: str) -> pa.Table:
    """The same rows with nulls in some columns."""
    for name in names:
        nothing = pa.nulls(len(table), MANIFEST_SCHEMA.field(name).type)
        table = table.set_column(table.schema.get_field_index(name), name, nothing)
    return table


@pytest.mark.parametrize(("age", "n_known"), [(0, 0), (3600, 1)])
def test_young_files_are_read_again_if_times_are_coarse(
    age: int, n_known: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system without inode numbers, with one time in whole seconds."""
    monkeypatch.setattr(Stamp, "of", lambda status: Stamp(status.st_size, status.st_mtime_ns))
    when = int(time.time()) - age
    put(tmp_path / "a.bmp", 1, when)
    first = scan_of(tmp_path)
    (table,) = first
    put(tmp_path / "a.bmp", 2, when)
    second = scan_of(tmp_path, [without(table, "changed_ns", "inode")], first.started_ns)
    (again,) = second
    assert second.n_known == n_known
    # There, a change to an old file whose time was set back cannot be noticed.
    assert (again["image_id"] == table["image_id"]) == bool(n_known)


@pytest.mark.parametrize("stamp", [Stamp(1, 100, 20), Stamp(1, 20, 100), Stamp(1, 200), Stamp(1), Stamp(1, None, 5)])
def test_times_that_lie_ahead_or_are_missing_are_not_trusted(stamp: Stamp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nelbo.data.sources.files.YOUNG_NS", 10)
    assert not stamp.was_settled(100)
    assert Stamp(1, 20, 80).was_settled(100)
    assert Stamp(1, 20, etag="x").was_settled(100)


@pytest.mark.usefixtures("all_old")
def test_rows_of_an_older_version_are_read_again(tmp_path: Path) -> None:
    """They lack the time of change and the inode number."""
    put(tmp_path / "a.bmp", 1)
    first = scan_of(tmp_path)
    (table,) = first
    table = without(table, "changed_ns", "inode", "etag")
    assert (sum(map(len, again := scan_of(tmp_path, [table], first.started_ns))), again.n_known) == (1, 0)


def test_rights_and_links_do_not_make_a_file_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither before the listing nor between listing and reading."""
    path = put(tmp_path / "a.bmp", 1)
    path.chmod(0o640)
    looked = nelbo.data.sources.manifest.look_into

    def late(files: Any, **options: Any) -> Any:
        path.chmod(0o600)
        (tmp_path / ".link").hardlink_to(path)
        return looked(files, **options)

    monkeypatch.setattr(nelbo.data.sources.manifest, "look_into", late)
    scan = scan_of(tmp_path, min_age_s=3600)
    assert [len(table) for table in scan] == [1]
    assert scan.waiting == []
