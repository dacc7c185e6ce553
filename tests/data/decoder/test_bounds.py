"""Data that others send or pack is read only up to a bound."""

import io
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from synthetic import encoded

from nelbo.data import ImageError, InputError, Limits, ingest
from nelbo.data.sources.roots import open_root

MIB = 1 << 20


class Endless(BaseHTTPRequestHandler):
    """A server of bodies of several kinds, which records how many bytes it has sent."""

    sent = 0

    def do_HEAD(self) -> None:
        self._head()

    def _head(self) -> None:
        self.send_response(404 if "none" in self.path else 200)
        if "lies" in self.path:
            # The length that HEAD claims for an endless body.
            self.send_header("Content-Length", "100")
        self.end_headers()

    def do_GET(self) -> None:
        if "none" in self.path:
            self._head()
            return
        self.send_response(200)
        self.end_headers()
        if "endless" not in self.path:
            self.wfile.write(encoded(7))
            return
        try:
            while True:
                self.wfile.write(bytes(MIB))
                Endless.sent += MIB
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def web() -> Iterator[str]:
    """The address of an `Endless` server."""
    pytest.importorskip("aiohttp")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Endless.sent = 0
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("name", ["endless.png", "endless-lies.png"])
def test_a_body_without_a_length_is_read_up_to_max_bytes(name: str, web: str) -> None:
    with pytest.raises(InputError, match=r"only 1 other files \(1 too_large\)"):
        ingest(f"{web}/{name}", limits=Limits(size_bytes=3 * MIB))
    # The buffers of sockets may hold more than was read.
    assert Endless.sent < 64 * MIB


def test_a_body_without_a_length_that_fits_is_an_image(web: str) -> None:
    assert ingest(f"{web}/a.png").table["reason"].to_pylist() == [None]
    with pytest.raises(FileNotFoundError):
        open_root(web).read("none.png", MIB)


def test_a_server_that_does_not_answer_loses_only_that_file(web: str) -> None:
    root = open_root(web.replace("127.0.0.1", "127.0.0.2"))
    with pytest.raises(OSError, match=r"a\.png"):
        root.read("a.png", MIB)


def test_a_store_without_sizes_is_read_up_to_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = fsspec.filesystem("memory")
    files.pipe(f"/{tmp_path.name}/a.bin", bytes(3 * MIB))
    info = type(files).info

    def without_size(self: object, path: str, **options: object) -> dict[str, object]:
        return {**info(self, path, **options), "size": None}

    root = open_root(f"memory://{tmp_path.name}")
    monkeypatch.setattr(type(files), "info", without_size)
    assert len(root.read("a.bin", 3 * MIB).data) == 3 * MIB
    with pytest.raises(ImageError, match="more than"):
        root.read("a.bin", 3 * MIB - 1)


def tar(path: Path, *members: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> str:
    with tarfile.open(path, "w", format=form) as archive:
        for member in members:
            archive.addfile(member)
    return str(path)


def attributed(size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo("a.png")
    info.pax_headers = {"comment": "x" * size}
    return info


def holes(path: Path, n: int) -> str:
    """A tar with a GNU map of holes, two numbers for each hole."""
    numbers = b"%d\n" % n + b"1\n1\n" * n
    info = tarfile.TarInfo("a.png")
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "a",
        "GNU.sparse.realsize": "1",
    }
    numbers += bytes(-len(numbers) % 512)
    info.size = len(numbers)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(numbers))
    return str(path)


HUGE: list[Callable[[Path], str]] = [
    lambda path: tar(path, attributed(40 * MIB)),
    lambda path: tar(path, tarfile.TarInfo("a.png"), attributed(40 * MIB)),
    lambda path: tar(path, tarfile.TarInfo("a" * (40 * MIB)), form=tarfile.GNU_FORMAT),
    lambda path: holes(path, 10 * MIB),
]


@pytest.mark.parametrize("kind", range(len(HUGE)))
def test_the_header_of_a_member_of_a_tar_is_bounded(kind: int, tmp_path: Path) -> None:
    source = HUGE[kind](tmp_path / "x.tar")
    tracemalloc.start()
    with pytest.raises(InputError, match="the name and the attributes of a member take more than 1,048,576 bytes"):
        open_root(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MIB


def test_long_names_and_attributes_within_the_bound_are_read(tmp_path: Path) -> None:
    source = tar(tmp_path / "x.tar", attributed(MIB // 2), tarfile.TarInfo("b" * 3000 + ".png"))
    assert [len(entry.path) for entry in open_root(source).walk()] == [5, 3004]


def test_the_members_of_a_tar_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nelbo.data.sources.archives._MAX_MEMBERS", 10)
    members = [tarfile.TarInfo(f"{i}.png") for i in range(11)]
    assert len(list(open_root(tar(tmp_path / "a.tar", *members[:10])).walk())) == 10
    with pytest.raises(InputError, match="more than 10 members"):
        open_root(tar(tmp_path / "b.tar", *members))


def test_a_tar_that_is_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    """Python's own reader takes a damaged header for the end of the archive."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for i in range(3):
            archive.addfile(tarfile.TarInfo(f"{i}.png"))
    content = bytearray(path.read_bytes())
    content[512:520] = b"damaged!"
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged at byte 512"):
        open_root(str(path))


def test_a_zip_with_backslashes_is_read_as_folders(tmp_path: Path) -> None:
    """Some programs on Windows write them; no path leads out of the archive."""
    names = ["day\\a.png", "day\\deeper\\b.png", "day/c.png"]
    bad = ["..\\up.png", "day\\..\\..\\up.png", "C:\\x.png", "c:x.png", "\\\\server\\x.png", "\\x.png", "day\\.hidden"]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("day\\", *names, *bad):
            archive.writestr(name, b"" if name.endswith("\\") else encoded(7))
    manifest = ingest(tmp_path / "x.zip")
    assert manifest.table["relative_path"].to_pylist() == ["day/a.png", "day/c.png", "day/deeper/b.png"]
    assert manifest.table["reason"].to_pylist() == [None] * 3
    assert manifest.n_skipped == len(bad)
