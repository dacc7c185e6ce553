"""``prune`` and ``compact``: what they delete, what they keep, and what a kill midway leaves."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from scored import stub_workspace
from synthetic import write_images

from nelbo.data import MANIFEST_SCHEMA, RUNS_SCHEMA, SCORES_SCHEMA, open_place, read_table, write_json, write_table
from nelbo.flows.options.options import CalibrateOptions, CompactOptions, PruneOptions, ScoreOptions, TrainOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.steps import compact as compaction
from nelbo.flows.steps import prune as retention
from nelbo.flows.workspace import pointers
from nelbo.flows.workspace.flagged import BESIDE
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.locks import locked

DAY = 86_400


def age(path: Path, days: float) -> None:
    """Make a file, or a folder with all its contents, look old."""
    when = time.time() - days * DAY
    for each in [*path.rglob("*"), path] if path.is_dir() else [path]:
        os.utime(each, (when, when), follow_symlinks=False)


def add_manifest(root: Path, batch_id: str, days: float) -> Path:
    table = pa.Table.from_pylist([dict.fromkeys(MANIFEST_SCHEMA.names)], MANIFEST_SCHEMA)
    place = Path(str(write_table(table, Workspace(root).manifest(batch_id), MANIFEST_SCHEMA)))
    age(place, days)
    return place


def add_batch(root: Path, model_id: str, batch_id: str, days: float, calibration_id: str | None = None) -> None:
    workspace = Workspace(root)
    add_manifest(root, batch_id, days)
    row = dict.fromkeys(SCORES_SCHEMA.names) | {"relative_path": "a.png", "calibration_id": calibration_id}
    table = pa.Table.from_pylist([row], SCORES_SCHEMA)
    for kind in ("audit", "evaluations", "flagged", "near", "regions", "scores"):
        place = workspace.place(kind, model_id=model_id, batch_id=batch_id)
        age(Path(str(write_table(table, place, table.schema))), days)
    page = Path(str(workspace.report(batch_id)))
    page.parent.mkdir(exist_ok=True)
    page.write_text("page")
    age(page, days)


def add_model(root: Path, model_id: str, days: float, *calibration_ids: str) -> None:
    write_json(
        {"config": {}, "preprocessing": {}, "training": {"batch_id": f"t{model_id}"}},
        root / "models" / model_id / "model.json",
    )
    for name in ("weights.safetensors", "checksums.json"):
        (root / "models" / model_id / name).write_text("{}")
    age(root / "models" / model_id, days)
    for name in calibration_ids:
        write_json({"batch_id": f"k{name}"}, root / "calibrations" / name / "calibration.json")
        (root / "calibrations" / name / "checksums.json").write_text("{}")
        age(root / "calibrations" / name, days)


def add_run(root: Path, started: datetime, number: int = 0) -> Path:
    run_id = f"r{started:%Y%m%dT%H%M%S}-{number:08x}"
    row = dict.fromkeys(RUNS_SCHEMA.names) | {"run_id": run_id, "command": "score", "started_at_utc": started}
    target = root / "runs" / f"{run_id}.parquet"
    write_table(pa.Table.from_pylist([row], RUNS_SCHEMA), target, RUNS_SCHEMA)
    return target


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with old and new files of every kind, and with foreign ones."""
    root = tmp_path / "workspace"
    add_model(root, "m1", 200, "c1", "c2", "c3")
    add_model(root, "m2", 200, "c4")
    add_model(root, "m3", 200)
    pointers.promote(Workspace(root), "m1")
    pointers.use_calibration(Workspace(root), "m1", "c1")
    pointers.use_calibration(Workspace(root), "m2", "c4")
    add_batch(root, "m1", "old", 100)
    add_batch(root, "m1", "both", 100)
    add_batch(root, "m3", "both", 1)
    add_batch(root, "m1", "new", 1, "c2")
    for batch_id in ("tm1", "kc1"):
        add_manifest(root, batch_id, 200)
    for kind, name in (("_staging", "rOld"), ("checkpoints", "tOld"), ("cache", "pOld")):
        (root / kind / name).mkdir(parents=True)
        (root / kind / name / "file").write_text("x" * 100)
        age(root / kind / name, 100)
    (root / "_staging" / "rNew").mkdir()
    (root / "_staging" / "rNew" / "file").write_text("x")
    age(add_run(root, datetime(2026, 1, 5, tzinfo=UTC)), 100)
    add_run(root, datetime.now(UTC))
    strange = root / "scores" / "model_id=m1" / "batch_id=a b\n<i>"
    strange.mkdir()
    (strange / "scores.parquet").write_text("mine")
    for name in ("notes.txt", "reviews/r.parquet", "runs/my.parquet", "reports/-x.html", "reports/page.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("mine")
    for path in (strange, root / "notes.txt", root / "reviews", root / "runs" / "my.parquet", root / "reports"):
        age(path, 300)
    # Links to old files elsewhere.
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "scores.parquet").write_text("precious")
    age(outside, 300)
    (root / "scores" / "model_id=m1" / "batch_id=link").symlink_to(outside)
    (root / "scores" / "model_id=mlink").symlink_to(tmp_path)
    for kind in ("_staging", "cache"):
        (root / kind / "link").symlink_to(outside)
    (root / "reports" / "linked.html").symlink_to(outside / "scores.parquet")
    return root


