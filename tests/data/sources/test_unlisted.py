"""A folder that cannot be listed loses only its own files, and is named and counted."""

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults import shut
from synthetic import write_plain

from nelbo.data import InputError, Manifest, ingest
from nelbo.data.sources.listing import list_source


def paths(manifest: Manifest) -> list[str]:
    found: list[str] = manifest.table["relative_path"].to_pylist()
    return found


GONE = FileNotFoundError(errno.ENOENT, "No such file or directory")


@pytest.mark.parametrize("error", [None, GONE, OSError(errno.EIO, "Input/output error"), PermissionError("no")])
def test_the_other_folders_are_read(
    error: OSError | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.png", "b/c.png", "b/shut/d.png", "b/shut/e/f.png", "b/z.png", "y.png"):
        write_plain(tmp_path / name)
    shut(monkeypatch, "shut", error=error)
    manifest = ingest(tmp_path)
    assert paths(manifest) == ["a.png", "b/c.png", "b/z.png", "y.png"]
    assert (manifest.n_folders_unlisted, manifest.n_skipped) == (1, 0)
    assert f"{tmp_path}: folders that cannot be listed: b/shut. Their files have no rows" in caplog.text


def test_the_first_few_unlistable_folders_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_plain(tmp_path / "a.png")
    names = [f"n{i:02}" for i in range(15)]
    for name in names:
        (tmp_path / name).mkdir()
    shut(monkeypatch, *names)
    assert ingest(tmp_path).n_folders_unlisted == 15
    assert "n00, n01, n02 and 12 more." in caplog.text


def test_a_root_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plain(tmp_path / "in" / "a.png")
    shut(monkeypatch, "in")
    with pytest.raises(InputError, match=r"in cannot be listed \(Permission denied\)"):
        ingest(tmp_path / "in")


def test_a_root_that_vanishes_meanwhile_is_refused(tmp_path: Path) -> None:
    write_plain(tmp_path / "in" / "a" / "a.png")
    write_plain(tmp_path / "in" / "b" / "b.png")
    entries = list_source(str(tmp_path / "in")).entries
    assert next(entries).entry.path == "a/a.png"
    shutil.rmtree(tmp_path / "in")
    with pytest.raises(InputError, match="cannot be listed"):
        list(entries)


def test_a_root_with_only_unlistable_folders_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shut").mkdir()
    shut(monkeypatch, "shut")
    with pytest.raises(
        InputError, match=r"holds no files \(0 hidden, linked or masks, folders that cannot be listed: 1\)"
    ):
        ingest(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "n"),
    [("**/*.png", 1), ("*/*/*.png", 1), ("in/s*/*.png", 1), ("*.png", 0), ("in/*.png", 0), ("i/s/*", 0)],
)
def test_a_pattern_counts_what_it_might_have_found(
    pattern: str, n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "in/b.png", "in/c/d.png", "i/s/x.png", "in/space/f.png", "in/shut/e.png"):
        write_plain(tmp_path / name)
    shut(monkeypatch, "shut")
    manifest = ingest(f"{tmp_path}/{pattern}")
    assert manifest.n_folders_unlisted == n
    assert not any("shut" in path for path in paths(manifest))


def test_a_path_that_is_too_long_is_listed(tmp_path: Path) -> None:
    """It cannot be opened under its whole path, but it exists."""
    write_plain(tmp_path / "a.png")
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        above, here = here, os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(above)
    os.close(here)
    try:
        manifest = ingest(tmp_path)
        assert (paths(manifest), manifest.n_folders_unlisted) == (["a.png"], 1)
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / ("d" * 250))], check=True)  # noqa: S607


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be accessed"):
        ingest("a" * 5000)


#: Capabilities that root must drop, because they let it read every folder.
_RIGHTS = "-dac_override,-dac_read_search"


@pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root can list every folder without setpriv"
)
def test_files_that_a_user_may_not_read_are_counted(tmp_path: Path) -> None:
    """Among them are the folder lost+found of a disk, a folder of which only the names can be read, and a file."""
    for name in ("a.png", "lost+found/b.png", "names/c.png", "names/deeper/e.png", "d.png"):
        write_plain(tmp_path / name)
    (tmp_path / "lost+found").chmod(0)
    (tmp_path / "names").chmod(0o400)
    (tmp_path / "d.png").chmod(0)
    code = f"""
import json
from nelbo.data import ingest
found = ingest({str(tmp_path)!r})
print(json.dumps([found.n_folders_unlisted, [[x["relative_path"], x["reason"]] for x in found.table.to_pylist()]]))
"""
    drop = ["setpriv", "--inh-caps", _RIGHTS, "--bounding-set", _RIGHTS] if os.geteuid() == 0 else []
    done = subprocess.run([*drop, sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (tmp_path / "names").chmod(0o700)
    assert json.loads(done.stdout) == [2, [["a.png", None], ["d.png", "unreadable"], ["names/c.png", "unreadable"]]]
    assert "names/deeper" in done.stderr


def test_a_fault_of_this_process_is_not_blamed_on_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plain(tmp_path / "shut" / "a.png")
    shut(monkeypatch, "shut", error=OSError(errno.EMFILE, "Too many open files"))
    with pytest.raises(InputError, match="Too many open files"):
        ingest(tmp_path)


@pytest.fixture(autouse=True)
def warned(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
