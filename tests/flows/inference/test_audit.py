"""What is kept of images that are not flagged: a fair, reproducible audit sample, and the highest scores."""

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import killed
import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import chisquare
from scored import MODEL, stub_workspace
from synthetic import write_images

from nelbo.data import read_metadata, read_table
from nelbo.flows.dashboard.tables import Tables
from nelbo.flows.inference.kept.audit import Draw, audit_keys
from nelbo.flows.inference.kept.near import Near, nearest
from nelbo.flows.options.options import ScoreOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.workspace.flagged import read_audit, read_near
from nelbo.flows.workspace.layout import Workspace


def test_the_audit_keys_are_the_same_in_every_version() -> None:
    """If a version changed the keys, it would draw other images when a batch is scored again."""
    assert audit_keys(["a.png", "ü/b.png"], "b1", 0).tolist() == [7758720020200001855, 9338300888160824374]
    keys = {key for batch in ("b1", "b2") for seed in (0, 1) for key in audit_keys(["a.png", "b.png"], batch, seed)}
    assert len(keys) == 8


@pytest.mark.parametrize("seed", range(8))
def test_candidates_of_a_shard_hold_its_smallest_keys(seed: int) -> None:
    """However many files come at a time, from any shard, readable or not, flagged or not."""
    random = np.random.default_rng(seed)
    shards = [random.permutation(50)[:n].astype(np.uint64) + 100 * i for i, n in enumerate((30, 0, 7, 50))]
    eligible = random.random(87) < 0.7
    draw, kept, done = Draw(shards, k=5), [], 0
    while done < 87:
        n = int(random.integers(0, 20))
        kept.append(draw(eligible[done : done + n]))
        done += n
    found = np.concatenate(kept)
    assert not (found & ~eligible).any()
    start = 0
    for keys in shards:
        own = slice(start, start := start + len(keys))
        smallest = set(np.sort(keys[eligible[own]])[:5].tolist())
        assert smallest <= set(keys[found[own]].tolist())
        # The others that are kept were among the smallest at some time; they are few.
        assert found[own].sum() <= 5 + 3 * 5


def test_each_sample_is_as_likely_as_any_other() -> None:
    """A simple random sample: 3 of 6, over 4,000 seeds."""
    paths = [f"line 1/2026-11-30/image{i:04}.png" for i in range(9)]
    # False stands for a flagged image, which cannot be drawn.
    eligible = np.array([True, False, True, True, False, True, True, False, True])
    samples: Counter[tuple[int, ...]] = Counter()
    for seed in range(4000):
        keys = np.where(eligible, audit_keys(paths, "b1", seed), np.iinfo(np.uint64).max)
        samples[tuple(sorted(np.argsort(keys)[:3].tolist()))] += 1
    assert set(samples) == set(combinations(np.flatnonzero(eligible).tolist(), 3))
    assert chisquare(list(samples.values())).pvalue > 0.001


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", 40, seed=5)
    return tmp_path / "images"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("SCORED", str(tmp_path / "scored.txt"))
    for module, name, value in killed.stubs():
        monkeypatch.setattr(module, name, value)
    return stub_workspace(tmp_path / "workspace")


def score(workspace: Workspace, images: Path, **options: Any) -> dict[str, Any]:
    asked = ScoreOptions(images=str(images), workspace=str(workspace.root), workers=1, **options)
    return execute("score", asked, prefect=False)


def sampled(workspace: Workspace, result: dict[str, Any]) -> list[str]:
    return read_audit(workspace, MODEL, result["batch_id"])["relative_path"].to_pylist()


def test_the_sample_is_drawn_from_what_is_not_flagged(workspace: Workspace, images: Path) -> None:
    result = score(workspace, images, audit=7)
    scores = read_table(Path(result["scores"])).to_pylist()
    unflagged = {row["relative_path"]: row for row in scores if row["verdict"] == "normal"}
    assert 7 < len(unflagged) < 40
    order = sorted(unflagged, key=lambda path: audit_keys([path], result["batch_id"], 0)[0])
    rows = read_audit(workspace, MODEL, result["batch_id"]).to_pylist()
    assert [row["relative_path"] for row in rows] == order[:7]
    for row in rows:
        assert row["thumbnail"] == b"JPEG"
        assert {name: row[name] for name in scores[0]} == unflagged[row["relative_path"]]
    assert read_metadata(Path(result["audit"]))["nelbo.run_id"] == result["run_id"]
    shown = Tables(workspace).query("SELECT * FROM audit", batches=[(MODEL, result["batch_id"])])
    assert set(shown["relative_path"]) == set(order[:7])
    assert shown["thumbnail"].notna().all()
    assert {"model_id", "batch_id", "verdict", "map", "anomaly_score"} <= set(shown.columns)


