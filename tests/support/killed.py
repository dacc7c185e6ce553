"""Scores a batch in forks of this process and kills them; the tests of exactly-once and of landing run it.

Everything but the network is real: files are listed, hashed, decided on and published; scores come from the hash of
the contents. A fork is killed with SIGKILL the n-th time that it opens, moves or removes a file of the workspace.
"""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import nelbo.flows.cli.main
import nelbo.flows.inference.publishing
import nelbo.flows.steps.report
import nelbo.flows.steps.score
import nelbo.flows.watching.scoring
from nelbo.data import (
    MAP_PEAK,
    MEASURES,
    PICTURED_SCHEMA,
    QUALITY,
    InputError,
    Preprocessing,
    read_metadata,
    read_table,
)
from nelbo.data.sources.reading import read_checked
from nelbo.data.sources.roots import open_root
from nelbo.flows.inference.pipeline import SCORED_SCHEMA
from nelbo.flows.options.options import ScoreOptions, WatchOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.steps.report import Reported
from nelbo.flows.watching import watch as watching
from nelbo.flows.watching.folder import WatchedFolder
from nelbo.flows.workspace.flagged import BESIDE
from nelbo.flows.workspace.layout import Workspace

SHARD = 5
_EVENTS = {"open", "os.link", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.mkdir"}


def stub_scores(_model: Any, files: Iterable[Any], _decoding: Any, *_: Any) -> Generator[pa.Table, None, None]:
    """Scores made from each file's hash, some of them far above any threshold; logs a line for each file."""
    files = list(files)
    checked = [read_checked(open_root(file.root), file.path, file.image_id, 1 << 30)[0] for file in files]
    reasons = [facts.get("reason") for facts in checked]
    values = np.array([int(file.image_id[:8], 16) / 2**32 for file in files])
    values[[reason is not None for reason in reasons]] = np.nan
    numbers = pa.array(np.where(values > 0.8, 1000 * values, values - 10), from_pandas=True)
    with Path(os.environ["SCORED"]).open("a") as log:
        log.writelines(f"{file.path}\n" for file in files)
    nulls = pa.nulls(len(files))
    columns = dict.fromkeys((*MEASURES, *QUALITY), numbers) | dict.fromkeys(
        ("size_z", "variant_z", "part", "variant", "why"), nulls
    )
    columns |= {"reason": pa.array(reasons, pa.string()), "drops_colour": pa.array([False] * len(files))}
    columns |= dict.fromkeys(PICTURED_SCHEMA.names, nulls)
    region = {"x_px": 0, "y_px": 1, "width_px": 2, "height_px": 1, "area_px": 2, "peak": 9.0, "mask": "012"}
    columns |= {MAP_PEAK: numbers, "regions": [[region, region] if value > 0.8 else None for value in values]}
    columns |= {"thumbnail": pa.array([b"JPEG"] * len(files), pa.binary())}
    yield pa.table(columns).select(SCORED_SCHEMA.names).cast(SCORED_SCHEMA)


def stubs() -> list[tuple[Any, str, Any]]:
    """What stands in for the network: module, name, value."""
    config = SimpleNamespace(statistic="peak", likelihood="stub")
    preprocessing = Preprocessing(16, 16).to_dict()
    model = SimpleNamespace(config=config, map_scales=np.ones((1, 2)), fit_id=None, preprocessing=preprocessing)

    def write_report(options: Any, batch_id: str, _model_id: str) -> Reported:
        page = Workspace.at(options.workspace).report(batch_id)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("page")
        return Reported(str(page), None)

    return [
        (nelbo.flows.steps.score, "load_model", lambda *_: model),
        (nelbo.flows.steps.score, "choose_engine", lambda *_: "keras"),
        (nelbo.flows.inference.publishing, "load_model", lambda *_: model),
        (nelbo.flows.steps.score, "score_files", stub_scores),
        (nelbo.flows.steps.score, "write_report", write_report),
        (nelbo.flows.steps.report, "write_report", write_report),
        (nelbo.flows.watching.scoring, "load_model", lambda *_: model),
        (nelbo.flows.watching.scoring, "choose_engine", lambda *_: "keras"),
        (nelbo.flows.watching.scoring, "score_files", stub_scores),
    ]


def score(workspace: Path, images: Path, new: bool = False) -> None:
    options = ScoreOptions(images=str(images), workspace=str(workspace), shard_size=SHARD, workers=1, new=new)
    execute("score", options, prefect=False)


def watch_until_done(workspace: Path, folder: Path, **settings: Any) -> list[dict[str, Any]]:
    """What a watcher reports; it is asked to end once the folder is listed and no file waits.

    Without a signal, which would be the whole process's: a worker of pytest may be it.
    """
    options = {"settle_ms": 0, "batch_images": SHARD, "workers": 1} | settings
    complete, end = WatchedFolder.complete, threading.Event()

    def last(folder: WatchedFolder, n: int) -> Any:
        found = complete(folder, n)
        if not found and folder.is_listed and not folder.waits:
            end.set()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WatchedFolder, "complete", last)
        patch.setattr(watching, "asked_to_end", lambda: nullcontext(end))
        return [*watching.watch(WatchOptions(images=str(folder), workspace=str(workspace), **options))]


