"""What the catalog finds, and what it ignores."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from reviewing import review
from scored import MODEL, START, add_batch, add_calibration

from nelbo.data import InputError, read_table, write_json, write_table
from nelbo.flows.options.options import CompactOptions
from nelbo.flows.steps.compact import compact_group, list_groups
from nelbo.flows.workspace import catalog, pointers
from nelbo.flows.workspace.layout import PATHS, Workspace
from nelbo.flows.workspace.reviews import record_review
from nelbo.flows.workspace.tables import with_column

COUNTS = ["n_images", "n_anomalous", "n_review", "n_not_scored"]


@pytest.fixture(params=["disk", "store"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return Workspace.at(str(tmp_path / "[w] *") if request.param == "disk" else f"memory://catalog{tmp_path}")


def add_model(workspace: Workspace, model_id: str) -> None:
    config = {"preset": "small", "height": 32, "width": 48, "channels": 1, "statistic": "joint"}
    described = {"config": config, "preprocessing": {}, "training": {"n_train": 7, "batch_id": f"t{model_id}"}}
    folder = workspace.models / model_id
    for place, content in ((folder / "model.json", described), (folder / "checksums.json", {})):
        write_json(content, place, workspace.staging)


def test_an_empty_workspace_has_all_tables(workspace: Workspace) -> None:
    for table in (catalog.models, catalog.calibrations, catalog.batches, catalog.published):
        assert table(workspace).num_rows == 0
        assert table(workspace).to_pandas().columns.size
    for kind in PATHS:
        assert catalog.find(workspace, kind).num_rows == 0
    assert catalog.all_rows(workspace, "runs").num_rows == catalog.all_rows(workspace, "reviews").num_rows == 0
    assert (list(catalog.leftovers(workspace)), catalog.sources(workspace)) == ([], set())
    assert not workspace.root.exists()


def test_a_batch_without_times_is_damaged(workspace: Workspace) -> None:
    """As after a flipped bit: everything else can be read."""
    add_batch(workspace, "b1", ["a.png"], add_calibration(workspace))
    path = workspace.scores(MODEL, "b1")
    table = read_table(path)
    table = with_column(table, "scored_at_utc", pa.nulls(table.num_rows, table.schema.field("scored_at_utc").type))
    write_table(table, path, table.schema, staging=workspace.staging)
    with pytest.raises(InputError, match="no row says when it was scored"):
        catalog.batches(workspace)


def test_models_and_calibrations_are_listed(workspace: Workspace) -> None:
    for model_id in ("m2", "m1"):
        add_model(workspace, model_id)
    pointers.promote(workspace, "m1")
    write_json({}, workspace.engine("m1", "onnx") / "checksums.json", workspace.staging)
    (workspace.engine("m1", "openvino") / "half.bin").parent.mkdir(parents=True, exist_ok=True)
    made = [add_calibration(workspace, model_id="m1", seed=i, at=START - timedelta(hours=i)) for i in range(2)]
    other = add_calibration(workspace, model_id="m2", seed=2)
    first, second = catalog.models(workspace).to_pylist()
    assert first == {
        "model_id": "m1",
        "latest": True,
        "calibration_id": made[1].calibration_id,
        "preset": "small",
        "image_size": "32x48x1",
        "statistic": "joint",
        "n_train": 7,
        "engines": "onnx",
    }
    assert (second["model_id"], second["latest"], second["engines"]) == ("m2", False, "")
    listed = catalog.calibrations(workspace).to_pylist()
    current = {row["calibration_id"]: row["current"] for row in listed if row["model_id"] == "m1"}
    assert list(current.items()) == [(made[1].calibration_id, True), (made[0].calibration_id, False)]
    assert catalog.sources(workspace) == {"t0", "tm1", "tm2"}
    # A damaged calibration is listed by its id, and hides no other.
    (workspace.calibrations / other.calibration_id / "calibration.json").write_text("[")
    assert {row["calibration_id"]: row["model_id"] for row in catalog.calibrations(workspace).to_pylist()} == {
        **dict.fromkeys(current, "m1"),
        other.calibration_id: None,
    }


def test_scores_of_two_models_on_one_batch_are_told_apart(workspace: Workspace) -> None:
    for i, (model_id, batch_id) in enumerate((("m2", "b1"), ("m1", "b2"), ("m1", "b1"))):
        calibration = add_calibration(workspace, model_id=model_id)
        at = START + timedelta(hours=i)
        add_batch(
            workspace, batch_id, ["a.png", "b.png"], calibration, model_id=model_id, at=at, not_scored=[True, False]
        )
    found = catalog.batches(workspace)
    assert [(row["model_id"], row["batch_id"]) for row in found.to_pylist()] == [
        ("m2", "b1"),
        ("m1", "b2"),
        ("m1", "b1"),
    ]
    assert found["n_images"].to_pylist() == [2, 2, 2]
    assert found["n_not_scored"].to_pylist() == [1, 1, 1]
    for asked, n in (({"batch_id": "b1"}, 2), ({"model_id": "m1"}, 2), ({"model_id": "m1", "batch_id": "b1"}, 1)):
        assert catalog.find(workspace, "scores", **asked).num_rows == n
        assert catalog.published(workspace, **asked).to_pylist()[-1]["batch_id"] == "b1"
    for odd in ("*", "..", "b?", "**", "", "b1/scores.parquet"):
        assert catalog.find(workspace, "scores", batch_id=odd).num_rows == 0


def test_counts_come_from_runs_and_without_them_from_verdicts(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    calibration = add_calibration(workspace)
    for i in range(2):
        paths = [f"{n}.png" for n in range(60)]
        add_batch(
            workspace, f"b{i}", paths, calibration, anomalous=0.2, not_scored=0.1, at=START + timedelta(i), seed=i
        )
    by_runs = catalog.batches(workspace)
    assert sum(by_runs["n_anomalous"].to_pylist()) > 0
    for place in catalog.places(workspace, "runs"):
        place.unlink()
    assert catalog.batches(workspace).equals(by_runs)


def test_compacted_runs_and_reviews_are_counted_one_time(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for i in range(3):
        add_batch(workspace, f"b{i}", ["a.png"], None, at=START + timedelta(hours=i))
        record_review(workspace, review(i))
    before = [catalog.all_rows(workspace, kind) for kind in ("runs", "reviews")]
    batches = catalog.batches(workspace)
    single = {place: place.read_bytes() for place in catalog.places(workspace, "runs")}
    for group in list_groups(workspace):
        compact_group(CompactOptions(workspace=str(tmp_path)), group)
    (month,), (joined,) = (catalog.places(workspace, kind) for kind in ("runs", "reviews"))
    assert (month.name[:6], joined.name[:4]) == ("month-", "all-")
    # As if `compact` was killed before it deleted the single files.
    for place, content in list(single.items())[:2]:
        place.write_bytes(content)
    assert [catalog.all_rows(workspace, kind) for kind in ("runs", "reviews")] == before
    assert catalog.batches(workspace).equals(batches)


def test_foreign_and_incomplete_files_are_ignored(workspace: Workspace) -> None:
    add_model(workspace, "m1")
    calibration = add_calibration(workspace, model_id="m1")
    add_batch(workspace, "b1", ["a.png"], calibration, model_id="m1")
    expected = {kind: catalog.find(workspace, kind) for kind in PATHS}
    content = workspace.scores("m1", "b1").read_bytes()
    # Some are what interrupted uploads and copies leave.
    for path in (
        *("notes.txt", "models/m1 (copy)/checksums.json", "models/2/checksums.json", "models/checksums.json"),
        *("models/m2/weights.safetensors", "calibrations/c2/scores.parquet", "engines/m1/onnx/model.onnx"),
        *("engines/m1/speeds.json", "scores/model_id=m1/batch_id=b1/scores.parquet.tmp"),
        *("scores/model_id=m1/batch_id=a b/scores.parquet", "scores/model_id=m1/batch_id=b1/deeper/scores.parquet"),
        *("scores/model_id=m1/batch_id=b2/flagged.parquet", "scores/m1/batch_id=b1/scores.parquet"),
        *("scores/model_id=m1/scores.parquet", "scores/m1/b1/scores.parquet"),
        *("flagged/model_id=m1/batch_id=b1.parquet", "manifests/batch_id=-x/manifest.parquet", "reports/.b1.html"),
        *("reports/page.txt", "runs/.r1.parquet", "runs/r1.json", "reviews/1.parquet", "landing/l1.lock"),
        *("_staging/shards.m1.b3/0.parquet", "_staging/scores.parquet", "_staging/journal.json"),
    ):
        place = workspace.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    assert {kind: catalog.find(workspace, kind) for kind in PATHS} == expected
    assert catalog.model_ids(workspace) == ["m1"]
    assert catalog.calibration_ids(workspace) == [calibration.calibration_id]
    assert {path for _, path in catalog.leftovers(workspace)} >= {"_staging/shards.m1.b3", "_staging/journal.json"}


def test_links_are_ignored(tmp_path: Path) -> None:
    workspace, other = Workspace(tmp_path / "w"), Workspace(tmp_path / "other")
    for place in (workspace, other):
        add_model(place, MODEL)
        add_batch(place, "b1", ["a.png"], add_calibration(place))
    expected = {kind: catalog.find(workspace, kind) for kind in PATHS}
    (workspace.models / "mlink").symlink_to(other.models / MODEL)
    (workspace.root / "scores" / "model_id=mlink").symlink_to(other.scores(MODEL, "b1").parents[1])
    workspace.scores(MODEL, "b2").parent.symlink_to(other.scores(MODEL, "b1").parent)
    workspace.scores(MODEL, "b3").parent.mkdir()
    workspace.scores(MODEL, "b3").symlink_to(other.scores(MODEL, "b1"))
    (workspace.runs / "r1.parquet").symlink_to(next(other.runs.glob("*.parquet")))
    (workspace.reviews).symlink_to(other.runs)
    (workspace.root / "checkpoints").symlink_to(other.models)
    (workspace.root / "landing").symlink_to(workspace.root)
    (workspace.staging / "link").symlink_to(tmp_path)
    assert {kind: catalog.find(workspace, kind) for kind in PATHS} == expected
    assert list(catalog.leftovers(workspace)) == []
    # The workspace itself may be a link.
    (tmp_path / "link").symlink_to(workspace.root)
    assert catalog.find(Workspace(tmp_path / "link"), "scores") == expected["scores"]


def test_a_batch_killed_midway_is_not_published(tmp_path: Path) -> None:
    """Flagged rows and the journal are written before the scores, which are the commit; prune deletes scores first."""
    workspace = Workspace(tmp_path)
    add_batch(workspace, "b1", ["a.png"], None)
    workspace.scores(MODEL, "b1").unlink()
    write_json({}, workspace.place("journal", run_id="r1"), workspace.staging)
    (workspace.models / MODEL).mkdir(parents=True)
    (workspace.models / MODEL / "model.json").write_text(json.dumps({}))
    assert catalog.find(workspace, "flagged")["batch_id"].to_pylist() == ["b1"]
    assert catalog.find(workspace, "journal")["run_id"].to_pylist() == ["r1"]
    assert catalog.batches(workspace).num_rows == catalog.published(workspace).num_rows == 0
    # The checksums of the model were deleted first, and the rest is still there.
    assert catalog.model_ids(workspace) == []
    assert catalog.find(workspace, "model.json")["model_id"].to_pylist() == [MODEL]


def test_the_batch_published_last_comes_last(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for batch_id, when in (("b1", 20), ("b2", 30), ("b3", 10)):
        add_batch(workspace, batch_id, ["a.png"], None)
        os.utime(workspace.scores(MODEL, batch_id), (when, when))
    found = catalog.published(workspace)
    assert found["batch_id"].to_pylist() == ["b3", "b1", "b2"]
    assert [datetime.fromtimestamp(when, UTC).second for when in found["modified"].to_pylist()] == [10, 20, 30]
    # The batch is deleted between two steps of the search.
    listed = catalog.find(workspace, "scores")
    workspace.scores(MODEL, "b1").unlink()
    assert catalog.with_times(workspace, listed)["batch_id"].to_pylist() == ["b2", "b3"]


def test_foreign_folders_that_cannot_be_listed_hide_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    add_model(workspace, "m1")
    (workspace.models / "m2").mkdir(mode=0)
    (workspace.models / "m3").write_text("a file")
    assert catalog.model_ids(workspace) == ["m1"]
