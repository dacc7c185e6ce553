"""A folder in which images keep landing: each file is in exactly one batch, whatever happens to the runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import killed
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from faults import shut
from killed import stubs
from PIL import Image
from scored import stub_workspace

import nelbo.data.decoder.decoding
import nelbo.data.sources.manifest
from nelbo.data import MANIFEST_SCHEMA, InputError, Place, open_place, read_metadata, read_table
from nelbo.flows.options.options import PruneOptions, ScoreOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.runner import Direct
from nelbo.flows.steps.score import score_batch
from nelbo.flows.workspace.errors import NotYetError, UsageError
from nelbo.flows.workspace.layout import Workspace

Trained = tuple[Path, dict[str, Any]]
OLD = 1_700_000_000


def put(path: Path, value: int, when: float = OLD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (32, 32), value).save(path)
    os.utime(path, (when, when))
    return path


def age(path: Path) -> None:
    os.utime(path, (OLD, OLD))


class Meddling(Direct):
    """A runner that calls a given function as soon as a step is over."""

    def __init__(self, **after: Callable[[], Any]) -> None:
        self._after = after

    def call(self, step: Callable[..., Any], *args: Any) -> Any:
        result = super().call(step, *args)
        if step.__name__ in self._after:
            self._after[step.__name__]()
        return result


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """Ends a run at a chosen step."""


def stop() -> None:
    raise Stopped


class Line:
    """A workspace and the folder in which its images land."""

    def __init__(self, workspace: Place, folder: Path) -> None:
        self.workspace, self.folder = workspace, folder

    def score(self, runner: Direct | None = None, **options: Any) -> dict[str, Any]:
        options = {"images": str(self.folder), "workspace": str(self.workspace), "new": True, "workers": 1} | options
        return score_batch(ScoreOptions(**options), runner or Direct())

    def freeze(self) -> str:
        """Stop a run as soon as its batch is frozen; the id of the batch."""
        with pytest.raises(Stopped):
            self.score(Meddling(freeze_new=stop))
        return self.unfinished

    def rows(self, batch_id: str) -> list[str]:
        (path,) = self.workspace.glob(f"scores/*/batch_id={batch_id}/scores.parquet")
        return read_table(path)["relative_path"].to_pylist()

    def scored(self) -> Counter[tuple[str, str]]:
        """How often each path with its contents is in any batch."""
        found: Counter[tuple[str, str]] = Counter()
        for path in self.workspace.glob("scores/*/*/scores.parquet"):
            columns = read_table(path, ["relative_path", "image_id"]).to_pydict().values()
            found.update(zip(*columns, strict=True))
        return found

    @property
    def ledger(self) -> Place:
        return Workspace(self.workspace).ledger(str(self.folder.resolve()))

    @property
    def taken(self) -> list[str]:
        return read_table(self.ledger)["relative_path"].to_pylist()

    @property
    def unfinished(self) -> str:
        return read_metadata(self.ledger)["nelbo.unfinished"]


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for stub in stubs():
        monkeypatch.setattr(*stub)
    monkeypatch.setenv("SCORED", str(tmp_path / "scored.txt"))


@pytest.fixture
def line(tmp_path: Path, stubbed: None) -> Line:  # noqa: ARG001
    """A line where three old images have landed."""
    for i, name in enumerate(("a.png", "b/c.png", "d.png")):
        put(tmp_path / "in" / name, i)
    stub_workspace(tmp_path / "workspace")
    return Line(tmp_path / "workspace", tmp_path / "in")


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_nothing_new_writes_nothing(line: Line) -> None:
    first = line.score()
    assert (first["n_images"], first["batches"]) == (3, [first["batch_id"]])
    before = state(line.workspace)
    again = line.score()
    assert again["skipped"] == f"nothing new in {line.folder}"
    assert (again["batch_id"], again["n_images"], again["n_anomalous"], again["batches"]) == (None, 0, 0, [])
    # As when a share is not mounted: its mount point is missing, or is empty.
    away = line.folder.rename(line.folder.parent / "away")
    with pytest.raises(InputError, match="does not exist"):
        line.score()
    line.folder.mkdir()
    assert line.score()["n_images"] == 0
    line.folder.rmdir()
    away.rename(line.folder)
    assert line.score()["n_images"] == 0
    assert state(line.workspace) == before


def test_an_empty_folder_is_nothing_new(line: Line) -> None:
    empty = line.folder.parent / "empty"
    empty.mkdir()
    (empty / ".hidden").touch()
    result = line.score(images=str(empty))
    assert (result["n_images"], result["n_skipped"], result["n_waiting"]) == (0, 1, 0)
    assert not list(line.workspace.glob("landing/*.parquet"))
    assert not (line.workspace / "scores").exists()


def test_only_new_files_are_scored(line: Line) -> None:
    assert line.rows(line.score()["batch_id"]) == ["a.png", "b/c.png", "d.png"]
    put(line.folder / "b" / "late.png", 9)
    put(line.folder / "0.png", 10)
    second = line.score()
    assert line.rows(second["batch_id"]) == ["0.png", "b/late.png"]
    assert line.taken == ["0.png", "a.png", "b/c.png", "b/late.png", "d.png"]
    assert line.unfinished == ""
    assert set(line.scored().values()) == {1}
    # The ledger has the format of a manifest.
    table, said = read_table(line.ledger), read_metadata(line.ledger)
    assert table.schema.remove_metadata() == MANIFEST_SCHEMA
    assert said["nelbo.root"] == str(line.folder)
    assert 0 <= time.time_ns() - int(said["nelbo.listed_ns"]) < 600 * 10**9


def test_a_touched_file_is_not_new_but_a_changed_one_is(line: Line) -> None:
    line.score()
    (line.folder / "a.png").touch()
    age(line.folder / "b" / "c.png")
    os.utime(line.folder / "d.png", (OLD + 5, OLD + 5))
    assert line.score(min_age_s=0)["n_images"] == 0
    put(line.folder / "d.png", 77)
    assert line.rows(line.score()["batch_id"]) == ["d.png"]
    assert set(line.scored().values()) == {1}


def test_a_scored_file_that_is_touched_stays_known(line: Line) -> None:
    """The file is young when the ledger is rewritten, and unchanged later on."""
    line.score()
    (line.folder / "a.png").touch()
    put(line.folder / "c.png", 5)
    second = line.score(min_age_s=3600)
    assert (line.rows(second["batch_id"]), second["n_waiting"]) == (["c.png"], 1)
    assert line.taken == ["a.png", "b/c.png", "c.png", "d.png"]
    age(line.folder / "a.png")
    assert line.score()["n_images"] == 0


def test_a_file_replaced_with_the_same_name_size_and_time_is_new(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nelbo.data.sources.files.YOUNG_NS", 0)
    for i, name in enumerate(("a.bmp", "b.bmp", "c.bmp")):
        put(line.folder / name, i)
    line.score()
    put(line.folder / "a.bmp", 77)
    shutil.copy2(put(line.folder.parent / "other.bmp", 88), line.folder / "b.bmp")
    put(line.folder.parent / "other.bmp", 99).replace(line.folder / "c.bmp")
    assert line.rows(line.score()["batch_id"]) == ["a.bmp", "b.bmp", "c.bmp"]
    # A change of permissions or links makes no file new or young.
    (line.folder / "a.bmp").chmod(0o600)
    (line.folder.parent / "link.bmp").hardlink_to(line.folder / "b.bmp")
    again = line.score(min_age_s=3600)
    assert (again["n_images"], again["n_waiting"]) == (0, 0)
    assert set(line.scored().values()) == {1}


@pytest.mark.parametrize("old", [True, False])
def test_files_of_a_folder_that_was_unlistable_for_a_while_are_not_new(
    old: bool, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that came or changed meanwhile are new."""
    if old:
        monkeypatch.setattr("nelbo.data.sources.files.YOUNG_NS", 0)
    put(line.folder / "b" / "deeper" / "x.png", 20)
    put(line.folder / "b" / "deeper" / "y.png", 21)
    first = line.score()
    assert (first["n_images"], first["n_folders_unlisted"]) == (5, 0)
    with monkeypatch.context() as patch:
        shut(patch, "b")
        nothing = line.score()
        assert (nothing["n_images"], nothing["n_folders_unlisted"]) == (0, 1)
        put(line.folder / "ba.png", 30)
        put(line.folder / "b" / "late.png", 31)
        put(line.folder / "b" / "deeper" / "y.png", 32)
        second = line.score()
        assert (line.rows(second["batch_id"]), second["n_folders_unlisted"]) == (["ba.png"], 1)
        assert line.taken == ["a.png", "b/c.png", "b/deeper/x.png", "b/deeper/y.png", "ba.png", "d.png"]
    assert line.rows(line.score()["batch_id"]) == ["b/deeper/y.png", "b/late.png"]
    assert line.score()["n_images"] == 0
    assert set(line.scored().values()) == {1}