def prune(root: object, **options: Any) -> dict[str, Any]:
    return execute("prune", PruneOptions(workspace=str(root), **{"older_than": "90d", **options}), prefect=False)


def found_old(root: Path) -> Callable[[], object]:
    """A function that removes what is old at the time of this call."""
    options = PruneOptions(workspace=str(root), older_than="90d", apply=True)
    before = time.time() - 90 * DAY
    return partial(retention.remove_old, options, retention.find_old(options, before), before)


def listing(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and not p.is_symlink()}


GOING = [
    "_staging/rOld/file",
    "audit/model_id=m1/batch_id=both/audit.parquet",
    "audit/model_id=m1/batch_id=old/audit.parquet",
    "cache/pOld/file",
    "checkpoints/tOld/file",
    "evaluations/model_id=m1/batch_id=both/evaluation.parquet",
    "evaluations/model_id=m1/batch_id=old/evaluation.parquet",
    "flagged/model_id=m1/batch_id=both/flagged.parquet",
    "flagged/model_id=m1/batch_id=old/flagged.parquet",
    "manifests/batch_id=old/manifest.parquet",
    "near/model_id=m1/batch_id=both/near.parquet",
    "near/model_id=m1/batch_id=old/near.parquet",
    "regions/model_id=m1/batch_id=both/regions.parquet",
    "regions/model_id=m1/batch_id=old/regions.parquet",
    "reports/old.html",
    "runs/r20260105T000000-00000000.parquet",
    "scores/model_id=m1/batch_id=both/scores.parquet",
    "scores/model_id=m1/batch_id=old/scores.parquet",
]


def test_prune_deletes_old_files_and_keeps_the_rest(workspace: Path, tmp_path: Path) -> None:
    # The page of a batch is deleted only with the last of its scores.
    before = listing(workspace)
    planned = prune(workspace)
    assert listing(workspace) == before
    assert (planned["applied"], planned["n"]) == (False, len(GOING))
    assert planned["size_bytes"] == sum(len(before[name]) for name in GOING if "/file" not in name) + sum(
        item["size_bytes"] for item in planned["items"] if item["kind"] in ("staging", "cache", "checkpoints")
    )
    assert [item["kind"] for item in planned["items"]][:2] == ["scores", "scores"]
    done = prune(workspace, apply=True)
    assert done["items"] == planned["items"]
    assert sorted(set(before) - set(listing(workspace))) == GOING
    assert (tmp_path / "outside" / "scores.parquet").read_text() == "precious"
    assert not (workspace / "scores" / "model_id=m1" / "batch_id=old").exists()
    assert prune(workspace, apply=True)["n"] == 0


def test_unused_models_are_deleted_on_request(workspace: Path) -> None:
    before = listing(workspace)
    prune(workspace, apply=True, models=True)
    gone = {name for name in set(before) - set(listing(workspace)) if name not in GOING}
    # m1 is the latest model, m3 scored a kept batch; c1 is current, c2 gave the verdicts of a kept batch.
    assert {name.split("/")[1] for name in gone} == {"m2", "c3", "c4"}
    assert json.loads((workspace / "latest.json").read_text()) == {"model_id": "m1", "calibrations": {"m1": "c1"}}


