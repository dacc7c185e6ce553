"""Scored rows as CSV hold what Parquet holds, and no spreadsheet takes a cell for a formula."""

import csv
import math
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from commands import assert_refused
from synthetic import write_images

from nelbo.data import SCORES_SCHEMA, read_scores

Nelbo = Callable[..., tuple[int, str, str]]


def cells(file: Path) -> list[dict[str, str]]:
    assert file.read_bytes().startswith(b"\xef\xbb\xbf")
    with file.open(encoding="utf-8-sig", newline="") as opened:
        return list(csv.DictReader(opened))


def as_stored(text: str, expected: Any) -> bool:
    """Whether a cell of CSV holds the value of Parquet."""
    if expected is None:
        return text == ""
    if isinstance(expected, float):
        return math.isclose(float(text), expected, rel_tol=0)
    if isinstance(expected, datetime):
        return datetime.fromisoformat(text) == expected
    return text.removeprefix("'" if text[1:2] in ("=", "-", "+", "@") else "") == str(expected)


def test_rows_are_those_of_parquet_and_no_formula(nelbo: Nelbo, workspace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    paths = write_images(folder, 4, seed=5)
    for path, name in zip(paths, ["=1+1.png", '-x, "y".png', "a\nb é.png", "@z.png"], strict=True):
        path.rename(folder / name)
    (folder / "broken.png").write_bytes(b"\x89PNG")
    file = tmp_path / "scores.csv"
    file.write_text("old")
    code, out, err = nelbo("score", folder, "--csv", file, "--batch-id", "n1", "--workspace", workspace, "--no-prefect")
    assert code == 0, err
    assert f"rows {file}." in out
    found = cells(file)
    (scores,) = workspace.glob("scores/*/batch_id=n1/scores.parquet")
    expected = read_scores(scores).to_pylist()
    assert list(found[0]) == SCORES_SCHEMA.names
    assert len(found) == len(expected) == 5
    for row, stored in zip(found, expected, strict=True):
        assert [name for name, value in stored.items() if not as_stored(row[name], value)] == []
        assert row["relative_path"][0] not in "=-+@"
    # pandas reads the file, too.
    assert pd.read_csv(file)["verdict"].tolist() == [row["verdict"] for row in expected]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "scores.csv", "workspace"]


def test_rows_of_new_images_name_their_batch(nelbo: Nelbo, workspace: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "in", 3, seed=6)
    file = tmp_path / "new.csv"
    scoring = ("score", tmp_path / "in", "--new", "--min-age", "0", "--csv", file, "--workspace", workspace)
    assert nelbo(*scoring, "--no-prefect")[0] == 0
    found = cells(file)
    assert [*found[0]] == ["batch_id", *SCORES_SCHEMA.names]
    (scores,) = workspace.glob("scores/*/*/scores.parquet")
    assert {f"batch_id={row['batch_id']}" for row in found} == {scores.parent.name}
    assert len(found) == 3
    # Nothing is new: the file has no rows, and old rows do not stay.
    assert nelbo(*scoring, "--no-prefect")[0] == 0
    assert cells(file) == []
    assert file.read_text(encoding="utf-8-sig").startswith("batch_id,relative_path,")


def test_a_csv_path_that_cannot_be_written_is_refused_before_scoring(
    nelbo: Nelbo, images: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "in").symlink_to(images / "new")
    table = tmp_path / "list.csv"
    table.write_text(f"path\n{images / 'new' / 'a' / 'tile_2_000.png'}\n")
    at = ("--workspace", workspace, "--no-prefect")
    for name, says in (
        (tmp_path / "scores.parquet", "ends with .csv"),
        ("s3://bucket/scores.csv", "on this machine"),
        (tmp_path / "folder.csv", "is not a file"),
        (tmp_path / "pipe.csv", "is not a file"),
        (tmp_path / "nowhere" / "scores.csv", "there is no folder"),
        (images / "new" / "scores.csv", "lies among the images"),
        (tmp_path / "in" / "a" / "scores.csv", "lies among the images"),
        (workspace / "scores" / "scores.csv", "lies among the workspace"),
    ):
        assert_refused(nelbo("score", images / "new", "--csv", name, *at), f"--csv {name}", says)
    assert_refused(nelbo("score", table, "--csv", table, *at), "lies among the images")
    assert list(workspace.glob("scores/*")) == []
    monkeypatch.chdir(images / "new")
    assert_refused(nelbo("score", ".", "--csv", "scores.csv", *at), "lies among the images (.)")
