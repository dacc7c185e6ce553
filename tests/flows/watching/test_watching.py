"""A watched folder: each file that lands gives one row, whatever happens to the watcher."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from killed import stubs, watch_until_done
from PIL import Image
from scored import MODEL, OTHER, add_calibration, stub_workspace
from servers import wait_for

from nelbo.data import InputError, read_metadata, read_table
from nelbo.flows.options.options import ScoreOptions, WatchOptions
from nelbo.flows.runner import Direct
from nelbo.flows.steps import score as score_step
from nelbo.flows.steps.report import Reported
from nelbo.flows.steps.score import score_batch
from nelbo.flows.watching import batches as batches_module
from nelbo.flows.watching import open_batch, scoring
from nelbo.flows.watching.batches import Batches
from nelbo.flows.watching.open_batch import OpenBatch
from nelbo.flows.watching.watch import watch
from nelbo.flows.workspace import catalog, pointers
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.flagged import PICTURED
from nelbo.flows.workspace.layout import Workspace

Row = dict[str, Any]
Live = Callable[..., Iterator[Row]]


def picture(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (16, 16), value).save(path)
    return path


def moved(path: Path, value: int) -> Path:
    """Write a picture, and rename it into place."""
    return picture(path.with_name(f".{path.name}"), value).rename(path)


class Watched:
    """A folder, a workspace with a stub of a model, and watchers that score the folder into the workspace."""

    def __init__(self, root: Path) -> None:
        self.folder, self.workspace = root / "in", root / "workspace"
        self.folder.mkdir()
        stub_workspace(self.workspace)

    def options(self, **settings: Any) -> WatchOptions:
        settings = {"settle_ms": 0, "workers": 1} | settings
        return WatchOptions(images=str(self.folder), workspace=str(self.workspace), **settings)

    def until_done(self, **settings: Any) -> tuple[list[Row], Row]:
        """The rows of a watcher that ends when nothing waits, and its last message."""
        first, *rows, last = watch_until_done(self.workspace, self.folder, **settings)
        assert first["watching"] == str(self.folder)
        return rows, last

    def score_new(self) -> Row:
        options = ScoreOptions(images=str(self.folder), workspace=str(self.workspace), new=True, workers=1, min_age_s=0)
        return score_batch(options, Direct())

    def published(self) -> list[tuple[str, str]]:
        """Path and contents of each row of each batch, in order."""
        found = []
        for path in self.workspace.glob("scores/*/*/scores.parquet"):
            found += zip(*read_table(path, ["relative_path", "image_id"]).to_pydict().values(), strict=True)
        return sorted(found)

    @property
    def names(self) -> list[str]:
        return [path for path, _ in self.published()]

    @property
    def kept(self) -> list[Path]:
        return sorted(self.workspace.glob("_staging/watch.*"))


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    for stub in stubs():
        monkeypatch.setattr(*stub)
    monkeypatch.setenv("SCORED", str(tmp_path / "scored.txt"))
    return Watched(tmp_path)


@pytest.fixture
def live(watched: Watched) -> Callable[..., Iterator[Row]]:
    """A function that starts a watcher; it runs until it is told to end, and `next` waits for a row."""
    return lambda **settings: watch(watched.options(**settings))


def ended(rows: Iterator[Row]) -> list[Row]:
    """The rows that a watcher still gives after Ctrl-C."""
    signal.raise_signal(signal.SIGINT)
    return [*rows]


def killed_after(n: int, rows: Iterator[Row]) -> list[Row]:
    """The first rows of a watcher, which is closed after them: like a kill, this publishes none."""
    found = [next(rows) for _ in range(n)]
    assert len(found) == n
    rows.close()  # type: ignore[attr-defined]
    return found


def promoted(watched: Watched) -> Workspace:
    """The workspace, in which another model without a calibration is now the current one."""
    workspace = Workspace(watched.workspace)
    shutil.copytree(workspace.models / MODEL, workspace.models / OTHER)
    pointers.promote(workspace, OTHER)
    return workspace


def n_scored(watched: Watched) -> int:
    """The number of files that the model has scored, without the one for warming up."""
    lines = (watched.folder.parent / "scored.txt").read_text().splitlines()
    return len(lines) - lines.count("grey.png")


def test_existing_files_are_scored_at_once_and_published_at_the_end(watched: Watched) -> None:
    for i, name in enumerate(("a.png", "b/c.png", "d.png")):
        picture(watched.folder / name, i)
    (watched.folder / "notes.txt").write_text("no image")
    (watched.folder / ".hidden.png").write_text("hidden")
    rows, last = watched.until_done()
    assert sorted(row["relative_path"] for row in rows) == ["a.png", "b/c.png", "d.png", "notes.txt"]
    (lost,) = [row for row in rows if row["verdict"] == "not_scored"]
    assert (lost["relative_path"], lost["reason"], lost["p_value"], lost["anomaly_score"]) == (
        *("notes.txt", "not_an_image"),
        *(None, None),
    )
    scored = [row for row in rows if row is not lost]
    assert all(0 < row["p_value"] <= 1 and row["latency_ms"] >= 0 for row in scored)
    assert (last["n_images"], last["n_not_scored"], len(last["batches"])) == (4, 1, 1)
    assert watched.names == ["a.png", "b/c.png", "d.png", "notes.txt"]
    assert {row["batch_id"] for row in rows} == set(last["batches"])
    # The rows that were printed at once equal those that were published later.
    (path,) = watched.workspace.glob("scores/*/*/scores.parquet")
    table = read_table(path, ["relative_path", "verdict", "anomaly_score", "p_value"]).to_pylist()
    said = [{name: row[name] for name in table[0]} for row in rows]
    assert sorted(said, key=str) == sorted(table, key=str)
    assert watched.kept == []


def test_a_second_watch_and_score_find_nothing_new(watched: Watched) -> None:
    picture(watched.folder / "a.png", 1)
    watched.until_done()
    rows, last = watched.until_done()
    assert (rows, last["batches"], last["n_images"]) == ([], [], 0)
    assert watched.score_new()["skipped"] == f"nothing new in {watched.folder}"
    picture(watched.folder / "b.png", 2)
    assert watched.score_new()["n_images"] == 1
    picture(watched.folder / "c.png", 3)
    assert [row["relative_path"] for row in watched.until_done()[0]] == ["c.png"]
    assert watched.names == ["a.png", "b.png", "c.png"]


def test_an_image_is_computed_one_time(watched: Watched) -> None:
    for i in range(7):
        picture(watched.folder / f"{i}.png", i)
    _, last = watched.until_done(batch_images=3)
    assert last["n_images"] == n_scored(watched) == 7


def test_pictures_of_flagged_and_some_other_images_are_published(watched: Watched) -> None:
    for i in range(30):
        picture(watched.folder / f"{i}.png", i)
    _, last = watched.until_done(batch_images=100)
    assert 0 < last["n_anomalous"] < 30
    found = {kind: len(read_table(next(watched.workspace.glob(f"{kind}/*/*/*.parquet")))) for kind in PICTURED}
    assert found == {"flagged": last["n_anomalous"], "audit": 10, "near": 12}


def test_files_that_land_one_by_one_are_scored(watched: Watched, live: Live) -> None:
    (watched.folder / "b").mkdir()
    rows = live(settle_ms=3_600_000)
    assert next(rows)["watching"] == str(watched.folder)
    for i, name in enumerate(("a.png", "b/c.png", "a.png")):
        moved(watched.folder / name, i)
        row = next(rows)
        assert row["relative_path"] == name
        # A file that was renamed into place does not wait for min_age, an hour.
        assert row["latency_ms"] < 60_000
    # The same name with other contents belongs to the next batch.
    (last,) = ended(rows)
    assert (last["n_images"], len(last["batches"])) == (3, 2)
    assert watched.names == ["a.png", "a.png", "b/c.png"]


def test_a_folder_that_is_renamed_into_place(watched: Watched, live: Live) -> None:
    rows = live(settle_ms=3_600_000)
    next(rows)
    for i in range(3):
        picture(watched.folder / ".night" / "part" / f"{i}.png", i)
    (watched.folder / ".night").rename(watched.folder / "night")
    assert sorted(next(rows)["relative_path"] for _ in range(3)) == [f"night/part/{i}.png" for i in range(3)]
    ended(rows)


def test_a_touched_file_is_not_new(watched: Watched, live: Live) -> None:
    path = picture(watched.folder / "a.png", 1)
    rows = live()
    assert [next(rows) for _ in range(2)][1]["relative_path"] == "a.png"
    path.touch()
    moved(watched.folder / "a.png", 1)
    moved(watched.folder / "b.png", 2)
    assert next(rows)["relative_path"] == "b.png"
    (last,) = ended(rows)
    assert last["n_images"] == 2


def test_a_growing_file_is_scored_when_it_is_complete(watched: Watched, live: Live) -> None:
    content = picture(watched.folder.parent / "whole.png", 7).read_bytes()
    path = watched.folder / "a.png"
    with path.open("wb") as file:
        file.write(content[:20])
        file.flush()
        rows = live(settle_ms=50)
        next(rows)
        # The watcher sees the first half before the second is written.
        file.write(content[20:])
    row = next(rows)
    assert (row["relative_path"], row["reason"]) == ("a.png", None)
    assert ended(rows)[-1]["n_images"] == 1


def test_without_notices_the_watcher_lists_the_folder(
    watched: Watched, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network drive, or if the system has no inotify instance left."""

    def none() -> None:
        raise OSError("no inotify instance is left")

    monkeypatch.setattr("nelbo.data.sources.notices.INotify", none)
    rows = live(list_s=0.01)
    next(rows)
    for i in range(3):
        picture(watched.folder / "deep" / f"{i}.png", i)
        assert next(rows)["relative_path"] == f"deep/{i}.png"
    ended(rows)
    assert len(watched.names) == 3