def test_shards_and_restarts_change_no_sample(workspace: Workspace, images: Path) -> None:
    first = sampled(workspace, score(workspace, images))
    assert len(first) == 10
    for shard_size in (1, 7, 40):
        assert sampled(workspace, score(workspace, images, shard_size=shard_size)) == first
    # A larger sample begins with the smaller one.
    assert sampled(workspace, score(workspace, images, audit=15))[:10] == first
    other = sampled(workspace, score(workspace, images, audit_seed=1))
    assert len(other) == 10
    assert other != first
    assert sampled(workspace, score(workspace, images)) == first
    # A sample larger than the batch takes every image that is not flagged.
    everything = score(workspace, images, audit=1000)
    assert len(sampled(workspace, everything)) == 40 - everything["n_anomalous"]


@pytest.mark.parametrize("seed", range(8))
def test_candidates_hold_the_highest_scores_however_a_batch_is_cut(seed: int) -> None:
    random = np.random.default_rng(seed)
    # Many scores are equal; the earliest of them count.
    scores = random.integers(0, 30, 200).astype(float)
    eligible = random.random(200) < 0.8
    scores[~eligible] = np.nan
    expected = sorted(np.flatnonzero(eligible), key=lambda row: (-scores[row], row))[:5]
    kept = np.zeros(200, bool)
    for start, stop in ((0, 90), (90, 91), (91, 200)):
        near, done = Near(5), start
        while done < stop:
            some = slice(done, min(stop, done + int(random.integers(0, 40))))
            kept[some], done = near(eligible[some], scores[some]), some.stop
    assert not (kept & ~eligible).any()
    assert kept[expected].all()
    assert kept.sum() < 80
    rows = np.flatnonzero(kept)
    table = pa.table({"row": rows, "anomaly_score": scores[rows]})
    assert nearest(table, 5)["row"].to_pylist() == expected
    assert nearest(table.slice(0, 0), 5).num_rows == 0


def test_the_highest_scores_that_are_not_flagged_are_kept(workspace: Workspace, images: Path) -> None:
    for options in ({}, {"shard_size": 3}, {"audit": 0}):
        result = score(workspace, images, **options)
        scores = read_table(Path(result["scores"])).to_pylist()
        unflagged = [row for row in scores if row["verdict"] == "normal"]
        near = read_near(workspace, MODEL, result["batch_id"]).to_pylist()
        highest = sorted(unflagged, key=lambda row: -row["anomaly_score"])[:12]
        assert [row["relative_path"] for row in near] == [row["relative_path"] for row in highest]
        assert all(row["thumbnail"] == b"JPEG" for row in near)
        assert {name: near[0][name] for name in scores[0]} == highest[0]
    assert read_near(workspace, MODEL, score(workspace, images, uncalibrated=True)["batch_id"]).num_rows == 0


def test_no_sample_is_drawn_without_a_request_or_verdicts(workspace: Workspace, images: Path) -> None:
    score(workspace, images)
    for options in ({"audit": 0}, {"uncalibrated": True}):
        result = score(workspace, images, **options)
        assert sampled(workspace, result) == []
        assert read_table(Path(result["audit"])).num_rows == 0
    # An earlier version published no such file.
    Path(result["audit"]).unlink()
    assert read_audit(workspace, MODEL, result["batch_id"]).num_rows == 0
    assert len(sampled(workspace, score(workspace, images))) == 10


def test_readers_see_the_sample_of_the_published_run(
    workspace: Workspace, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step of publishing a batch again with another seed, readers see exactly one whole sample."""
    first = score(workspace, images)
    batch_id = first["batch_id"]
    old, seen, real = set(sampled(workspace, first)), [], Path.replace

    def replace(path: Path, target: Path) -> Path:
        made = real(path, target)
        if Path(target).name in ("scores.parquet", "audit.parquet") and Path(target).is_relative_to(workspace.root):
            found = read_audit(workspace, MODEL, batch_id)
            shown = Tables(workspace).query("SELECT relative_path, run_id, thumbnail FROM audit")
            assert set(shown["relative_path"]) == set(found["relative_path"].to_pylist())
            assert shown["thumbnail"].notna().all()
            seen.append((set(shown["relative_path"]), *set(shown["run_id"])))
        return made

    monkeypatch.setattr(Path, "replace", replace)
    second = score(workspace, images, audit_seed=1)
    new = set(sampled(workspace, second))
    assert new != old
    before, after = (old, first["run_id"]), (new, second["run_id"])
    assert seen == [before, after, after]