def in_fork(work: Callable[[], None]) -> int:
    """Do the work in a fork; its exit code, or minus the signal that ended it."""
    return ended(fork(work))


def ended(child: int) -> int:
    """The exit code of a process, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork(work: Callable[[], None]) -> int:
    """The id of a new process that does this work and nothing else."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        except OSError as error:
            sys.stderr.write(json.dumps({"error": str(error), "type": type(error).__name__}) + "\n")
        finally:
            os._exit(code)
    return child


def die_at(n: int, workspace: Path) -> Callable[[], int]:
    """Kill this process at the n-th event in the workspace; returns a function that counts the events."""
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in _EVENTS and arguments and str(arguments[0]).startswith(str(workspace)):
            seen += 1
            if seen == n:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    return lambda: seen


def score_until(n: int, workspace: Path, images: Path, new: bool = False) -> int:
    """The exit code of a run that is killed at its n-th event in the workspace."""

    def work() -> None:
        die_at(n, workspace)
        score(workspace, images, new)

    return in_fork(work)


def count_events(workspace: Path, images: Path, new: bool = False) -> int:
    reader, writer = os.pipe()

    def work() -> None:
        count = die_at(-1, workspace)
        score(workspace, images, new)
        os.write(writer, str(count()).encode())

    assert in_fork(work) == 0
    os.close(writer)
    with os.fdopen(reader) as answer:
        return int(answer.read())


def rows(workspace: Path, kind: str = "scores") -> list[dict[str, Any]]:
    (path,) = workspace.glob(f"{kind}/*/*/{kind}.parquet")
    table = read_table(path)
    table = table.drop_columns([name for name in ("run_id", "scored_at_utc") if name in table.column_names])
    # Values as JSON holds them.
    return [
        {**row, **({"thumbnail": len(row["thumbnail"])} if "thumbnail" in row else {})} for row in table.to_pylist()
    ]


def n_finished(workspace: Path) -> int:
    """The number of files in complete shards in the staging folder."""
    found = 0
    for path in workspace.glob("_staging/shards.*/*.parquet"):
        try:
            found += read_table(path).num_rows
        except InputError:
            continue
    return found


def n_scored() -> int:
    log = Path(os.environ["SCORED"])
    n = len(log.read_text().splitlines()) if log.exists() else 0
    log.unlink(missing_ok=True)
    return n


def killed(workspace: Path, images: Path, n: int, before: bool) -> dict[str, Any]:
    """A run killed at its n-th event, then the same run again."""
    if before:
        assert in_fork(lambda: score(workspace, images)) == 0
    old = rows(workspace) if before else None

    code = score_until(n, workspace, images)
    published = list(workspace.glob("scores/*/*/scores.parquet"))
    seen = rows(workspace) if published else None
    n_scored()
    finished = n_finished(workspace)
    again = in_fork(lambda: score(workspace, images))
    return {
        "code": code,
        "seen": seen,
        "old": old,
        "finished": finished,
        "again": again,
        "scored_again": n_scored(),
        "rows": rows(workspace),
        **{kind: rows(workspace, kind) for kind in BESIDE},
        "left": sorted(path.name for path in (workspace / "_staging").rglob("*") if path.is_file()),
    }


