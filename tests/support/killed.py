"""Scores a batch over and over in forks of this process, and kills them; run by tests of exactly once and of landing.

Everything is real but the network: files are listed, hashed, decided on and published; scores are made of the
contents' hash. A fork is killed with SIGKILL at the n-th time that it opens, moves or removes a file of the workspace.
"""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable
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
from nelbo.data import MEASURES, QUALITY, InputError, read_metadata, read_table
from nelbo.data.sources.reading import read_checked
from nelbo.data.sources.roots import open_root
from nelbo.flows.inference.pipeline import SCORED_SCHEMA
from nelbo.flows.options.options import ScoreOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.steps.report import Reported
from nelbo.flows.workspace.flagged import PICTURED
from nelbo.flows.workspace.layout import Workspace

SHARD = 5
_EVENTS = {"open", "os.link", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.mkdir"}


def stub_scores(_model: Any, files: Iterable[Any], _decoding: Any, *_: Any) -> Generator[pa.Table, None, None]:
    """Numbers made of the hash, some of them far above any threshold; leaves a line for each file."""
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
    columns |= {"map": nulls, "map_low": nulls, "map_high": nulls}
    columns |= {"thumbnail": pa.array([b"JPEG"] * len(files), pa.binary())}
    yield pa.table(columns).select(SCORED_SCHEMA.names).cast(SCORED_SCHEMA)


def stubs() -> list[tuple[Any, str, Any]]:
    """What stands in for the network: module, name, value."""
    model = SimpleNamespace(config=SimpleNamespace(statistic="peak", likelihood="stub"))

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
    ]


def score(workspace: Path, images: Path, new: bool = False) -> None:
    options = ScoreOptions(images=str(images), workspace=str(workspace), shard_size=SHARD, workers=1, new=new)
    execute("score", options, prefect=False)


def in_fork(work: Callable[[], None]) -> int:
    """Its exit code, or minus the signal that ended it."""
    return ended(fork(work))


def ended(child: int) -> int:
    """The exit code of a process, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork(work: Callable[[], None]) -> int:
    """A process that does this and nothing else."""
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
    """Kill this process at the n-th event in the workspace; returns what counts the events."""
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
    table = read_table(path).drop_columns(["run_id", "scored_at_utc"])
    # As JSON holds them.
    return [
        {**row, **({"thumbnail": len(row["thumbnail"])} if "thumbnail" in row else {})} for row in table.to_pylist()
    ]


def n_finished(workspace: Path) -> int:
    """Files in shards that lie whole in the staging folder."""
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
        **{kind: rows(workspace, kind) for kind in PICTURED},
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
    """Of the rows of scoring runs, as often as they are there."""
    tables = [read_table(path, ["run_id", "command"]) for path in sorted(workspace.glob("runs/*.parquet"))]
    return [row["run_id"] for table in tables for row in table.to_pylist() if row["command"] == "score"]


def pictured_runs(workspace: Path) -> list[str]:
    """Runs of the rows of the files of flagged rows and audit samples."""
    paths = [path for kind in PICTURED for path in workspace.glob(f"{kind}/*/*/{kind}.parquet")]
    return sorted({run_id for path in paths for run_id in read_table(path)["run_id"].to_pylist()})


def matching(workspace: Path) -> list[int]:
    """How many flagged rows the published run has by its scores, and in the file of flagged rows."""
    paths = list(workspace.glob("scores/*/*/scores.parquet"))
    if not paths:
        return [0, 0]
    scores = read_table(paths[0], ["verdict", "run_id"]).to_pylist()
    (path,) = workspace.glob("flagged/*/*/flagged.parquet")
    flagged = [run_id for run_id in read_table(path)["run_id"].to_pylist() if run_id == scores[0]["run_id"]]
    return [sum(row["verdict"] == "anomalous" for row in scores), len(flagged)]


def race(workspace: Path, images: Path) -> dict[str, Any]:
    """Two runs at once."""
    codes = two_at_once(lambda: score(workspace, images))
    return {"codes": codes, "rows": rows(workspace), **{kind: rows(workspace, kind) for kind in PICTURED}}


def two_at_once(work: Callable[[], None]) -> list[int]:
    """Their exit codes."""
    children = [fork(work) for _ in range(2)]
    return [ended(child) for child in children]


def landed(folder: Path, what: str) -> None:
    """Files that have just come into a folder, or changed in it, and are not young any more."""
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
    """A folder that one run has been over, then one that is killed at its n-th event (None: two at once), and more."""
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


def contents(folder: Path) -> list[list[str]]:
    return [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in sorted(folder.iterdir())]


def count_landing(workspace: Path, folder: Path) -> int:
    folder.mkdir()
    landed(folder, "early")
    assert in_fork(lambda: score(workspace, folder, True)) == 0
    landed(folder, "then")
    return count_events(workspace, folder, True)


def full_disk(workspace: Path, images: Path, limit: int) -> dict[str, Any]:
    """A run whose files may not be longer than that, then one on a disk with room."""
    assert in_fork(lambda: score(workspace, images)) == 0
    old = rows(workspace)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        score(workspace, images)

    code = in_fork(work)
    left = rows(workspace)
    again = in_fork(lambda: score(workspace, images))
    return {"code": code, "old": old, "left": left, "again": again, "rows": rows(workspace)}


def drive(model: Path, images: Path, aside: Path, *what: object) -> tuple[Any, str]:
    """What this program finds, in a process that loads no network and can fork, and what its forks say of errors."""
    command = [sys.executable, __file__, str(model), str(images), str(aside), *map(str, what)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def main() -> None:
    model, images, aside = (Path(argument) for argument in sys.argv[1:4])
    for module, name, value in stubs():
        setattr(module, name, value)
    os.environ["SCORED"] = str(aside / "scored.txt")

    def fresh(name: str) -> Path:
        return Path(shutil.copytree(model, aside / name))

    what, numbers = sys.argv[4], [int(word) for word in sys.argv[5:]]
    if what == "count":
        found: Any = {"events": count_events(fresh("count"), images), "rows": rows(aside / "count")}
        found |= {kind: rows(aside / "count", kind) for kind in PICTURED}
    elif what == "kill":
        found = [killed(fresh(f"kill{i}"), images, n, i % 2 == 1) for i, n in enumerate(numbers)]
    elif what == "commit":
        found = [from_the_commit_on(fresh(f"commit{i}"), images, n, i % 2 == 1) for i, n in enumerate(numbers)]
    elif what == "count_landing":
        found = count_landing(fresh("count"), aside / "counted")
    elif what == "land":
        # 0 is no kill, but two at once.
        found = [landing(fresh(f"land{i}"), aside / f"in{i}", n or None) for i, n in enumerate(numbers)]
    elif what == "race":
        found = [race(fresh(f"race{i}"), images) for i in numbers]
    else:
        found = [full_disk(fresh(f"full{limit}"), images, limit) for limit in numbers]
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