def test_models_that_a_watcher_needs_stay(workspace: Path) -> None:
    """Another model was promoted after the batch began, but without the old one the batch could never be published."""
    kept = workspace / "_staging" / "watch.l1.w1"
    write_json({"model_id": "m2", "calibration_id": "c3"}, kept / "batch.json")
    for name, content in (("watch.l1.w2", b"{"), ("watch.l1.w3", b"[]"), ("watch.l1.w4", b"\xff")):
        (workspace / "_staging" / name).mkdir()
        (workspace / "_staging" / name / "batch.json").write_bytes(content)
    prune(workspace, apply=True, models=True)
    assert {path.name for path in workspace.glob("models/m*")} == {"m1", "m2", "m3"}
    assert {path.name for path in workspace.glob("calibrations/*")} == {"c1", "c2", "c3", "c4"}


@pytest.mark.parametrize("models", [False, True])
def test_after_a_kill_no_half_batch_is_visible_and_prune_ends_the_same(
    workspace: Path, models: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = retention._remove
    steps = 0

    def die(root: Path, path: str, before: float) -> None:
        nonlocal steps
        if steps == 0:
            raise KeyboardInterrupt
        steps -= 1
        real(root, path, before)

    monkeypatch.setattr(retention, "_remove", die)
    n_kills = 0
    while True:
        steps = 1
        try:
            prune(workspace, apply=True, models=models)
            break
        except KeyboardInterrupt:
            n_kills += 1
        for scores in workspace.glob("scores/model_id=m*/batch_id=[a-z]*/scores.parquet"):
            others = [Path(str(scores).replace("scores", kind)) for kind in BESIDE]
            assert all(place.exists() for place in others) or scores.parent.is_symlink() or " " in scores.parent.name
    assert n_kills >= len(GOING) - 1
    found = set(listing(workspace))
    assert not found & set(GOING)
    assert "models/m1/checksums.json" in found
    assert ("models/m2/model.json" in found) is not models


USER = """
import sys
from nelbo.flows.workspace.layout import Workspace
with Workspace.at(sys.argv[1]).using("busy"):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_manifest_that_another_process_uses_stays(tmp_path: Path) -> None:
    """However old it is; once the process has ended or was killed, the manifest is deleted."""
    busy, idle = (add_manifest(tmp_path, name, 100) for name in ("busy", "idle"))
    line = [sys.executable, "-c", USER, str(tmp_path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "ready\n"
        assert [item["name"] for item in prune(tmp_path)["items"]] == ["idle"]
        prune(tmp_path, apply=True)
        assert (busy.exists(), idle.exists()) == (True, False)
        user.kill()
    prune(tmp_path, apply=True)
    assert not busy.parent.exists()


def test_a_manifest_that_comes_into_use_after_it_was_listed_stays(tmp_path: Path) -> None:
    place = add_manifest(tmp_path, "b1", 100)
    remove = found_old(tmp_path)
    with Workspace(tmp_path).using("b1"):
        remove()
    assert place.exists()
    remove()
    assert not place.exists()


def test_the_manifest_of_an_unfinished_batch_stays(tmp_path: Path) -> None:
    """The shards of a killed run are younger than its manifest."""
    place, other = (add_manifest(tmp_path, name, 100) for name in ("b1", "b2"))
    (tmp_path / "_staging" / "shards.m1.b1").mkdir(parents=True)
    (tmp_path / "_staging" / "shards.m1.b1" / "x.parquet").write_text("x")
    prune(tmp_path, apply=True)
    assert (place.exists(), other.exists()) == (True, False)


def test_unpublished_rows_of_a_watcher_stay(tmp_path: Path) -> None:
    """Its verdicts were printed, and its files may be gone; a batch may also fill for days."""
    kept, other = (tmp_path / "_staging" / name for name in ("watch.l1.w1", "shards.m1.b1"))
    for folder in (kept, other):
        folder.mkdir(parents=True)
        (folder / "000000.parquet").write_text("x")
        age(folder / "000000.parquet", 100)
        age(folder, 100)
    prune(tmp_path, apply=True)
    assert (kept.exists(), other.exists()) == (True, False)


@pytest.mark.parametrize("command", ["score", "calibrate", "train"])
def test_prune_leaves_the_manifests_of_a_command_at_work(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`prune` runs in the middle of a command, as if that had been at work for months."""
    root, images = tmp_path / "workspace", tmp_path / "images"
    write_images(images, 120, seed=8)
    write_images(tmp_path / "held-out", 30, seed=9)
    stub_workspace(root)

    def pruned(*_: Any) -> None:
        for path in root.glob("manifests/*/*"):
            age(path, 100)
        prune(root, apply=True)
        found.extend(path.parent.name[9] for path in root.glob("manifests/*/manifest.parquet"))
        raise InterruptedError

    found: list[str] = []
    at = {"workspace": str(root), "workers": 1}
    kinds: dict[str, tuple[str, Any, list[str]]] = {
        "score": ("nelbo.flows.steps.score.score_shards", ScoreOptions(images=str(images), **at), ["b"]),
        "calibrate": ("nelbo.flows.steps.calibrate.calibrate_model", CalibrateOptions(normal=str(images), **at), ["k"]),
        "train": (
            "nelbo.flows.steps.train.fit",
            TrainOptions(normal=str(images), gate=str(tmp_path / "held-out"), image_size=(16, 16), **at),
            ["g", "t"],
        ),
    }
    where, options, expected = kinds[command]
    monkeypatch.setattr(where, pruned)
    for module in ("score", "calibrate", "judge"):
        monkeypatch.setattr(f"nelbo.flows.steps.{module}.load_model", lambda *_: None)
    monkeypatch.setattr("nelbo.flows.steps.score.choose_engine", lambda *_: "keras")
    with pytest.raises(InterruptedError):
        execute(command, options, prefect=False)
    assert sorted(found) == expected
    # No command is at work any more.
    prune(root, apply=True)
    assert not list(root.glob("manifests/*"))


def test_scores_published_while_old_ones_are_deleted_stay(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between `prune`'s last look at the time of a file and its deletion, nothing can be published."""
    real = retention.modified

    def late(place: Any) -> float:
        found = real(place)
        if Path(place).name == "scores.parquet":
            with pytest.raises(BlockingIOError), locked(workspace, wait=False):
                pass
        return found

    remove = found_old(workspace)
    monkeypatch.setattr(retention, "modified", late)
    remove()
    assert not (workspace / "scores" / "model_id=m1" / "batch_id=old").exists()


def test_files_written_since_they_were_listed_stay(workspace: Path) -> None:
    remove = found_old(workspace)
    add_batch(workspace, "m1", "old", 0)
    (workspace / "_staging" / "rOld" / "more").write_text("x")
    remove()
    found = listing(workspace)
    assert "scores/model_id=m1/batch_id=old/scores.parquet" in found
    assert "manifests/batch_id=old/manifest.parquet" in found
    assert "_staging/rOld/file" in found
    assert "scores/model_id=m1/batch_id=both/scores.parquet" not in found


def test_folders_that_are_links_are_not_entered(tmp_path: Path) -> None:
    add_batch(tmp_path / "other", "m1", "old", 100)
    root = tmp_path / "workspace"
    root.mkdir()
    for kind in ("scores", *BESIDE, "evaluations", "manifests", "reports"):
        (root / kind).symlink_to(tmp_path / "other" / kind)
    assert prune(root, apply=True)["n"] == 0
    assert prune(tmp_path / "other", apply=True)["n"] == 8


def test_the_command_lists_what_it_deletes(workspace: Path, nelbo: Callable[..., Any]) -> None:
    code, out, err = nelbo("prune", "--older-than", "90d", "--workspace", workspace, "--no-prefect")
    assert (code, err) == (0, "")
    assert "m1/old" in out
    assert out.splitlines()[-1] == f"nelbo prune --older-than 90d --apply --workspace {workspace}"
    code, out, _ = nelbo("prune", "--older-than", "13w", "--workspace", workspace, "--json", "--no-prefect", "--apply")
    assert (code, json.loads(out)["n"]) == (0, len(GOING))
    for bad in ("0d", "90", "-1d", "1y", "1d\n"):
        code, _, err = nelbo("prune", "--older-than", bad, "--workspace", workspace)
        assert code == 2, bad
        assert "12h, 90d or 4w" in err, bad


def test_prune_works_in_an_object_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = open_place("memory://retention")
    for name in ("scores", *BESIDE):
        (root / f"{name}/model_id=m1/batch_id=b1/{name}.parquet").write_bytes(b"x" * 10)
    (root / "_staging/r1/shard.parquet").write_bytes(b"x")
    (root / "mine.txt").write_bytes(b"x")
    assert prune("memory://retention", apply=True)["n"] == 0
    monkeypatch.setattr(retention.time, "time", lambda real=time.time: real() + 100 * DAY)
    done = prune("memory://retention", apply=True)
    assert [item["kind"] for item in done["items"]] == ["scores", *BESIDE, "staging"]
    assert [name.rpartition("/")[2] for name in root.fs.find(root.path)] == ["mine.txt"]


def compact(root: object) -> dict[str, Any]:
    return execute("compact", CompactOptions(workspace=str(root)), prefect=False)


def run_ids(root: Path) -> list[str]:
    """The ids of runs as the dashboard reads them."""
    return [
        name for path in sorted((root / "runs").glob("*.parquet")) for name in read_table(path)["run_id"].to_pylist()
    ]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Five runs in October and three in November."""
    for number in range(5):
        add_run(tmp_path, datetime(2026, 10, 1 + number, tzinfo=UTC), number)
    for number in range(3):
        add_run(tmp_path, datetime(2026, 11, 1 + number, tzinfo=UTC), number)
    return tmp_path


def test_the_runs_of_a_month_become_one_file(runs: Path) -> None:
    expected = sorted(run_ids(runs))
    assert compact(runs) == {"n_months": 2, "n_files": 8, "n_rows": 8, "n_reviews": 0}
    names = sorted(path.name for path in (runs / "runs").iterdir())
    assert [name[:14] for name in names] == ["month-2026-10-", "month-2026-11-"]
    assert run_ids(runs) == expected
    assert compact(runs) == {"n_months": 0, "n_files": 0, "n_rows": 0, "n_reviews": 0}
    add_run(runs, datetime(2026, 11, 20, tzinfo=UTC), 9)
    assert compact(runs) == {"n_months": 1, "n_files": 2, "n_rows": 4, "n_reviews": 0}
    assert len(run_ids(runs)) == 9
    assert len(list((runs / "runs").iterdir())) == 2


def test_after_a_kill_no_row_is_missing_and_the_next_compact_removes_duplicates(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sorted(run_ids(runs))
    real_write, real_unlink = compaction.write_table, Path.unlink
    budget = 0

    def spend() -> None:
        nonlocal budget
        if budget == 0:
            raise KeyboardInterrupt
        budget -= 1

    def write(*args: Any, **more: Any) -> Any:
        spend()
        return real_write(*args, **more)

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.parent.name == "runs" and path.suffix == ".parquet":
            spend()
        real_unlink(path, missing_ok)

    monkeypatch.setattr(compaction, "write_table", write)
    monkeypatch.setattr(Path, "unlink", unlink)
    for allowed in range(4):
        budget = allowed
        with pytest.raises(KeyboardInterrupt):
            compact(runs)
        assert sorted(set(run_ids(runs))) == expected
    budget = 100
    compact(runs)
    assert sorted(run_ids(runs)) == expected
    assert len(list((runs / "runs").iterdir())) == 2


def test_a_file_that_is_not_a_run_is_left_alone(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = runs / "runs" / "r20261009T000000-0000000a.parquet"
    broken.write_bytes(b"half")
    (runs / "runs" / "mine.parquet").write_bytes(b"mine")
    linked = runs / "runs" / "r20261009T000000-0000000b.parquet"
    linked.symlink_to(runs / "runs" / "mine.parquet")
    assert compact(runs)["n_rows"] == 8
    assert (broken.read_bytes(), linked.is_symlink()) == (b"half", True)
    assert "is left as it is" in caplog.text


def test_a_full_disk_deletes_no_row(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run_ids(runs)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compaction, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        compact(runs)
    assert run_ids(runs) == expected