def test_a_folder_has_one_watcher_at_a_time(watched: Watched, live: Live) -> None:
    rows = live()
    next(rows)
    with pytest.raises(UsageError, match="is scored by another process as images land in it"):
        next(watch(watched.options()))
    with pytest.raises(UsageError, match="nelbo watch, or nelbo score --new"):
        watched.score_new()
    ended(rows)
    assert watched.score_new()["n_images"] == 0


def test_the_next_batch_is_scored_by_a_newly_promoted_model(
    watched: Watched, live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    rows = live(batch_images=2)
    assert next(rows)["model_id"] == MODEL
    moved(watched.folder / "0.png", 0)
    next(rows)
    other = promoted(watched)
    add_calibration(other, model_id=OTHER)
    for i in (1, 2):
        moved(watched.folder / f"{i}.png", i)
        next(rows)
    (last,) = ended(rows)
    assert f"from batch {last['batches'][1]} on, model {OTHER} scores" in caplog.text
    found = catalog.batches(other).to_pylist()
    assert {row["batch_id"]: (row["model_id"], row["n_images"]) for row in found} == {
        last["batches"][0]: (MODEL, 2),
        last["batches"][1]: (OTHER, 1),
    }


def test_a_promoted_model_that_cannot_be_used_ends_no_watcher(
    watched: Watched, live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    rows = live(batch_images=1)
    next(rows)
    other = promoted(watched)
    for i in range(2):
        moved(watched.folder / f"{i}.png", i)
        next(rows)
    assert caplog.text.count(f"Model {MODEL} goes on with calibration") == 1
    add_calibration(other, model_id=OTHER)
    moved(watched.folder / "2.png", 2)
    next(rows)
    (last,) = ended(rows)
    found = {row["batch_id"]: row["model_id"] for row in catalog.batches(other).to_pylist()}
    assert [found[batch_id] for batch_id in last["batches"]] == [MODEL, MODEL, OTHER]


@pytest.mark.parametrize("where", ["missing", "file.png", "s3://bucket/in", "a*"])
def test_a_source_that_cannot_be_watched_is_refused(watched: Watched, where: str) -> None:
    if where == "file.png":
        picture(watched.folder.parent / where, 1)
    images = where if "://" in where else str(watched.folder.parent / where)
    options = WatchOptions(images=images, workspace=str(watched.workspace))
    with pytest.raises(UsageError, match="is not a folder on this machine"):
        next(watch(options))


def test_a_batch_ends_by_number_or_by_time() -> None:
    batch = OpenBatch(Path("kept"), ScoreOptions(images="in"), "m0", None, opened_s=1000.0)
    # Without a file there is nothing to publish, however long it takes.
    assert not batch.is_over(images=3, minutes=1, now_s=9999)
    batch.paths |= {"a.png", "b.png"}
    assert not batch.is_over(images=3, minutes=1, now_s=1059.9)
    assert batch.is_over(images=3, minutes=1, now_s=1060)
    batch.paths.add("c.png")
    assert batch.is_over(images=3, minutes=1, now_s=1000)


def test_a_batch_is_published_while_the_next_one_fills(watched: Watched, live: Live) -> None:
    rows = live(batch_images=2)
    next(rows)
    found = []
    for i in range(5):
        moved(watched.folder / f"{i}.png", i)
        found.append(next(rows)["batch_id"])
    (last,) = ended(rows)
    assert [found.count(batch_id) for batch_id in last["batches"]] == [2, 2, 1]
    assert read_metadata(next(watched.workspace.glob("landing/*.parquet")))["nelbo.unfinished"] == ""


def test_the_next_watcher_publishes_the_rows_of_a_killed_one(watched: Watched, live: Live) -> None:
    for i in range(3):
        picture(watched.folder / f"{i}.png", i)
    ids = {killed_after(4, live())[-1]["batch_id"]}
    assert (watched.names, len(watched.kept)) == ([], 1)
    (watched.folder / "0.png").unlink()
    picture(watched.folder / "3.png", 3)
    rows, last = watched.until_done()
    assert [row["relative_path"] for row in rows] == ["3.png"]
    # The next watcher continues the batch, with the row of the file that is gone.
    assert set(last["batches"]) == ids
    assert watched.names == ["0.png", "1.png", "2.png", "3.png"]
    assert n_scored(watched) == 4


def test_a_watcher_does_not_publish_again_what_score_has_published(watched: Watched, live: Live) -> None:
    for i in range(3):
        picture(watched.folder / f"{i}.png", i)
    killed_after(4, live())
    # The file is gone, so only the watcher has its row.
    (watched.folder / "0.png").unlink()
    assert watched.score_new()["n_images"] == 2
    assert watched.until_done()[1]["n_images"] == 1
    assert watched.names == ["0.png", "1.png", "2.png"]
    assert not watched.kept
    # If nothing is left, no batch is published.
    picture(watched.folder / "3.png", 3)
    killed_after(2, live())
    assert watched.score_new()["n_images"] == 1
    assert watched.until_done()[1]["batches"] == []
    assert not watched.kept


def test_no_batch_is_published_before_one_that_failed(
    watched: Watched, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the rows of the first batch would stand in the ledger but in no batch, and nobody would know."""
    is_waited_for = threading.Event()
    collect = Batches._collect

    def full(*_: object) -> None:
        assert is_waited_for.wait(30)
        raise OSError(28, "No space left on device")

    def collected(batches: Batches, publishing: Future[Row]) -> None:
        is_waited_for.set()
        collect(batches, publishing)

    rows, ids = live(), list[str]()
    next(rows)
    with monkeypatch.context() as patch:
        patch.setattr(open_batch, "publish", full)
        patch.setattr(Batches, "_collect", collected)
        # The same name again begins another batch.
        for value in range(2):
            moved(watched.folder / "a.png", value)
            ids.append(next(rows)["batch_id"])
        with pytest.raises(OSError, match="No space left"):
            ended(rows)
    assert read_metadata(next(watched.workspace.glob("landing/*.parquet")))["nelbo.unfinished"] == ids[0]
    watched.until_done()
    assert len(watched.names) == 2
    assert not watched.kept


def test_verdicts_go_on_while_nothing_can_be_published(
    watched: Watched, live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged table fails at each attempt, and at each restart."""
    publish, put_off, failures = open_batch.publish, Batches._put_off, list[str]()

    def damaged(*given: Any) -> Row:
        if len(failures) < 2:
            raise InputError("runs/month.parquet is not a readable Parquet file")
        return publish(*given)

    def noted(batches: Batches, error: Exception) -> None:
        put_off(batches, error)
        failures.append(str(error))
        if len(failures) == 2:
            moved(watched.folder / "2.png", 2)

    monkeypatch.setattr(batches_module, "_AGAIN_S", 0)
    monkeypatch.setattr(open_batch, "publish", damaged)
    monkeypatch.setattr(Batches, "_put_off", noted)
    rows = live(batch_images=1)
    next(rows)
    for i in range(2):
        moved(watched.folder / f"{i}.png", i)
        assert next(rows)["relative_path"] == f"{i}.png"
    assert next(rows)["relative_path"] == "2.png"
    (last,) = ended(rows)
    assert (len(failures), last["n_images"], len(last["batches"])) == (2, 3, 3)
    assert watched.names == ["0.png", "1.png", "2.png"]
    # It says so once, and not with each attempt.
    assert caplog.text.count("cannot be published (InputError: runs/month.parquet is not") == 1
    assert not watched.kept


def test_a_batch_without_its_page_is_published_once(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def damaged(*_: Any) -> Reported:
        raise InputError("reviews/month.parquet is not a readable Parquet file")

    picture(watched.folder / "a.png", 1)
    with monkeypatch.context() as patch:
        patch.setattr(score_step, "write_report", damaged)
        _, last = watched.until_done()
    assert (last["n_images"], last["report"]) == (1, None)
    assert "is published, and its page cannot be written: reviews/month.parquet" in caplog.text
    assert (watched.names, watched.kept) == (["a.png"], [])
    watched.until_done()
    assert [path.stem for path in watched.workspace.glob("reports/*.html")] == last["batches"]
    commands = [
        read_table(path, ["command"])["command"][0].as_py() for path in watched.workspace.glob("runs/*.parquet")
    ]
    assert commands.count("watch") == 1


def test_what_holds_for_each_batch_is_said_once(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blind = "This model cannot see simulated defects"
    monkeypatch.setattr(scoring, "seen", lambda *_: SimpleNamespace(cannot_see=blind))
    monkeypatch.setattr(score_step, "write_report", lambda *_: Reported("page", None, blind))
    for i in range(3):
        picture(watched.folder / f"{i}.png", i)
    assert len(watched.until_done(batch_images=1)[1]["batches"]) >= 1
    assert caplog.text.count(blind) == 1
    caplog.clear()
    picture(watched.folder / "3.png", 3)
    watched.score_new()
    assert caplog.text.count(blind) == 1


def test_a_file_that_score_took_after_the_watcher_died_stays_taken(watched: Watched, live: Live) -> None:
    """The rows of the dead watcher are older: they must not replace the newer ones in the ledger."""
    picture(watched.folder / "a.png", 1)
    killed_after(2, live())
    picture(watched.folder / "a.png", 2)
    assert watched.score_new()["n_images"] == 1
    assert watched.until_done()[1]["n_images"] == 1
    rows, last = watched.until_done()
    assert (rows, last["batches"]) == ([], [])
    assert watched.score_new()["n_images"] == 0
    assert len(set(watched.published())) == len(watched.names) == 2


def test_another_setting_begins_another_batch(watched: Watched, live: Live) -> None:
    picture(watched.folder / "a.png", 0)
    killed_after(2, live())
    picture(watched.folder / "b.png", 1)
    _, last = watched.until_done(min_side_px=2)
    assert len(last["batches"]) == 2
    assert n_scored(watched) == 2


@pytest.mark.parametrize("file", ["batch.json", "000000.parquet"])
def test_damaged_rows_are_dropped_and_their_files_scored_again(
    watched: Watched, live: Live, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    picture(watched.folder / "a.png", 0)
    killed_after(2, live())
    (watched.kept[0] / file).write_bytes(b"{garbage")
    rows, _ = watched.until_done()
    assert [row["relative_path"] for row in rows] == ["a.png"]
    assert "its files are scored again" in caplog.text
    assert watched.names == ["a.png"]


def drive(scratch: Path, *what: object) -> Any:
    """What ``killed.py`` finds, in a process that loads no network and can fork."""
    stub_workspace(scratch / "stub")
    script = str(Path(__file__).parents[2] / "support" / "killed.py")
    command = [sys.executable, script, str(scratch / "stub"), "-", str(scratch), *map(str, what)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_no_file_is_lost_or_published_twice_after_a_kill(tmp_path: Path, random: np.random.Generator) -> None:
    """A watcher is killed at one random point in each eighth of its events."""
    (whole,) = drive(tmp_path / "counted", "watch", 0)
    assert whole["codes"] == [0, 0, 0]
    points = 1 + ((np.arange(8) + random.random(8)) * whole["events"] / 8).astype(int)
    found = drive(tmp_path / "killed", "watch", *points)
    assert [one["codes"][0] for one in found[:-1]] == [-signal.SIGKILL] * 7
    assert len({len(one["seen"]) for one in found}) > 2
    for one in found:
        assert one["codes"][1:] == [0, 0]
        rows = [row for batch in one["batches"].values() for row in batch]
        assert sorted(rows) == sorted(one["expected"])
        assert all(one["batches"][name] == batch for name, batch in one["seen"].items())
        assert one["kept"] == []


class Process:
    """The real command, and the lines that it has printed."""

    def __init__(self, folder: Path, workspace: Path) -> None:
        nelbo = str(Path(sys.executable).with_name("nelbo"))
        command = [nelbo, "watch", str(folder), "--json", "--workspace", str(workspace), "--set", "settle_ms=300"]
        self.rows: list[Row] = []
        self._running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._running.stderr is not None
        self.first = self._running.stderr.readline()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        assert self._running.stdout is not None
        for line in self._running.stdout:
            self.rows.append(json.loads(line))

    def wait(self, n: int) -> None:
        wait_for(lambda: len(self.rows) >= n or self._running.poll() is not None, f"{n} rows", every=0.01)

    def end(self, number: int) -> tuple[int, str]:
        self._running.send_signal(number)
        _, err = self._running.communicate(timeout=120)
        self._reading.join()
        return self._running.returncode, err


@pytest.mark.slow
def test_the_command_resumes_after_a_kill_and_ends_on_a_signal(
    trained: tuple[Path, Any], images: Path, tmp_path: Path
) -> None:
    workspace, folder = Path(shutil.copytree(trained[0], tmp_path / "workspace")), tmp_path / "in"
    folder.mkdir()
    landing = sorted((images / "new" / "a").iterdir())[:9]
    shutil.copy(landing[0], folder)
    first = Process(folder, workspace)
    assert first.first.startswith(f"Watching {folder} with model ")
    for path in landing[1:5]:
        Path(shutil.copy(path, folder / f".{path.name}")).rename(folder / path.name)
    first.wait(5)
    assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL
    second = Process(folder, workspace)
    content = landing[5].read_bytes()
    with (folder / landing[5].name).open("wb") as file:
        for byte in range(0, len(content), 64):
            file.write(content[byte : byte + 64])
            file.flush()
            os.fsync(file.fileno())
    for path in landing[6:]:
        shutil.copy(path, folder)
    second.wait(4)
    code, err = second.end(signal.SIGTERM)
    assert code == 0, err
    said = [row["relative_path"] for row in (*first.rows, *second.rows)]
    assert sorted(said) == [path.name for path in landing]
    assert {row["reason"] for row in second.rows} == {None}
    assert f"9 files of {folder} scored and published in 1 batch" in err
    (path,) = workspace.glob("scores/*/batch_id=w*/scores.parquet")
    assert read_table(path)["relative_path"].to_pylist() == [path.name for path in landing]
