"""Groups of images by paths or by a column of a manifest, and what joins groups."""

import hashlib
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import nelbo.data.path_rules
from nelbo.data import (
    MANIFEST_SCHEMA,
    InputError,
    Manifest,
    ingest,
    iter_rows,
    n_groups,
    names_in_paths,
    read_table,
    write_table,
)
from nelbo.data.groups import united
from nelbo.data.path_rules import check_path_rule

PATHS = ["day1/tile7_a.png", "day1/tile7_b.png", "day2/tile7_a.png", "day2/größe8_a.png", "x.png", "a\nb/tile1_.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(4):
        Image.new("L", (20, 10), i).save(tmp_path / f"part_{i}.png")
    return tmp_path


def test_folders_name_groups() -> None:
    assert names_in_paths([*PATHS, "a/b/c.png"], "folder", "group_by") == [
        "day1",
        "day1",
        "day2",
        "day2",
        ".",
        "a\nb",
        "a/b",
    ]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        # The whole match, wherever it is.
        (r"tile\d+", ["tile7", "tile7", "tile7", None, None, "tile1"]),
        # The first of two groups.
        (r"(\w+)/(\w+?)_", ["day1", "day1", "day2", "day2", None, "b"]),
        # Letters of any language count.
        (r"/([^\W\d]+)", ["tile", "tile", "tile", "größe", None, "tile"]),
        # An unmatched group or an empty match is no name.
        (r"(day1)?/", ["day1", "day1", None, None, None, None]),
        (r"z*", [None] * 6),
        # Syntax that only Python's regular expressions have.
        (r"(?<=tile)\d(?=_b)", [None, "7", None, None, None, None]),
        (r"(?P<day>\w+)/\w+", ["day1", "day1", "day2", "day2", None, "b"]),
        (r"(?i)(TILE\d)", ["tile7", "tile7", "tile7", None, None, "tile1"]),
    ],
)
def test_a_pattern_names_groups(pattern: str, names: list[str | None]) -> None:
    check_path_rule(pattern)
    assert names_in_paths(PATHS, pattern, "group_by") == names


@pytest.mark.parametrize("bad", ["(", "[a", "*", "(?P<a>x)(?P<a>y)", r"\1", "a{99999999999999999999}", "x" * 201])
def test_a_bad_pattern_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match=r"position|at most 200|too large|redefinition|nothing to repeat"):
        check_path_rule(bad)


@pytest.mark.parametrize("rule", ["x" * 200, "[[a]tile"])
def test_long_and_unusual_patterns_are_accepted(rule: str) -> None:
    check_path_rule(rule)


def test_a_pattern_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nelbo.data.path_rules, "_SECONDS", 1)
    with pytest.raises(
        InputError, match=r"group_by='\(a\+\)\+\$' takes more than 1 seconds on 2 paths. Avoid repetition within"
    ):
        names_in_paths(["b.png", "a" * 60 + "!"], "(a+)+$", "group_by")
    # The same pattern works on a harmless path.
    assert names_in_paths(["baa"], "(a+)+$", "group_by") == ["aa"]


def test_many_paths_are_fast() -> None:
    paths = [f"tile{i % 700}/{i}.png" for i in range(30_000)]
    assert names_in_paths(paths, r"tile\d+", "group_by") == [re.search(r"tile\d+", path)[0] for path in paths]  # type: ignore[index]


def test_groups_that_share_contents_are_merged_transitively() -> None:
    image_ids = ["1", "1", "2", "2", "3", "3", "4", "5", "5", None, None]
    groups = ["d", "c", "c", "b", "b", "e", "f", "f", None, "e", "g"]
    assert united(image_ids, groups) == ["b"] * 6 + ["f"] * 3 + ["b", "g"]
    assert united(["1", "2"], [None, None]) == [None, None]
    # A long chain of groups, in either direction.
    n = 5000
    images = [str(i // 2) for i in range(2 * n)]
    names = [f"{(i + 1) // 2:05d}" for i in range(2 * n)]
    assert set(united(images, names)) == set(united(images[::-1], names[::-1])) == {"00000"}


def test_groups_are_counted() -> None:
    assert n_groups(["a", "b", "c", "d", "d"], ["p", "p", None, "q", "r"]) == 3
    assert n_groups(["a", "b"], [None, None]) is None
    assert n_groups([], []) is None


def test_a_column_of_a_csv_gives_groups(folder: Path) -> None:
    (folder / "list.csv").write_text("path,group\npart_0.png, NA \npart_1.png,\npart_2.png,01\npart_3.png,1\n")
    table = ingest(folder / "list.csv").table
    assert table["group"].to_pylist() == ["NA", None, "01", "1"]
    (folder / "list.csv").unlink()
    assert ingest(folder).table["group"].to_pylist() == [None] * 4


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pd.array([1, 1, None, 2], "Int64"), ["1", "1", None, "2"]),
        (pd.Categorical(["a", "a", None, "b"]), ["a", "a", None, "b"]),
        (pd.array(["a", "", None, "b"], "string"), ["a", None, None, "b"]),
    ],
)
def test_a_column_of_a_parquet_file_gives_groups(folder: Path, values: object, expected: list[str | None]) -> None:
    pd.DataFrame({"path": [f"part_{i}.png" for i in range(4)], "group": values}).to_parquet(folder / "list.parquet")
    assert ingest(folder / "list.parquet").table["group"].to_pylist() == expected


def test_credentials_in_a_group_are_refused(folder: Path) -> None:
    (folder / "list.csv").write_text("path,group\npart_0.png,https://me:secret@host/x\n")
    with pytest.raises(InputError, match="column group") as caught:
        ingest(folder / "list.csv")
    assert "secret" not in str(caught.value)


def test_the_hash_of_a_batch_depends_on_groups_and_is_unchanged_without() -> None:
    rows = [dict.fromkeys(MANIFEST_SCHEMA.names) | {"relative_path": f"{i}.png", "label": -1} for i in range(2)]

    def content_hash(*groups: str | None) -> str:
        named = [row | {"group": group} for row, group in zip(rows, groups, strict=False)]
        return Manifest(pa.Table.from_pylist(named, MANIFEST_SCHEMA), "/in").content_hash()

    before = b"".join(b"%d.png\0None\0-1\0None\n" % i for i in range(2))
    assert content_hash(None, None) == hashlib.sha256(before).hexdigest()
    all_different = [("a", None), (None, "a"), ("a", "a"), ("b", "b"), ("a", "b"), ("None", None), (None, None)]
    assert len({content_hash(*groups) for groups in all_different}) == len(all_different)
    # A name cannot imitate the next row.
    assert content_hash("a\n1.png\0None\0-1\0None") != content_hash("a", None)


def test_a_manifest_of_schema_version_4_without_groups_is_read(folder: Path) -> None:
    """Workspaces of earlier versions lack the column."""
    target = folder / "manifest.parquet"
    write_table(ingest(folder).table, target, MANIFEST_SCHEMA)
    old = pq.read_table(target)
    metadata = {**old.schema.metadata, b"nelbo.schema_version": b"4"}
    pq.write_table(old.drop_columns(["group"]).replace_schema_metadata(metadata), target)
    table = read_table(target)
    assert table.schema.equals(MANIFEST_SCHEMA, check_metadata=False)
    assert table["group"].to_pylist() == [None] * 4
    assert table.drop_columns(["group"]).equals(old.drop_columns(["group"]))
    assert read_table(target, ["group", "label"]).column_names == ["group", "label"]
    assert sum(len(rows) for rows in iter_rows(target, 3)) == 4
