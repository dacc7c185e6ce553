"""A manifest has one row for each file, whatever lies in the folder."""

import hashlib
import os
from pathlib import Path

import pandas as pd
import pytest
from synthetic import write_plain

from nelbo.data import InputError, ingest


def test_a_folder_gives_a_row_for_each_file(tmp_path: Path) -> None:
    file = write_plain(tmp_path / "in" / "b" / "x.png")
    write_plain(tmp_path / "in" / "a.png", 1)
    (tmp_path / "in" / "notes.txt").write_text("hello")
    (tmp_path / "in" / "Thumbs.db").write_text("hidden")
    write_plain(tmp_path / "in" / ".cache" / "y.png")
    (tmp_path / "in" / "link.png").symlink_to(file)
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "in" / "pipe.png")
    manifest = ingest(tmp_path / "in")
    rows = manifest.table.to_pylist()
    assert [row["relative_path"] for row in rows] == ["a.png", "b/x.png", "notes.txt"]
    assert [row["reason"] for row in rows] == [None, None, "not_an_image"]
    assert rows[1]["image_id"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (rows[1]["format"], rows[1]["width_px"], rows[1]["height_px"]) == ("PNG", 20, 10)
    assert rows[1]["label"] == -1
    assert manifest.n_skipped == 5


def test_a_second_ingest_is_identical_and_contents_determine_the_hash(tmp_path: Path) -> None:
    for i in range(5):
        write_plain(tmp_path / "one" / f"{i}.png", i)
        write_plain(tmp_path / "two" / f"{i}.png", i)
    first, second, copy = ingest(tmp_path / "one"), ingest(tmp_path / "one"), ingest(tmp_path / "two")
    assert first.table.equals(second.table)
    assert first.content_hash() == copy.content_hash()
    write_plain(tmp_path / "two" / "3.png", 99)
    assert ingest(tmp_path / "two").content_hash() != first.content_hash()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_manifest_file_gives_a_row_for_each_path(tmp_path: Path, kind: str) -> None:
    write_plain(tmp_path / "a b, c.png")
    write_plain(tmp_path / "NA")
    table = pd.DataFrame(
        {
            "path": ["a b, c.png", "gone.png", "NA"],
            "label": [1.0, None, 0.0],
            "split": ["test", None, "train"],
            "note": ["x", "y", "z"],
        }
    )
    source = tmp_path / f"list.{kind}"
    table.to_csv(source, index=False) if kind == "csv" else table.to_parquet(source)
    rows = {row["relative_path"]: row for row in ingest(source).table.to_pylist()}
    assert rows["a b, c.png"]["label"] == 1
    assert rows["a b, c.png"]["split"] == "test"
    assert rows["gone.png"]["reason"] == "unreadable"
    assert rows["gone.png"]["label"] == -1
    assert rows["gone.png"]["image_id"] is None
    assert rows["NA"]["label"] == 0


def test_the_folder_of_results_is_ignored(tmp_path: Path) -> None:
    write_plain(tmp_path / "x.png")
    write_plain(tmp_path / "workspace" / "y.png")
    manifest = ingest(tmp_path, skip=tmp_path / "workspace")
    assert (manifest.table["relative_path"].to_pylist(), manifest.n_skipped) == (["x.png"], 1)


def test_a_link_given_by_name_is_followed(tmp_path: Path) -> None:
    write_plain(tmp_path / "x.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "x.png")
    assert ingest(tmp_path / "link.png").table["relative_path"].to_pylist() == ["x.png"]


def test_a_folder_whose_name_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    write_plain(folder / "x.png")
    with pytest.raises(InputError, match="not UTF-8"):
        ingest(folder)


def test_a_manifest_may_have_a_byte_order_mark(tmp_path: Path) -> None:
    write_plain(tmp_path / "x.png")
    (tmp_path / "list.csv").write_text("path\nx.png\n", encoding="utf-8-sig")
    assert len(ingest(tmp_path / "list.csv")) == 1
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbfpath,label\r\nx.png,1\r\n")
    assert ingest(tmp_path / "list.csv").table["label"].to_pylist() == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file\nx.png\n", "no column 'path'"),
        ("path\n", "lists no files"),
        ("path\n../secret.png\n", "leave"),
        ("path\n/etc/passwd\n", "leave"),
        ("path\nout/secret.png\n", "leave"),
        ("path\nx.png\n./x.png\n", "are repeated"),
        ("path,label\nx.png,2\n", "are not labels"),
        ("path,split\nx.png,dev\n", "are not splits"),
        ("path\n" + "".join(f"../{i}\n" for i in range(7)), "and 2 more"),
        ("path,label\nx.png,0,\n", "not a readable manifest"),
        ("", "not a readable manifest"),
        ("path\nlink/../out/f.png\n", "leave"),
    ],
)
def test_bad_manifests_are_refused(tmp_path: Path, content: str, message: str) -> None:
    write_plain(tmp_path / "in" / "x.png")
    write_plain(tmp_path / "secret.png")
    (tmp_path / "in" / "out").symlink_to(tmp_path)
    write_plain(tmp_path / "f.png")
    (tmp_path / "in" / "a" / "b").mkdir(parents=True)
    (tmp_path / "in" / "link").symlink_to(tmp_path / "in" / "a" / "b")
    (tmp_path / "in" / "list.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        ingest(tmp_path / "in" / "list.csv")


def test_a_broken_parquet_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="not a readable manifest"):
        ingest(tmp_path / "list.parquet")


def test_sources_without_usable_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        ingest(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no files"):
        ingest(tmp_path / "empty")
    (tmp_path / "empty" / "x.txt").write_text("x")
    with pytest.raises(InputError, match=r"no usable image, only 1 other files \(1 not_an_image\)"):
        ingest(tmp_path / "empty")
    with pytest.raises(InputError, match="root="):
        ingest(tmp_path / "empty", root=tmp_path)