def too_late(times: int) -> Callable[..., Iterator[pa.Table]]:
    """The stub's scores, but decoding a.png takes too long `times` times."""
    left = times

    def scores(model: Any, files: Any, decoding: Any, *_: Any) -> Iterator[pa.Table]:
        nonlocal left
        files = list(files)
        (table,) = killed.stub_scores(model, files, decoding)
        late = [file.path == "a.png" and left > 0 for file in files]
        left -= any(late)
        columns = {name: pc.if_else(pa.array(late), None, table[name]) for name in table.column_names}
        yield pa.table({**columns, "reason": pc.if_else(pa.array(late), "timeout", table["reason"])})

    return scores


def reasons_of(line: Line, batch_id: str) -> dict[str, str | None]:
    (path,) = line.workspace.glob(f"scores/*/batch_id={batch_id}/scores.parquet")
    rows = read_table(path, ["relative_path", "reason"]).to_pylist()
    return {row["relative_path"]: row["reason"] for row in rows}


def test_an_image_that_took_too_long_is_tried_again(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nelbo.flows.steps.score.score_files", too_late(2))
    first = line.score()
    assert reasons_of(line, first["batch_id"]) == {"a.png": "timeout", "b/c.png": None, "d.png": None}
    put(line.folder / "e.png", 5)
    assert reasons_of(line, line.score()["batch_id"]) == {"a.png": "timeout", "e.png": None}
    assert reasons_of(line, line.score()["batch_id"]) == {"a.png": None}
    assert line.score()["n_images"] == 0
    assert read_table(line.ledger)["n_timeouts"].null_count == 4


def test_an_image_that_takes_too_long_is_tried_again_three_times(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nelbo.flows.steps.score.score_files", too_late(100))
    assert [line.score()["n_images"] for _ in range(5)] == [3, 1, 1, 1, 0]
    # Files that come later do not make it new, but other contents do.
    put(line.folder / "e.png", 5)
    assert line.rows(line.score()["batch_id"]) == ["e.png"]
    put(line.folder / "a.png", 6)
    assert [line.score()["n_images"] for _ in range(2)] == [1, 1]


def test_a_header_that_takes_too_long_is_tried_again(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    look_into, left = nelbo.data.sources.manifest.look_into, 2

    def late(files: Any, **options: Any) -> Any:
        nonlocal left
        for file, look in zip(files, look_into(files, **options), strict=True):
            if file.path == "a.png" and left > 0:
                left -= 1
                # What a stopped decoder returns.
                yield nelbo.data.decoder.decoding.Look(reason="timeout")
            else:
                yield look

    monkeypatch.setattr("nelbo.data.sources.manifest.look_into", late)
    assert reasons_of(line, line.score()["batch_id"])["a.png"] == "timeout"
    assert reasons_of(line, line.score()["batch_id"]) == {"a.png": "timeout"}
    assert reasons_of(line, line.score()["batch_id"]) == {"a.png": None}
    assert line.score()["n_images"] == 0


def test_a_shard_with_a_timeout_is_scored_again_after_a_kill(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nelbo.flows.steps.score.score_files", too_late(1))
    with monkeypatch.context() as patch:
        patch.setattr("nelbo.flows.steps.score.publish", lambda *_: stop())
        with pytest.raises(Stopped):
            line.score()
    assert reasons_of(line, line.score()["batch_id"]) == {"a.png": None, "b/c.png": None, "d.png": None}


def test_a_ledger_of_an_older_version_stays_valid(line: Line) -> None:
    """It holds no times of change, so files are read again, but they are not new."""
    line.score()
    table = read_table(line.ledger).drop_columns(["changed_ns", "inode", "etag", "n_timeouts"])
    said = read_metadata(line.ledger) | {"nelbo.schema_version": "3"}
    pq.write_table(table.replace_schema_metadata(said), line.ledger)
    assert line.score()["n_images"] == 0
    put(line.folder / "e.png", 5)
    assert line.rows(line.score()["batch_id"]) == ["e.png"]
    assert line.taken == ["a.png", "b/c.png", "d.png", "e.png"]


def test_moved_and_copied_files_are_new(line: Line) -> None:
    line.score()
    (line.folder / "d.png").rename(line.folder / "e.png")
    shutil.copy2(line.folder / "a.png", line.folder / "a2.png")
    second = line.score()
    assert line.rows(second["batch_id"]) == ["a2.png", "e.png"]
    assert line.taken == ["a.png", "a2.png", "b/c.png", "e.png"]


def test_a_file_that_comes_back_is_new_if_its_absence_was_seen(line: Line) -> None:
    line.score()
    (line.folder / "d.png").rename(line.folder.parent / "d.png")
    assert line.score()["n_images"] == 0
    (line.folder.parent / "d.png").rename(line.folder / "d.png")
    assert line.score()["n_images"] == 0
    (line.folder / "d.png").rename(line.folder.parent / "d.png")
    put(line.folder / "e.png", 5)
    assert line.rows(line.score()["batch_id"]) == ["e.png"]
    (line.folder.parent / "d.png").rename(line.folder / "d.png")
    assert line.rows(line.score()["batch_id"]) == ["d.png"]


def test_young_files_wait_but_files_dated_far_ahead_do_not(line: Line) -> None:
    now = time.time()
    put(line.folder / "young.png", 5, now)
    put(line.folder / "soon.png", 6, now + 60)
    put(line.folder / "future.png", 7, now + 86_400)
    first = line.score(min_age_s=3600)
    assert (line.rows(first["batch_id"]), first["n_waiting"]) == (["a.png", "b/c.png", "d.png", "future.png"], 2)
    assert line.score(min_age_s=3600)["n_waiting"] == 2
    age(line.folder / "young.png")
    second = line.score(min_age_s=3600)
    assert (line.rows(second["batch_id"]), second["n_waiting"]) == (["young.png"], 1)


def test_a_half_copied_file_waits_and_is_whole_in_the_next_batch(line: Line) -> None:
    content = put(line.folder.parent / "source.png", 200).read_bytes()
    with (line.folder / "copy.png").open("wb") as copy:
        copy.write(content[:40])
        copy.flush()
        first = line.score()
        assert (first["n_images"], first["n_waiting"]) == (3, 1)
        copy.write(content[40:])
        copy.flush()
        assert line.score()["n_waiting"] == 1
    age(line.folder / "copy.png")
    second = line.score()
    assert line.rows(second["batch_id"]) == ["copy.png"]
    assert second["n_scored"] == 1


def test_a_given_batch_id_scores_the_whole_folder(line: Line) -> None:
    line.score()
    put(line.folder / "e.png", 5, time.time())
    whole = line.score(batch_id="all", min_age_s=3600)
    assert len(line.rows("all")) == whole["n_images"] == 4
    assert "batches" not in whole
    # It does not count as a batch of the landing folder.
    age(line.folder / "e.png")
    assert line.rows(line.score()["batch_id"]) == ["e.png"]


def test_unreadable_files_are_in_one_batch(line: Line) -> None:
    line.score()
    (line.folder / "notes.txt").write_text("not an image")
    age(line.folder / "notes.txt")
    name = os.fsdecode(b"\xff.png")
    put(line.folder / name, 5)
    second = line.score()
    assert (second["n_images"], second["n_scored"], second["n_not_scored"]) == (2, 0, 2)
    assert line.score()["n_images"] == 0
    put(line.folder / "z.png", 6)
    assert line.rows(line.score()["batch_id"]) == ["z.png"]


def test_two_folders_have_two_ledgers(line: Line) -> None:
    line.score()
    other = Path(shutil.copytree(line.folder, line.folder.parent / "other"))
    assert line.score(images=str(other))["n_images"] == 3
    assert line.score(images=f"{line.folder}/../in/")["n_images"] == 0
    assert len(list(line.workspace.glob("landing/*.parquet"))) == 2


def test_the_workspace_may_lie_in_the_folder(line: Line) -> None:
    line.workspace = Path(shutil.move(line.workspace, line.folder / "workspace"))
    assert line.score()["n_images"] == 3
    assert line.score()["n_images"] == 0


def test_a_source_that_is_not_a_folder_is_refused(line: Line) -> None:
    for source in (f"{line.folder}/*.png", str(line.folder / "a.png")):
        with pytest.raises(UsageError, match="goes with a folder"):
            line.score(images=source)


def test_without_a_model_nothing_is_listed(tmp_path: Path) -> None:
    with pytest.raises(NotYetError, match="no latest model"):
        Line(tmp_path / "workspace", tmp_path / "none").score()


def test_a_damaged_ledger_is_refused_with_the_remedy(line: Line) -> None:
    line.score()
    whole = line.ledger.read_bytes()
    line.ledger.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"delete .*landing/l\w{16}.parquet: then every file in the folder is new"):
        line.score()
    line.ledger.unlink()
    assert line.score()["n_images"] == 3


def test_a_folder_that_vanishes_before_it_is_scored_is_completed_when_it_is_back(line: Line) -> None:
    away = line.folder.parent / "away"
    with pytest.raises(UsageError, match=rf"in is not there on {os.uname().nodename}"):
        line.score(Meddling(freeze_new=lambda: line.folder.rename(away)))
    left = line.unfinished
    assert left
    assert not (line.workspace / "scores").exists()
    away.rename(line.folder)
    put(line.folder / "e.png", 5)
    result = line.score()
    assert result["batches"] == [left, result["batch_id"]]
    assert (line.rows(left), line.rows(result["batch_id"])) == (["a.png", "b/c.png", "d.png"], ["e.png"])
    assert line.unfinished == ""


def test_a_folder_that_vanishes_while_it_is_scored_is_an_error(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    away = line.folder.parent / "away"

    def late(*arguments: Any) -> Iterator[Any]:
        line.folder.rename(away)
        yield from killed.stub_scores(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("nelbo.flows.steps.score.score_files", late)
        with pytest.raises(UsageError, match="is not there"):
            line.score()
    away.rename(line.folder)
    assert line.score()["n_scored"] == 3


def test_a_frozen_batch_is_not_listed_again(line: Line) -> None:
    line.freeze()
    put(line.folder / "e.png", 5)
    result = line.score(Meddling(unfinished_batch=lambda: put(line.folder / "f.png", 6)))
    assert line.rows(result["batches"][0]) == ["a.png", "b/c.png", "d.png"]
    assert line.rows(result["batches"][1]) == ["e.png", "f.png"]
    runs = [row for path in line.workspace.glob("runs/*.parquet") for row in read_table(path).to_pylist()]
    assert sorted(row["batch_id"] for row in runs if row["command"] == "score") == sorted(result["batches"])
    # The anomalies of both batches count.
    scored = [read_table(path)["verdict"].to_pylist() for path in line.workspace.glob("scores/*/*/scores.parquet")]
    assert result["n_anomalous_in_batches"] == sum(verdicts.count("anomalous") for verdicts in scored)


def test_a_file_that_changes_or_vanishes_before_it_is_scored_is_new_again(line: Line) -> None:
    def meddle() -> None:
        put(line.folder / "a.png", 99)
        (line.folder / "d.png").rename(line.folder.parent / "d.png")

    first = line.score(Meddling(freeze_new=meddle))
    assert (line.rows(first["batch_id"]), first["n_waiting"]) == (["b/c.png"], 2)
    assert line.taken == ["b/c.png"]
    (line.folder.parent / "d.png").rename(line.folder / "d.png")
    assert line.rows(line.score()["batch_id"]) == ["a.png", "d.png"]
    assert set(line.scored().values()) == {1}


def test_a_frozen_batch_whose_files_are_all_gone_ends(line: Line) -> None:
    left = line.freeze()
    shutil.rmtree(line.folder)
    put(line.folder / "e.png", 5)
    put(line.folder / "a.png", 55)
    result = line.score()
    assert result["batches"] == [result["batch_id"]] != [left]
    assert line.rows(result["batch_id"]) == line.taken == ["a.png", "e.png"]
    assert not list(line.workspace.glob("_staging/*"))
    assert line.score()["n_images"] == 0


def test_files_that_vanish_right_after_freezing_make_no_batch(line: Line) -> None:
    def empty() -> None:
        shutil.rmtree(line.folder)
        line.folder.mkdir()

    result = line.score(Meddling(freeze_new=empty))
    assert (result["batch_id"], result["n_waiting"], result["batches"]) == (None, 3, [])
    assert (line.taken, line.unfinished) == ([], "")
    put(line.folder / "a.png", 0)
    assert line.score()["n_images"] == 1


def test_a_job_that_finds_anothers_batch_shares_it(line: Line) -> None:
    """Neither found an unfinished batch; one freezes its batch, and is stopped or at work when the other continues."""

    def other() -> None:
        line.freeze()
        put(line.folder / "e.png", 5)

    result = line.score(Meddling(unfinished_batch=other))
    assert line.rows(result["batch_id"]) == ["a.png", "b/c.png", "d.png"]
    assert line.rows(line.score()["batch_id"]) == ["e.png"]


def test_a_batch_that_another_job_finished_is_not_scored_again(line: Line) -> None:
    def other() -> None:
        put(line.folder / "e.png", 5)
        line.score()
        put(line.folder / "f.png", 6)
        line.freeze()

    line.score(Meddling(write_report=other))
    # The mark of an unfinished batch belongs to the other job's next batch.
    assert line.unfinished
    result = line.score()
    assert line.rows(result["batch_id"]) == ["f.png"]
    assert set(line.scored().values()) == {1}


def test_pruning_keeps_what_the_next_run_needs(line: Line) -> None:
    first = line.score()["batch_id"]
    put(line.folder / "e.png", 5)
    left = line.freeze()
    for path in line.workspace.rglob("*"):
        age(path)
    execute("prune", PruneOptions(workspace=str(line.workspace), older_than="1d", apply=True), prefect=False)
    kept = {path.parent.name for path in line.workspace.glob("manifests/*/manifest.parquet")}
    assert f"batch_id={left}" in kept
    assert f"batch_id={first}" not in kept
    assert line.rows(line.score()["batch_id"]) == ["e.png"]
    assert line.score()["n_images"] == 0


def test_landing_works_in_an_object_store(line: Line) -> None:
    fsspec.filesystem("memory").put(str(line.workspace), "/landed/workspace", recursive=True)
    line.workspace = open_place("memory://landed/workspace")
    try:
        line.freeze()
        put(line.folder / "e.png", 5)
        assert list(map(line.rows, line.score()["batches"])) == [["a.png", "b/c.png", "d.png"], ["e.png"]]
        assert line.score()["n_images"] == 0
    finally:
        fsspec.filesystem("memory").rm("/landed", recursive=True)


def test_exactly_the_new_files_are_scored_whatever_happens_to_them(
    line: Line, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files land, change, are touched and go, with chunks of a few rows: each round scores exactly what is new."""
    monkeypatch.setattr("nelbo.data.sources.manifest.CHUNK_ROWS", 5)
    monkeypatch.setattr("nelbo.flows.steps.land.ROWS", 3)
    taken: dict[str, bytes] = {}
    # Each round has its own times: a change of contents with the same time and size would not be seen.
    for when in range(OLD, OLD + 60, 10):
        for path in line.folder.rglob("*.png"):
            os.utime(path, (when, when))
        for n in random.choice(40, 12, replace=False):
            put(line.folder / f"{n % 3}" / f"{n}.png", int(random.integers(256)), when + 1)
        present = [path for path in sorted(line.folder.rglob("*.png")) if random.random() > 0.2 or path.unlink()]
        touched = {path for path in present if random.random() < 0.3}
        for path in touched:
            path.touch()
        contents = {str(path.relative_to(line.folder)): path.read_bytes() for path in present}
        waiting = {str(path.relative_to(line.folder)) for path in touched}
        new = {name for name in contents if name not in waiting and taken.get(name) != contents[name]}
        result = line.score(min_age_s=3600)
        assert (result["n_images"], result["n_waiting"]) == (len(new), len(waiting))
        if new:
            assert line.rows(result["batch_id"]) == sorted(new)
            held = {name: taken[name] for name in waiting if name in taken}
            taken = {name: contents[name] for name in contents if name not in waiting} | held
            assert line.taken == sorted(taken)


def drive(scratch: Path, *what: object) -> Any:
    """What ``killed.py`` finds, in a process that loads no network and can fork."""
    stub_workspace(scratch / "stub")
    command = [sys.executable, killed.__file__, str(scratch / "stub"), "-", str(scratch), *map(str, what)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_files_are_in_one_batch_after_kills_and_with_two_jobs_at_once(
    tmp_path: Path, random: np.random.Generator
) -> None:
    """A run is killed at one random point in each sixth of its events."""
    events = drive(tmp_path / "counted", "count_landing")
    points = 1 + ((np.arange(6) + random.random(6)) * events / 6).astype(int)
    # 0 means no kill, but two runs at once.
    *found, one, other = drive(tmp_path / "killed", "land", *points, 0, 0)
    # A run has about as many events as were counted, so the last kill may come too late.
    assert [one["codes"] for one in found[:-1]] == [[-signal.SIGKILL]] * 5
    # Kills came before and after the batch was published.
    assert {len(one["seen"]) for one in found} == {1, 2}
    # If the files were not taken yet, they share a batch with later ones.
    assert {len(one["batches"]) for one in found} == {2, 3}
    for both in (one, other):
        assert (both["codes"], len(both["batches"])) == ([0, 0], 3)
    for each in (*found, one, other):
        assert each["again"] == [0, 0]
        rows = [row for batch in each["batches"].values() for row in batch]
        assert sorted(rows) == sorted(each["expected"])
        # Published batches stay unchanged.
        assert all(each["batches"][name] == batch for name, batch in each["seen"].items())


@pytest.mark.slow
def test_the_real_command_resumes_after_a_kill(trained: Trained, images: Path, tmp_path: Path) -> None:
    """It is killed once the ledger exists, and once the scores are published."""
    workspace = Path(shutil.copytree(trained[0], tmp_path / "workspace"))
    line = Line(workspace, tmp_path / "in")
    line.folder.mkdir()
    nelbo = [Path(sys.executable).with_name("nelbo"), "score", line.folder, "--new", "--workspace", workspace]
    nelbo += ["--set", "shard_size=2", "--no-prefect"]
    landing = sorted((images / "new" / "a").iterdir())
    for n, pattern in enumerate(("landing/*.parquet", "scores/*/*/scores.parquet")):
        for path in landing[4 * n : 4 * n + 4]:
            age(Path(shutil.copy(path, line.folder)))
        job = subprocess.Popen(nelbo, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not list(workspace.glob(pattern)) and job.poll() is None:
            time.sleep(0.001)
        job.kill()
        assert job.wait() == -signal.SIGKILL
    line.score()
    assert len(line.scored()) == 8
    assert set(line.scored().values()) == {1}
    assert line.score()["skipped"] == f"nothing new in {line.folder}"


def test_the_command_scores_each_landed_file_one_time(
    trained: Trained, images: Path, tmp_path: Path, nelbo: Callable[..., Any]
) -> None:
    """With the real model: first with files that are no images, then with anomalies."""
    workspace = Path(shutil.copytree(trained[0], tmp_path / "workspace"))
    folder = tmp_path / "in"
    folder.mkdir()
    arguments = ("score", folder, "--new", "--workspace", workspace, "--no-prefect", "--json", "--fail-on-anomaly")
    code, out, _ = nelbo(*arguments)
    assert (code, json.loads(out)["skipped"]) == (0, f"nothing new in {folder}")
    for name in ("cut.jpg", "notes.txt"):
        shutil.copy(images / "new" / name, folder)
        age(folder / name)
    code, out, _ = nelbo(*arguments)
    first = json.loads(out)
    assert (code, first["n_images"], first["n_scored"], first["n_not_scored"]) == (0, 2, 0, 2)
    assert "cut.jpg" in Path(first["report"]).read_text()
    shutil.copytree(images / "new" / "b", folder / "b")
    code, out, _ = nelbo(*arguments, "--min-age", 3600)
    assert (code, json.loads(out)["n_waiting"]) == (0, 6)
    code, out, _ = nelbo(*arguments, "--min-age", 0)
    assert (code, json.loads(out)["n_images"]) == (3, 6)
    code, _, err = nelbo("score", folder, "--min-age", 5, "--workspace", workspace)
    assert code == 2
    assert "--min-age goes with --new." in err
