"""Folders, archives and object stores are listed and read in the same way, and no path leads out of them."""

import gzip
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nelbo.data import ImageError, InputError
from nelbo.data.sources.files import Folder
from nelbo.data.sources.roots import open_file_system, open_root

FILES = {"a-b.png": b"1", "a/b.png": b"22", "a/c/d.png": b"333", "a.png": b"4444", "é ü.png": b"55555"}
HIDDEN = {".hidden.png": b"x", "__MACOSX/._a.png": b"x", ".git/a.png": b"x"}
SUFFIXES = ("zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz")


def folder(path: Path) -> str:
    for name, content in {**FILES, **HIDDEN}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return str(path)


def archive(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> str:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, content in files.items():
                zipped.writestr(name, content)
        return str(path)
    with tarfile.open(path, "w:" + {"tgz": "gz", "tar": ""}.get(path.suffix[1:], path.suffix[1:])) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return str(path)


def memory(name: str) -> str:
    files = fsspec.filesystem("memory")
    for path, content in {**FILES, **HIDDEN}.items():
        files.pipe(f"/{name}/{path}", content)
    return f"memory://{name}"


def root_of(kind: str, tmp_path: Path) -> str:
    if kind == "folder":
        return folder(tmp_path / "in")
    if kind == "memory":
        return memory(tmp_path.name)
    return archive(tmp_path / f"in.{kind}", {**FILES, **HIDDEN})


@pytest.mark.parametrize("kind", ["folder", "memory", *SUFFIXES])
def test_every_kind_of_root_lists_and_reads_the_same(kind: str, tmp_path: Path) -> None:
    root = open_root(root_of(kind, tmp_path))
    entries = [entry for entry in root.walk() if not entry.skipped]
    assert [entry.path for entry in entries] == sorted(FILES)
    assert {entry.path: root.read(entry.path, 10).data for entry in entries} == FILES
    assert {entry.path: entry.stamp.size_bytes for entry in entries} == {
        name: len(data) for name, data in FILES.items()
    }
    assert all(isinstance(entry.stamp.modified_ns, int) for entry in entries)
    assert any(entry.skipped for entry in root.walk())
    with pytest.raises(ImageError) as raised:
        root.read("é ü.png", 4)
    assert raised.value.reason == "too_large"
    with pytest.raises(FileNotFoundError):
        root.read("none.png", 10)
    with pytest.raises(FileNotFoundError):
        root.look("none.png")


@given(st.sets(st.text(st.sampled_from("ab-./ \n"), min_size=1, max_size=6)))
def test_a_walk_is_in_the_order_of_the_paths(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    path = tmp_path_factory.mktemp("walk")
    for name in names:
        parts = [part for part in name.split("/") if part.strip(".")]
        if parts and not (path / Path(*parts)).exists():
            try:
                (path / Path(*parts)).parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                continue
            (path / Path(*parts)).touch()
    found = [entry.path for entry in Folder(path).walk() if not entry.skipped]
    everything = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    assert found == sorted(file.as_posix() for file in everything if not any(p.startswith(".") for p in file.parts))


def test_a_folder_deeper_than_the_recursion_limit_is_listed(tmp_path: Path) -> None:
    depth = sys.getrecursionlimit() + 50
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        above, here = here, os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(above)
    os.close(here)
    (tmp_path / ("d/" * depth) / "x").touch()
    try:
        assert [entry.path for entry in Folder(tmp_path).walk()] == ["d/" * depth + "x"]
    finally:
        # Python's rmtree is recursive, and would fail here.
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)  # noqa: S607


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_of_an_archive_are_ignored(kind: str, tmp_path: Path) -> None:
    names = ["../up.png", "/etc/abs.png", "a/../../b.png", "a\\..\\c.png", "a//b.png", "good.png"]
    links = {"link.png": "/etc/passwd"} if kind == "tar" else {}
    root = open_root(archive(tmp_path / f"x.{kind}", dict.fromkeys(names, b"1"), links))
    entries = list(root.walk())
    assert [entry.path for entry in entries if not entry.skipped] == ["good.png"]
    assert len(entries) == len(names) + len(links)


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_damaged_archive_is_refused(kind: str, tmp_path: Path) -> None:
    path = Path(archive(tmp_path / f"x.{kind}", {"a.png": os.urandom(2000), "b.png": os.urandom(2000)}))
    path.write_bytes(path.read_bytes()[:1200])
    with pytest.raises(InputError, match="not a readable archive"):
        list(open_root(str(path)).walk())


def test_a_damaged_member_loses_only_itself(tmp_path: Path) -> None:
    path = Path(archive(tmp_path / "x.zip", {"a.png": os.urandom(2000), "b.png": b"good"}))
    content = bytearray(path.read_bytes())
    content[200:210] = bytes(10)
    path.write_bytes(content)
    root = open_root(str(path))
    with pytest.raises(OSError, match=r"a\.png cannot be read"):
        root.read("a.png", 10_000)
    assert root.read("b.png", 10).data == b"good"


def test_a_member_that_lies_about_its_size_is_not_unpacked(tmp_path: Path) -> None:
    path = Path(archive(tmp_path / "x.zip", {"a.png": bytes(50_000_000)}))
    true, lie = (50_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(true, lie))
    with pytest.raises(OSError, match="cannot be read"):
        open_root(str(path)).read("a.png", 1000)


def test_an_unpacked_archive_that_fills_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(bytes(1_000_000)))
    monkeypatch.setattr("nelbo.data.sources.archives._RESERVE", 1 << 62)
    with pytest.raises(InputError, match="more than there is room for"):
        open_root(str(path))


def test_a_replaced_archive_is_opened_again(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.zip", {"a.png": b"1"})
    assert open_root(path).read("a.png", 10).data == b"1"
    archive(tmp_path / "x.zip", {"a.png": b"2"})
    os.utime(path, ns=(1, 1))
    assert open_root(path).read("a.png", 10).data == b"2"


def test_a_file_that_grows_while_it_is_read_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"12345")
    real = os.fstat

    def writing(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        with path.open("ab") as file:
            file.write(b"6")
        return status

    monkeypatch.setattr("nelbo.data.sources.files.os.fstat", writing)
    with pytest.raises(ImageError) as raised:
        Folder(tmp_path).read("a.png", 100)
    assert raised.value.reason == "changed"


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/a", "ftp://user@host/a", "simplecache::s3://bucket/a"])
def test_credentials_and_chains_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match="credentials") as raised:
        open_file_system(url)
    assert "secret" not in str(raised.value)
