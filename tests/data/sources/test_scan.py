"""Ingest as a stream: unchanged files are not read again, and changing files wait."""

import itertools
import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pytest
from synthetic import encoded

import nelbo.data.sources.manifest
from nelbo.data import InputError, ingest
from nelbo.data.sources.files import Entry, File
from nelbo.data.sources.listing import Listed, Listing, list_source
from nelbo.data.sources.manifest import Known, Scan

HOUR_AGO = time.time_ns() - 3600 * 10**9


def write(folder: Path, files: dict[str, bytes], when_ns: int = HOUR_AGO) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        os.utime(folder / name, ns=(when_ns, when_ns))
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the files that are read."""
    paths: list[str] = []
    look_into = nelbo.data.sources.manifest.look_into

    def counted(files: list[File], **options: object) -> object:
        paths.extend(file.path for file in files)
        return look_into(files, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(nelbo.data.sources.manifest, "look_into", counted)
    return paths


def scan_of(folder: Path, **options: Any) -> Scan:
    return Scan(list_source(str(folder)), **options)


def again(folder: Path, first: Scan, tables: list[pa.Table]) -> Scan:
    return scan_of(folder, known=Known(tables, first.started_ns))


def test_only_new_or_changed_files_are_read_again(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nelbo.data.sources.files.YOUNG_NS", 0)
    folder = write(tmp_path, {f"{i}.png": encoded(i) for i in range(6)} | {"notes.txt": b"text"})
    first = scan_of(folder)
    tables = list(first)
    assert read == [*(f"{i}.png" for i in range(6)), "notes.txt"]
    read.clear()
    write(folder, {"1.png": encoded(101)}, HOUR_AGO + 1)
    write(folder, {"2.png": encoded(2) + b"longer"})
    write(folder, {"25.png": encoded(7), "a/0.png": encoded(8)})
    (folder / "4.png").unlink()
    second = again(folder, first, tables)
    table = pa.concat_tables(list(second))
    assert read == ["1.png", "2.png", "25.png", "a/0.png", "notes.txt"]
    assert second.n_known == 3
    assert table.equals(ingest(folder).table)
    assert second.contents.hash == ingest(folder).content_hash()


def test_a_file_written_as_it_was_listed_is_not_trusted(tmp_path: Path, read: list[str]) -> None:
    """Its time may stay the same when it is written again."""
    now = time.time_ns()
    folder = write(tmp_path, {"a.png": encoded(1)}, now)
    first = scan_of(folder)
    tables = list(first)
    write(folder, {"a.png": encoded(2)}, now)
    table = pa.concat_tables(list(again(folder, first, tables)))
    assert read == ["a.png", "a.png"]
    assert table["image_id"] != tables[0]["image_id"]


def test_a_file_that_changes_between_listing_and_reading_waits(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.png": encoded(1), "b.png": encoded(2), "c.png": encoded(3), "d.png": encoded(4)})
    scan = scan_of(folder)
    entries = list(scan.listing.entries)
    write(folder, {"b.png": encoded(2) + b"more"})
    write(folder, {"c.png": encoded(30)}, HOUR_AGO + 5)
    (folder / "d.png").unlink()
    scan = Scan(Listing(str(folder), str(folder), iter(entries)))
    (table,) = scan
    assert table["relative_path"].to_pylist() == ["a.png"]
    assert (scan.waiting, len(scan.contents)) == (["b.png", "c.png", "d.png"], 1)


def test_young_files_wait_on_request(tmp_path: Path) -> None:
    folder = write(tmp_path, {"old.png": encoded(1)})
    write(folder, {"young.png": encoded(2)}, time.time_ns() - 10**9)
    scan = scan_of(folder, min_age_s=60)
    assert [row for table in scan for row in table["relative_path"].to_pylist()] == ["old.png"]
    assert scan.waiting == ["young.png"]
    assert len(ingest(folder)) == 2


def test_a_clock_that_is_ahead_does_not_wait_for_ever(tmp_path: Path) -> None:
    now = time.time_ns()
    folder = write(tmp_path, {"hour.png": encoded(1)}, now + 3600 * 10**9)
    write(folder, {"second.png": encoded(2)}, now + 10**9)
    scan = scan_of(folder, min_age_s=60)
    assert [row for table in scan for row in table["relative_path"].to_pylist()] == ["hour.png"]
    assert scan.waiting == ["second.png"]


def test_a_file_written_long_after_the_listing_began_is_young(tmp_path: Path) -> None:
    folder = write(tmp_path, {"old.png": encoded(1)})
    scan = scan_of(folder, min_age_s=60)
    scan.started_ns -= 3600 * 10**9
    write(folder, {"young.png": encoded(2)}, time.time_ns())
    assert sum(map(len, scan)) == 1
    assert scan.waiting == ["young.png"]


def test_a_folder_of_waiting_files_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, {"young.png": encoded(2)}, time.time_ns())
    scan = scan_of(folder, min_age_s=60)
    assert list(scan) == []
    with pytest.raises(InputError, match=r"holds no files \(0 hidden, linked or masks, 1 still being written\)"):
        scan.check()


def test_duplicates_name_the_first_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nelbo.data.sources.manifest, "CHUNK_ROWS", 3)
    contents = {
        "a": encoded(1),
        "b": encoded(2),
        "c": encoded(1),
        "d": b"",
        "e": encoded(3),
        "f": encoded(2),
        "g": b"",
        "h": encoded(1),
    }
    table = ingest(write(tmp_path, contents)).table
    assert dict(zip(table["relative_path"].to_pylist(), table["duplicate_of"].to_pylist(), strict=True)) == {
        **dict.fromkeys("abde"),
        "c": "a",
        "f": "b",
        "g": "d",
        "h": "a",
    }


def test_files_are_listed_only_as_they_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listing never ends, but the first rows come at once."""
    monkeypatch.setattr(nelbo.data.sources.manifest, "CHUNK_ROWS", 4)
    write(tmp_path, {"a.png": encoded(1)})
    asked = 0

    def entries() -> Iterator[Listed]:
        nonlocal asked
        for _ in itertools.count():
            asked += 1
            yield Listed(Entry("a.png"))

    tables = iter(Scan(Listing("endless", str(tmp_path), entries())))
    assert [len(next(tables)) for _ in range(3)] == [4, 4, 4]
    assert asked == 12


