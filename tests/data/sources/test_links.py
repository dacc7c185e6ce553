"""No link below the root is followed when a file is read, whatever was there during the listing."""

import hashlib
from pathlib import Path

import pytest
from synthetic import write_plain

from nelbo.data import Preprocessing, Scan, ingest, read_images
from nelbo.data.sources.files import File, Folder
from nelbo.data.sources.listing import list_source

SMALL = Preprocessing(2, 2)


def swap(folder: Path, target: Path) -> None:
    """Replace a folder by a link."""
    folder.rename(folder.with_name(f".{folder.name}"))
    folder.symlink_to(target)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    return write_plain(tmp_path / "secret" / "deeper" / "a.png", 200).parent


@pytest.mark.parametrize("folder", ["b", "b/deeper"])
def test_a_folder_swapped_for_a_link_after_the_listing_is_not_followed(
    folder: str, tmp_path: Path, secret: Path
) -> None:
    root = tmp_path / "in"
    write_plain(root / "a.png")
    write_plain(root / "b" / "deeper" / "a.png")
    listed = ingest(root).files
    scan = Scan(list_source(str(root)))
    scan.listing.__dict__["entries"] = iter(list(scan.listing.entries))
    swap(root / folder, secret if folder == "b/deeper" else secret.parent)
    # Even if the contents are the same, it is not the listed file.
    (secret / "a.png").write_bytes((root / "a.png").read_bytes())
    assert read_images(listed, SMALL).reasons == [None, "changed"]
    assert read_images([File(str(root), "b/deeper/a.png")], SMALL).reasons == ["unreadable"]
    assert [table["relative_path"].to_pylist() for table in scan] == [["a.png"]]
    assert scan.waiting == ["b/deeper/a.png"]
    with pytest.raises(FileNotFoundError, match="is a link, or lies behind one"):
        Folder(root).look("b/deeper/a.png")


def test_a_folder_of_a_table_swapped_for_a_link_is_not_followed(tmp_path: Path, secret: Path) -> None:
    root = tmp_path / "in"
    write_plain(root / "b" / "a.png")
    (root / "list.csv").write_text("path\nb/a.png\n")
    listing = list_source(str(root / "list.csv"))
    swap(root / "b", secret)
    (table,) = Scan(listing)
    assert table.select(["image_id", "reason"]).to_pylist() == [{"image_id": None, "reason": "unreadable"}]


def test_a_file_swapped_for_a_link_has_changed(tmp_path: Path, secret: Path) -> None:
    path = write_plain(tmp_path / "in" / "a.png")
    image_id = hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    path.symlink_to(secret / "a.png")
    assert read_images([File(str(path.parent), "a.png", image_id)], SMALL).reasons == ["changed"]


@pytest.mark.parametrize("path", ["../secret/deeper/a.png", "b/../../secret/deeper/a.png", "/etc/passwd", "b//../x"])
def test_paths_that_lead_out_are_not_opened(path: str, tmp_path: Path, secret: Path) -> None:
    write_plain(tmp_path / "in" / "b" / "a.png")
    assert secret.exists()
    assert read_images([File(str(tmp_path / "in"), path)], SMALL).reasons == ["unreadable"]


def test_a_root_behind_a_link_and_an_unlistable_folder_can_be_read(tmp_path: Path) -> None:
    write_plain(tmp_path / "in" / "b" / "a.png")
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "in" / "b").chmod(0o300)
    assert read_images([File(str(tmp_path / "link"), "b/a.png")], SMALL).reasons == [None]


def test_no_descriptor_is_left_open(tmp_path: Path, secret: Path) -> None:
    write_plain(tmp_path / "in" / "b" / "c" / "a.png")
    (tmp_path / "in" / "link").symlink_to(secret)
    folder = Folder(tmp_path / "in")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in ("b/c/a.png", "b/c/none.png", "link/a.png", "none/a.png", "../a.png"):
        for use in (folder.look, lambda path: folder.read(path, 1 << 20)):
            try:
                use(path)
            except OSError:
                continue
    assert len(list(Path("/proc/self/fd").iterdir())) == before