def from_the_commit_on(workspace: Path, images: Path, n: int, before: bool) -> dict[str, Any]:
    """A run killed at its n-th event, a command that only lists, another batch, and the same run again."""
    if before:
        assert in_fork(lambda: score(workspace, images)) == 0

    code = score_until(n, workspace, images)
    committed = [read_metadata(path)["nelbo.run_id"] for path in workspace.glob("scores/*/*/scores.parquet")]
    found = {"code": code, "committed": committed, "recorded": run_ids(workspace)}
    shown = matching(workspace)
    assert in_fork(lambda: list_batches(workspace)) == 0
    found |= {"mended": run_ids(workspace), "shown": shown, "flagged": pictured_runs(workspace)}
    other = images.with_name("other")
    assert in_fork(lambda: score(workspace, other)) == 0
    found["pages"] = len(list(workspace.glob("reports/*.html")))
    found["again"] = in_fork(lambda: score(workspace, images))
    found["left"] = sorted(path.name for path in (workspace / "_staging").iterdir())
    return found | {"in_the_end": run_ids(workspace)}


def list_batches(workspace: Path) -> None:
    sys.argv = ["nelbo", "batches", "--workspace", str(workspace), "--json"]
    sys.stdout = sys.stderr
    with pytest.raises(SystemExit, match=r"^0$"):
        nelbo.flows.cli.main.main()


def run_ids(workspace: Path) -> list[str]:
    """The run ids in the rows of scoring runs, with repeats."""
    tables = [read_table(path, ["run_id", "command"]) for path in sorted(workspace.glob("runs/*.parquet"))]
    return [row["run_id"] for table in tables for row in table.to_pylist() if row["command"] == "score"]


def pictured_runs(workspace: Path) -> list[str]:
    """Run ids in the rows of the files that are written beside the scores."""
    paths = [path for kind in BESIDE for path in workspace.glob(f"{kind}/*/*/{kind}.parquet")]
    return sorted({run_id for path in paths for run_id in read_table(path)["run_id"].to_pylist()})


def matching(workspace: Path) -> list[int]:
    """The number of flagged rows of the published run, by its scores, its flagged file and its regions file."""
    paths = list(workspace.glob("scores/*/*/scores.parquet"))
    if not paths:
        return [0, 0, 0]
    scores = read_table(paths[0], ["verdict", "run_id"]).to_pylist()
    counts = [sum(row["verdict"] == "anomalous" for row in scores)]
    for kind in ("flagged", "regions"):
        (path,) = workspace.glob(f"{kind}/*/*/{kind}.parquet")
        rows = read_table(path, ["relative_path", "run_id"]).to_pylist()
        counts.append(len({row["relative_path"] for row in rows if row["run_id"] == scores[0]["run_id"]}))
    return counts


def race(workspace: Path, images: Path) -> dict[str, Any]:
    """Two runs at once."""
    codes = two_at_once(lambda: score(workspace, images))
    return {"codes": codes, "rows": rows(workspace), **{kind: rows(workspace, kind) for kind in BESIDE}}


def two_at_once(work: Callable[[], None]) -> list[int]:
    """Do the work in two forks at the same time; their exit codes."""
    children = [fork(work) for _ in range(2)]
    return [ended(child) for child in children]


def landed(folder: Path, what: str) -> None:
    """Write files into a folder, and change one there, with dates old enough for them to be taken."""
    for i in range(7):
        path = folder / f"{what}{i}.png"
        Image.new("L", (8, 8), 30 * i).save(path)
        path.write_bytes(path.read_bytes() + what.encode())
        os.utime(path, (1_700_000_000, 1_700_000_000))
    if what == "then":
        changed = folder / "early0.png"
        changed.write_bytes(changed.read_bytes() + b"changed")
        os.utime(changed, (1_700_000_000, 1_700_000_000))


def batches(workspace: Path) -> dict[str, list[list[str]]]:
    """Path and contents of the files of each published batch."""
    found = {}
    for path in workspace.glob("scores/*/*/scores.parquet"):
        table = read_table(path, ["relative_path", "image_id"])
        found[path.parent.name] = [list(row.values()) for row in table.to_pylist()]
    return found


def landing(workspace: Path, folder: Path, n: int | None) -> dict[str, Any]:
    """A folder scored by one run, by one that is killed at its n-th event (None: two at once), then by two more."""
    folder.mkdir()
    landed(folder, "early")
    assert in_fork(lambda: score(workspace, folder, True)) == 0
    expected = contents(folder)
    landed(folder, "then")
    if n is None:
        codes = two_at_once(lambda: score(workspace, folder, True))
    else:
        codes = [score_until(n, workspace, folder, True)]
    seen = batches(workspace)
    landed(folder, "later")
    expected += [row for row in contents(folder) if row not in expected]
    again = [in_fork(lambda: score(workspace, folder, True)) for _ in range(2)]
    return {"codes": codes, "seen": seen, "again": again, "expected": expected, "batches": batches(workspace)}


