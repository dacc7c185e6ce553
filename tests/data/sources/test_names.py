"""Names are UTF-8 on the disk and in tables, whatever the locale; a file URL is a path."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from synthetic import write_plain

from nelbo.data import InputError, ingest, open_place
from nelbo.data.sources.names import local_path, path_of, shown, text_of

#: A locale without UTF-8, as in a container, for cron, or over ssh.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NAMES = ["sub für/日本.png", "ü.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        write_plain(tmp_path / "Ärger" / name)
    write_plain(tmp_path / "Ärger" / os.fsdecode(b"\xff.png"))
    return tmp_path / "Ärger"


def run(code: str, *arguments: object, **environment: str) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    # Arguments are bytes, as from a shell.
    done = subprocess.run(command, capture_output=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


READ = """
import json, sys
from nelbo.data import Preprocessing, ingest, list_source, read_images
assert sys.getfilesystemencoding() == {encoding!r}, sys.getfilesystemencoding()
for source in sys.argv[1:]:
    manifest = ingest(source)
    rows = [[row["relative_path"], row["reason"]] for row in manifest.table.to_pylist()]
    print(json.dumps([manifest.root, rows, read_images(manifest.files, Preprocessing(2, 2)).reasons]))
"""


@pytest.mark.parametrize(("encoding", "environment"), [("ascii", ASCII), ("utf-8", {"LC_ALL": "C.UTF-8"})])
def test_names_are_read_as_utf_8_under_any_locale(encoding: str, environment: dict[str, str], folder: Path) -> None:
    """Holds for names in a folder, a table, an archive and a pattern."""
    table, archive = folder / ".list.csv", folder.parent / "für.zip"
    table.write_text("path\n" + "\n".join(NAMES), encoding="utf-8")
    with zipfile.ZipFile(archive, "w") as zipped:
        for name in NAMES:
            zipped.write(folder / name, name)
    sources = folder, table, archive, folder / "**" / "[ü日]*.png"
    (root, rows, reasons), *others = map(
        json.loads, run(READ.format(encoding=encoding), *sources, **environment).splitlines()
    )
    assert root == str(folder)
    assert rows == [[name, None] for name in NAMES] + [["\\xff.png", "unreadable"]]
    assert reasons[:2] == [None, None]
    assert [found[1:] for found in others] == [[[[name, None] for name in NAMES], [None, None]]] * 3


def test_names_are_utf_8_under_a_latin_1_locale(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under this locale Python decodes UTF-8 bytes as other letters, but tables hold the right ones."""
    monkeypatch.setattr(os, "fsencode", lambda text: os.fspath(text).encode("latin-1"))
    monkeypatch.setattr(os, "fsdecode", lambda name: name.decode("latin-1"))
    assert text_of("Ã¼.png") == "ü.png"
    assert str(path_of("ü.png")) == "Ã¼.png"
    assert shown(text_of("ÿ.png")) == "\\xff.png"
    assert folder


@pytest.mark.parametrize("host", ["", "localhost", "LOCALHOST"])
def test_a_file_url_is_a_path_for_images_and_workspaces(host: str, tmp_path: Path) -> None:
    write_plain(tmp_path / "a b#ü?" / "x%20y.png")
    url = f"file://{host}{tmp_path}/a%20b%23%C3%BC%3F"
    assert open_place(url) == tmp_path / "a b#ü?"
    manifest = ingest(url)
    assert manifest.root == str(tmp_path / "a b#ü?")
    assert manifest.table["relative_path"].to_pylist() == ["x%20y.png"]
    assert len(ingest(f"{url}/x%2520y.png")) == len(ingest(f"{url}/x*.png")) == 1
    (tmp_path / "list.csv").write_text("path\nx%20y.png\n")
    assert ingest(f"file://{tmp_path}/list.csv", root=url).table["reason"].to_pylist() == [None]


@pytest.mark.parametrize("url", ["file://server/share", "file://C:/images", "file://images", "FILE://server/a"])
def test_a_file_url_of_another_machine_is_refused(url: str) -> None:
    for use in (ingest, open_place):
        with pytest.raises(InputError, match="names another machine, or a path that is not absolute"):
            use(url)


def test_other_urls_and_paths_stay_as_they_are() -> None:
    for name in ("a%20b", "file:x", "files://a", "s3://bucket/a%20b", "C:\\images"):
        assert local_path(name) == name
    assert local_path("file:/a%20b") == "/a b"
    assert local_path("file:///%ff") == os.fsdecode(b"/\xff")
