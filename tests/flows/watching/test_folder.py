"""Which files of a folder are complete, by system notices and by listings, with a simulated clock."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from nelbo.data import Entry, Known, Stamp, ingest
from nelbo.flows.watching.folder import WatchedFolder


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(root: Path, clock: Clock) -> Iterator[WatchedFolder]:
    watched = WatchedFolder(str(root), None, Known([], 0), settle_s=0.5, list_s=10, clock=clock)
    with watched.open():
        yield watched


def put(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(path)
    return path


def complete(folder: WatchedFolder, n: int = 9) -> list[str]:
    """Take the files that are complete now; their paths."""
    found = folder.complete(n)
    for one in found:
        folder.take(one.entry)
    return [one.entry.path for one in found]


def test_existing_files_are_listed_and_settle(root: Path, clock: Clock, folder: WatchedFolder) -> None:
    put(root / "b" / "c.png")
    put(root / "a.png")
    put(root / ".hidden" / "d.png")
    put(root / "ground_truth" / "bent" / "0_mask.png")
    assert complete(folder) == []
    clock.now_s += 0.5
    (first, second) = folder.complete(9)
    assert [one.entry.path for one in (first, second)] == ["a.png", "b/c.png"]
    assert first.since_s == 100.5
    assert folder.is_listed


def test_renamed_and_written_files_are_complete(root: Path, clock: Clock, folder: WatchedFolder) -> None:
    assert complete(folder) == []
    put(root / ".a.tmp.png").rename(root / "a.png")
    put(root / "b.png")
    assert complete(folder) == ["a.png"]
    clock.now_s += 0.5
    # A program still writes to it.
    with (root / "b.png").open("ab") as file:
        file.write(b"more")
    assert complete(folder) == []
    clock.now_s += 0.49
    assert complete(folder) == []
    clock.now_s += 0.01
    assert complete(folder) == ["b.png"]
    assert complete(folder) == []


def test_a_rewritten_file_comes_again(root: Path, clock: Clock, folder: WatchedFolder) -> None:
    put(root / ".a.png").rename(root / "a.png")
    assert complete(folder) + complete(folder) == ["a.png"]
    (root / "a.png").write_bytes((root / "a.png").read_bytes())
    complete(folder)
    clock.now_s += 0.5
    assert complete(folder) == ["a.png"]


def test_a_listing_makes_up_for_a_lost_notice(
    root: Path, clock: Clock, folder: WatchedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(folder)
    with monkeypatch.context() as patch:
        patch.setattr("nelbo.data.sources.notices.Notices.read", lambda *_: [])
        put(root / "a.png")
        clock.now_s += 9.9
        assert not complete(folder) + complete(folder)
        assert not folder.waits
        clock.now_s += 0.1
        complete(folder)
        clock.now_s += 0.5
        assert complete(folder) == ["a.png"]


def test_a_listing_is_made_in_slices(root: Path, clock: Clock, folder: WatchedFolder) -> None:
    """A file that lands while a large folder is listed does not wait for the end of the listing."""
    for i in range(20):
        put(root / f"{i:02d}.png")

    def slow(_notices: object) -> Iterator[Entry]:
        for i in range(20):
            clock.now_s += 0.01
            yield Entry(f"{i:02d}.png", Stamp.of((root / f"{i:02d}.png").stat()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nelbo.data.sources.notices.Notices.entries", slow)
        complete(folder)
        assert not folder.is_listed
        put(root / ".new.png").rename(root / "new.png")
        assert "new.png" in complete(folder)
        while not folder.is_listed:
            complete(folder)
        # The file came after the listing had passed its place, but is not taken for deleted.
        assert folder.may_hold("new.png")


def test_known_files_are_not_taken_again(root: Path, clock: Clock) -> None:
    put(root / "a.png")
    table = ingest(root).table
    later = Known([table], table["modified_ns"][0].as_py() + 120 * 10**9)
    watched = WatchedFolder(str(root), None, later, settle_s=0, list_s=10, clock=clock)
    with watched.open():
        assert complete(watched) == []
        assert watched.may_hold("a.png")
        assert not watched.may_hold("b.png")


def test_an_empty_folder_in_place_of_the_watched_one_is_ignored(
    root: Path, clock: Clock, folder: WatchedFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """An empty mount point, whose drive is away for a while, does not mean that the files were deleted."""
    put(root / ".a.png").rename(root / "a.png")
    # Before the listing, any file may exist.
    assert folder.may_hold("b.png")
    assert complete(folder) + complete(folder) == ["a.png"]
    assert not folder.may_hold("b.png")
    away = root.rename(root.with_name("away"))
    root.mkdir()
    for _ in range(3):
        clock.now_s += 11
        assert complete(folder) == []
    assert folder.may_hold("a.png")
    assert [record.getMessage() for record in caplog.records] == [
        f"{root} cannot be listed (another folder is in its place, and is empty). Trying again every 10 s"
    ]
    root.rmdir()
    away.rename(root)
    (root / "a.png").unlink()
    clock.now_s += 11
    assert complete(folder) == []
    assert not folder.may_hold("a.png")


def test_a_recreated_folder_is_watched(
    root: Path, clock: Clock, folder: WatchedFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """The folder was deleted and made again, or its drive came back under another number."""
    put(root / ".a.png").rename(root / "a.png")
    assert complete(folder) + complete(folder) == ["a.png"]
    root.rename(root.with_name("away"))
    put(root / "b" / "c.png")
    clock.now_s += 11
    assert complete(folder) == []
    clock.now_s += 0.5
    assert complete(folder) == ["b/c.png"]
    assert not folder.may_hold("a.png")
    assert [record.getMessage() for record in caplog.records] == [
        f"another folder is in the place of {root}, and is watched from now on"
    ]
    # The new folder gives notices, too.
    put(root / "b" / ".d.png").rename(root / "b" / "d.png")
    assert complete(folder) == ["b/d.png"]


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_recreated_folder_gives_notices(is_lost: bool, root: Path, clock: Clock, folder: WatchedFolder) -> None:
    """File systems may give the new folder the old one's inode number."""
    assert complete(folder) == []
    shutil.rmtree(root)
    if is_lost:
        complete(folder)
        clock.now_s += 11
        assert complete(folder) == []
    put(root / "a.png")
    complete(folder)
    clock.now_s += 11
    complete(folder)
    clock.now_s += 0.5
    assert complete(folder) == ["a.png"]
    put(root / ".b.png").rename(root / "b.png")
    assert complete(folder) == ["b.png"]


def test_a_file_that_vanishes_before_it_is_complete_is_reported(
    root: Path, clock: Clock, folder: WatchedFolder, caplog: pytest.LogCaptureFixture
) -> None:
    complete(folder)
    put(root / "a.png")
    put(root / "b\x1b.png")
    complete(folder)
    (root / "a.png").unlink()
    # Programs write under a temporary name, so a rename is not reported.
    (root / "b\x1b.png").rename(root / "c.png")
    assert complete(folder) == ["c.png"]
    clock.now_s += 1
    assert complete(folder) == []
    assert [record.getMessage() for record in caplog.records] == ["a.png was gone before it was scored"]