def watched(workspace: Path, folder: Path, n: int | None) -> dict[str, Any]:
    """A folder whose watcher is killed at its n-th event (None: never), and that is then watched twice more.

    Files are taken one at a time, so that a kill can lose the work on one.
    """
    folder.mkdir()
    for what in ("early", "then", "later"):
        landed(folder, what)
    (folder / "notes.txt").write_text("no image")
    nelbo.flows.watching.watch.AT_ONCE = 1
    reader, writer = os.pipe()

    def work() -> None:
        count = die_at(-1 if n is None else n, workspace)
        watch_until_done(workspace, folder)
        os.write(writer, str(count()).encode())

    codes = [in_fork(work)]
    os.close(writer)
    with os.fdopen(reader) as answer:
        events = int(answer.read() or 0)
    seen = batches(workspace)
    codes += [in_fork(lambda: watch_until_done(workspace, folder)) for _ in range(2)]
    return {
        "codes": codes,
        "events": events,
        "seen": seen,
        "n_scored": n_scored(),
        "expected": contents(folder),
        "batches": batches(workspace),
        "kept": [path.name for path in workspace.glob("_staging/watch.*")],
    }


def contents(folder: Path) -> list[list[str]]:
    return [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in sorted(folder.iterdir())]


def count_landing(workspace: Path, folder: Path) -> int:
    folder.mkdir()
    landed(folder, "early")
    assert in_fork(lambda: score(workspace, folder, True)) == 0
    landed(folder, "then")
    return count_events(workspace, folder, True)


def full_disk(workspace: Path, images: Path, limit: int) -> dict[str, Any]:
    """A run whose files may not be longer than `limit` bytes, then one on a disk with room."""
    assert in_fork(lambda: score(workspace, images)) == 0
    old = rows(workspace)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        score(workspace, images)

    code = in_fork(work)
    left = rows(workspace)
    again = in_fork(lambda: score(workspace, images))
    return {"code": code, "old": old, "left": left, "again": again, "rows": rows(workspace)}


def drive(model: Path, images: Path, scratch: Path, *what: object) -> tuple[Any, str]:
    """What this program finds, in a process that loads no network and can fork, and the errors of its forks."""
    command = [sys.executable, __file__, str(model), str(images), str(scratch), *map(str, what)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def main() -> None:
    model, images, scratch = (Path(argument) for argument in sys.argv[1:4])
    for module, name, value in stubs():
        setattr(module, name, value)
    os.environ["SCORED"] = str(scratch / "scored.txt")

    def fresh(name: str) -> Path:
        return Path(shutil.copytree(model, scratch / name))

    # As tests/conftest.py does it: forks are killed, but no power is cut.
    os.fsync = os.fstat  # type: ignore[assignment]
    what, numbers = sys.argv[4], [int(word) for word in sys.argv[5:]]
    if what == "count":
        found: Any = {"events": count_events(fresh("count"), images), "rows": rows(scratch / "count")}
        found |= {kind: rows(scratch / "count", kind) for kind in BESIDE}
    elif what == "kill":
        found = [killed(fresh(f"kill{i}"), images, n, i % 2 == 1) for i, n in enumerate(numbers)]
    elif what == "commit":
        found = [from_the_commit_on(fresh(f"commit{i}"), images, n, i % 2 == 1) for i, n in enumerate(numbers)]
    elif what == "count_landing":
        found = count_landing(fresh("count"), scratch / "counted")
    elif what == "land":
        # 0 means no kill, but two runs at once.
        found = [landing(fresh(f"land{i}"), scratch / f"in{i}", n or None) for i, n in enumerate(numbers)]
    elif what == "watch":
        # 0 means no kill.
        found = [watched(fresh(f"watch{i}"), scratch / f"watched{i}", n or None) for i, n in enumerate(numbers)]
    elif what == "race":
        found = [race(fresh(f"race{i}"), images) for i in numbers]
    else:
        found = [full_disk(fresh(f"full{limit}"), images, limit) for limit in numbers]
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