SOURCES = ("folder", "zip", "tar.gz", "memory", "memory.zip", "pattern", "table", "url_table")


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    contents = {"a/x.png": encoded(1), "a/y.png": encoded(2), "b/ü.png": encoded(3)}
    folder = write(tmp_path / "in", contents)
    store = fsspec.filesystem("memory")
    root = None
    source = str(folder)
    if kind in ("zip", "memory.zip"):
        source = str(tmp_path / "in.zip")
        with zipfile.ZipFile(source, "w") as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
        if kind == "memory.zip":
            store.put(source, f"/{tmp_path.name}/in.zip")
            source = f"memory://{tmp_path.name}/in.zip"
    elif kind == "tar.gz":
        import tarfile

        source = str(tmp_path / "in.tar.gz")
        with tarfile.open(source, "w:gz") as tar:
            tar.add(folder, ".")
    elif kind == "memory":
        store.put(str(folder), f"/{tmp_path.name}/in", recursive=True)
        source = f"memory://{tmp_path.name}/in"
    elif kind == "pattern":
        write(folder, {"a/z.txt": b"text", "c.png": encoded(4)})
        source = f"{folder}/[ab]/*.png"
    elif kind == "table":
        pd.DataFrame({"path": list(contents)}).to_csv(folder / "list.csv", index=False)
        source = str(folder / "list.csv")
    elif kind == "url_table":
        store.put(str(folder), f"/{tmp_path.name}/in", recursive=True)
        pd.DataFrame({"path": list(contents)}).to_csv(tmp_path / "list.csv", index=False)
        source, root = str(tmp_path / "list.csv"), f"memory://{tmp_path.name}/in"
    manifest = ingest(source, root=root)
    expected = ingest(folder).table.filter(pa.compute.is_in(ingest(folder).table["relative_path"], pa.array(contents)))
    columns = ["relative_path", "image_id", "size_bytes", "format", "width_px", "height_px", "label", "reason"]
    assert manifest.table.select(columns).equals(expected.select(columns))
    assert len(manifest) == 3


@pytest.mark.parametrize(
    "source",
    ["memory://nowhere/at/all", "s3://", "nothing://a", "memory://x/*.png", "/dev/null", "no/where", "a**b/*.png"],
)
def test_a_bad_source_is_refused(source: str) -> None:
    with pytest.raises(InputError):
        ingest(source)


def test_a_pattern_does_not_follow_links(tmp_path: Path) -> None:
    write(tmp_path / "in", {"a/x.png": encoded(1)})
    write(tmp_path / "out", {"y.png": encoded(2)})
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    manifest = ingest(f"{tmp_path}/in/**/*.png")
    assert manifest.table["relative_path"].to_pylist() == ["a/x.png"]


@pytest.mark.parametrize("path", ["../up.png", "/etc/passwd", "a/../../b.png", "", "."])
def test_a_table_of_urls_may_not_leave_its_root(tmp_path: Path, path: str) -> None:
    pd.DataFrame({"path": ["ok.png", path]}).to_csv(tmp_path / "list.csv", index=False)
    with pytest.raises(InputError, match="leave memory://x"):
        ingest(tmp_path / "list.csv", root="memory://x")
