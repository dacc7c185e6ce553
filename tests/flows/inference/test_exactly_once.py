"""Whatever interrupts a scoring job, the same command, run again, gives the rows of an undisturbed run."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import killed
import numpy as np
import pytest
from scored import stub_workspace
from servers import wait_for
from synthetic import write_images

from nelbo.data import read_table
from nelbo.flows.options.options import ScoreOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.workspace.flagged import BESIDE

N = 40


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch")
    write_images(folder, N, seed=17)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a stub of a model."""
    return Path(stub_workspace(tmp_path_factory.mktemp("model")).root)


@pytest.fixture(scope="module")
def undisturbed(model: Path, batch: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found, _ = killed.drive(model, batch, tmp_path_factory.mktemp("undisturbed"), "count")
    assert len(found["rows"]) == N
    assert 0 < len(found["flagged"]) < N
    assert len(found["audit"]) == 10
    assert len(found["near"]) == 12
    assert len(found["regions"]) == 2 * len(found["flagged"])
    return found


@pytest.mark.slow
def test_a_job_killed_at_random_points_ends_with_the_same_rows(
    model: Path, batch: Path, undisturbed: dict[str, Any], tmp_path: Path, random: np.random.Generator
) -> None:
    points = sorted(random.choice(np.arange(1, undisturbed["events"] + 1), 16, replace=False).tolist())
    found, _ = killed.drive(model, batch, tmp_path, "kill", *points)
    # A workspace's first run has as many events as were counted, a later run about as many.
    assert sum(one["code"] == -signal.SIGKILL for one in found) >= 12
    assert any(0 < one["finished"] < N for one in found)
    for one in found:
        # Readers saw the old batch, the new one, or none.
        assert one["seen"] in (one["old"], undisturbed["rows"])
        assert one["again"] == 0
        assert one["rows"] == undisturbed["rows"]
        assert one["flagged"] == undisturbed["flagged"]
        assert one["audit"] == undisturbed["audit"]
        assert one["near"] == undisturbed["near"]
        assert one["regions"] == undisturbed["regions"]
        assert one["scored_again"] == N - one["finished"]
        # Files that were cut off are hidden, and no shard is left.
        assert all(name.startswith(".") for name in one["left"])


@pytest.mark.slow
def test_two_jobs_on_one_batch_publish_the_same_rows(
    model: Path, batch: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    found, errors = killed.drive(model, batch, tmp_path, "race", *range(4))
    for one in found:
        assert one == {"codes": [0, 0], **{name: undisturbed[name] for name in ("rows", *BESIDE)}}, errors


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_rows(model: Path, batch: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """A limit on the length of files cuts off the manifest, a shard or the published file."""
    found, errors = killed.drive(model, batch, tmp_path, "full", 100, 5_000, 9_000)
    for one in found:
        assert one["code"] == 1
        assert one["left"] == one["old"] == one["rows"] == undisturbed["rows"]
        assert one["again"] == 0
    said = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    assert [line["type"] for line in said] == ["SpaceError"] * 3
    assert all("Free space and run the same command again." in line["error"] for line in said)


#: The real command; with an exported engine its process needs no TensorFlow.
SCORE = [str(Path(sys.executable).parent / "nelbo"), "score", "--set", "shard_size=4", "--no-prefect", "--json"]


def command(batch: Path, workspace: Path) -> list[str]:
    return [*SCORE, str(batch), "--workspace", str(workspace)]


def published(workspace: Path) -> list[dict[str, Any]]:
    (path,) = workspace.glob("scores/*/*/scores.parquet")
    return read_table(path).drop_columns(["run_id", "scored_at_utc"]).to_pylist()


@pytest.fixture(scope="module")
def whole(exported: Path, batch: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The published rows of an undisturbed run."""
    workspace = Path(shutil.copytree(exported, tmp_path_factory.mktemp("whole") / "w"))
    execute("score", ScoreOptions(images=str(batch), workspace=str(workspace)), prefect=False)
    return published(workspace)


def reached(job: "subprocess.Popen[bytes]", workspace: Path, pattern: str, n: int) -> bool:
    assert job.poll() is None
    return len(list(workspace.glob(pattern))) >= n


@pytest.mark.slow
def test_the_real_command_resumes_after_a_kill(
    exported: Path, batch: Path, whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    """It is killed after its first shard, midway, and after it published the scores but not the report."""
    workspace = Path(shutil.copytree(exported, tmp_path / "workspace"))
    points = {"_staging/shards.*/*.parquet": (1, 5), "scores/*/*/scores.parquet": (1,)}
    for pattern, counts in points.items():
        for n in counts:
            job = subprocess.Popen(command(batch, workspace), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_for(partial(reached, job, workspace, pattern, n), pattern, every=0.001)
            job.kill()
            assert job.wait() == -signal.SIGKILL
    done = subprocess.run(command(batch, workspace), check=True, capture_output=True)
    assert published(workspace) == whole
    assert json.loads(done.stdout)["n_images"] == N
    assert not list(workspace.glob("_staging/shards.*"))


@pytest.mark.slow
def test_the_real_command_resumes_after_a_full_disk(
    exported: Path, batch: Path, whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    workspace = Path(shutil.copytree(exported, tmp_path / "workspace"))
    job = subprocess.run(
        command(batch, workspace),
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert (job.returncode, job.stdout) == (1, "")
    assert "Free space and run the same command again." in job.stderr
    assert len(job.stderr.splitlines()) == 1
    assert subprocess.run(command(batch, workspace), check=True, capture_output=True)
    assert published(workspace) == whole
