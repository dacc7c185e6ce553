"""The chain on files: ingest, train, calibrate, score, report, directly and through Prefect."""

import base64
import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from commands import calibrate, score
from PIL import Image
from servers import Prefect, prefect_server
from synthetic import write_images, write_list

from nelbo.data import (
    FLAGGED_SCHEMA,
    REGIONS_SCHEMA,
    SCORES_SCHEMA,
    File,
    InputError,
    SpaceError,
    iter_images,
    read_scores,
    read_table,
    write_json,
)
from nelbo.data.regions.run_length import decode
from nelbo.detectors import conformal_threshold, p_values, q_values
from nelbo.flows.commands import COMMANDS
from nelbo.flows.inference.regions.halos import without_halos
from nelbo.flows.inference.shards import LEAST_IMAGES
from nelbo.flows.options.options import CalibrateOptions, IngestOptions, ReportOptions, ScoreOptions, TrainOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.report.pictures import outline_of
from nelbo.flows.workspace import pointers
from nelbo.flows.workspace.calibrations.calibration import calibration_of, read_calibration
from nelbo.flows.workspace.calibrations.identity import calibration_id
from nelbo.flows.workspace.layout import Workspace

Trained = tuple[Path, dict[str, Any]]

#: Columns that may differ between two runs on the same files.
OF_THE_RUN = ["run_id", "scored_at_utc"]


def rows(path: str | Path) -> pa.Table:
    return read_table(Path(path)).drop_columns(OF_THE_RUN)


def test_every_file_has_one_row(images: Path, workspace: Path) -> None:
    result = score(images / "new", workspace)
    assert (result["n_images"], result["n_scored"], result["n_not_scored"]) == (28, 26, 2)
    assert result["n_skipped"] == 1
    (run,) = read_table(workspace / "runs" / f"{result['run_id']}.parquet").to_pylist()
    assert (run["command"], run["n_images"], run["n_anomalous"]) == ("score", 28, result["n_anomalous"])
    assert run["images_per_s"] > 0
    table = read_table(Path(result["scores"]))
    assert table.schema.equals(SCORES_SCHEMA, check_metadata=False)
    paths = table["relative_path"].to_pylist()
    on_disk = [
        path.relative_to(images / "new").as_posix() for path in (images / "new").rglob("*.*") if path.name[0] != "."
    ]
    assert paths == sorted(on_disk)
    by_path = {row["relative_path"]: row for row in table.to_pylist()}
    assert (by_path["notes.txt"]["verdict"], by_path["notes.txt"]["reason"]) == ("not_scored", "not_an_image")
    assert (by_path["cut.jpg"]["verdict"], by_path["cut.jpg"]["reason"]) == ("not_scored", "truncated")
    for row in by_path.values():
        numbers = [row[name] for name in ("anomaly_score", "nelbo_nats", "threshold", "p_value", "q_value")]
        assert all(number is None for number in numbers) == (row["verdict"] == "not_scored")
        assert (row["reason"] is None) == (row["verdict"] != "not_scored")


def test_the_columns_of_a_row_are_consistent(images: Path, workspace: Path) -> None:
    result = score(images / "new", workspace)
    table = read_table(Path(result["scores"])).filter(pc.is_valid(read_table(Path(result["scores"]))["anomaly_score"]))
    column = {
        name: table[name].to_numpy()
        for name in table.column_names
        if pa.types.is_floating(table.schema.field(name).type)
    }
    scale = np.abs(column["distortion_nats"]) + column["rate_nats"]
    assert (np.abs(column["distortion_nats"] + column["rate_nats"] - column["nelbo_nats"]) <= 1e-5 * scale).all()
    np.testing.assert_allclose(column["bits_per_dim"], column["nelbo_nats"] / (32 * 32 * np.log(2)) + 8, rtol=1e-5)
    calibration = workspace / "calibrations" / result["calibration_id"] / "scores.parquet"
    normal = read_table(calibration)["anomaly_score"].to_numpy()
    np.testing.assert_array_equal(column["p_value"], p_values(column["anomaly_score"], normal))
    np.testing.assert_array_equal(column["q_value"], q_values(column["p_value"]))
    anomalous = np.array(table["verdict"].to_pylist()) == "anomalous"
    np.testing.assert_array_equal(anomalous, column["anomaly_score"] > column["threshold"])
    np.testing.assert_array_equal(anomalous, column["p_value"] <= 0.05)
    assert anomalous.sum() == result["n_anomalous"]


def test_blots_are_found_and_drawn(images: Path, workspace: Path) -> None:
    result = score(images / "new", workspace)
    flagged = read_table(Path(result["flagged"]))
    assert flagged.schema.equals(FLAGGED_SCHEMA, check_metadata=False)
    names = flagged["relative_path"].to_pylist()
    assert {f"b/blot_3_{i:03d}.png" for i in range(6)} <= set(names)
    assert len(names) <= 10
    for row in flagged.to_pylist():
        assert Image.open(io.BytesIO(row["thumbnail"])).size == (32, 32)
        map_ = np.array(row["map"], np.float32)
        assert map_.shape == (32, 32)
        assert row["map_low"] < map_.max()
        # The map is highest on the blot, which is dark.
        if row["relative_path"].startswith("b/blot"):
            thumbnail = np.asarray(Image.open(io.BytesIO(row["thumbnail"])), float)
            assert thumbnail[map_ > row["map_high"]].mean() < thumbnail.mean() - 20
            assert "darker" in row["why"]


def test_kept_rows_of_unflagged_images_equal_those_of_flagged_ones(
    images: Path, workspace: Path, tmp_path: Path
) -> None:
    result = score(images / "new", workspace, audit=5)
    kept = {kind: read_table(Path(result[kind])) for kind in ("audit", "near")}
    assert all(table.schema.equals(FLAGGED_SCHEMA, check_metadata=False) for table in kept.values())
    assert {kind: table.num_rows for kind, table in kept.items()} == {"audit": 5, "near": 12}
    sample = pa.concat_tables(kept.values())
    # With another threshold nearly all images are flagged.
    write_images(tmp_path / "more", 40, seed=11)
    low = calibrate(workspace, normal=str(tmp_path / "more"), fpr=0.95)["calibration_id"]
    flagged = read_table(Path(score(images / "new", workspace, calibration=low)["flagged"])).to_pylist()
    seen = {row["relative_path"]: row for row in flagged}
    for row in sample.to_pylist():
        assert (row["verdict"], row["why"]) == ("normal", None)
        assert row["anomaly_score"] <= row["threshold"]
        for name in ("map", "map_low", "thumbnail", "anomaly_score"):
            assert row[name] == seen[row["relative_path"]][name], name


def test_each_flagged_image_says_why_and_no_other(images: Path, workspace: Path) -> None:
    for row in rows(score(images / "new", workspace)["scores"]).to_pylist():
        assert (row["why"] is not None) == (row["verdict"] == "anomalous")
        if row["why"] is not None:
            n_at_least, n = re.search(r"(None|\d+) of (\d+) normal images scores? as high\.$", row["why"]).groups()  # type: ignore[union-attr]
            assert row["p_value"] == (1 + int(n_at_least.replace("None", "0"))) / (int(n) + 1)


def test_scoring_again_gives_the_same_rows_and_replaces_them(images: Path, workspace: Path) -> None:
    first = score(images / "new", workspace)
    before = rows(first["scores"])
    second = score(images / "new", workspace, shard_size=5)
    assert first["batch_id"] == second["batch_id"]
    assert first["run_id"] != second["run_id"]
    assert rows(second["scores"]).equals(before)
    assert read_scores(workspace / "scores").num_rows == 28
    assert list((workspace / "_staging").iterdir()) == []


def test_a_single_image_is_scored_under_a_given_batch_id(images: Path, workspace: Path) -> None:
    image = images / "new" / "b" / "blot_3_000.png"
    result = score(image, workspace, batch_id="night-1")
    assert result["batch_id"] == "night-1"
    whole = read_table(Path(score(images / "new", workspace)["scores"]))
    one = read_table(Path(result["scores"]))
    (same,) = (row for row in whole.to_pylist() if row["relative_path"] == "b/blot_3_000.png")
    # The other images of a batch do not affect the score; they affect q.
    assert one["nelbo_nats"][0].as_py() == same["nelbo_nats"]
    assert one["anomaly_score"][0].as_py() == same["anomaly_score"]


def test_an_uncalibrated_run_gives_numbers_without_verdicts(images: Path, workspace: Path) -> None:
    result = score(images / "new", workspace, uncalibrated=True)
    table = read_table(Path(result["scores"]))
    assert result["calibration_id"] is None
    assert set(table["verdict"].to_pylist()) == {None, "not_scored"}
    assert table["p_value"].null_count == table.num_rows
    assert "without verdicts" in Path(result["report"]).read_text()


def test_labels_give_metrics(images: Path, workspace: Path, tmp_path: Path) -> None:
    listed = [f"a/tile_2_{i:03d}.png,0" for i in range(20)] + [f"b/blot_3_{i:03d}.png,1" for i in range(6)]
    (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(listed) + "\n")
    metrics = score(tmp_path / "list.csv", workspace, root=str(images / "new"))["metrics"]
    assert (metrics["n_normal"], metrics["n_anomalous"], metrics["detected"]) == (20, 6, 6)
    assert metrics["auroc"]["value"] > 0.95


def test_labels_without_a_calibration_give_no_counts_of_verdicts(images: Path, workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\na/tile_2_000.png,0\nb/blot_3_000.png,1\n")
    result = score(tmp_path / "list.csv", workspace, root=str(images / "new"), uncalibrated=True)
    assert (result["metrics"]["false_alarms"], result["metrics"]["realised_fpr"]) == (None, None)
    assert result["metrics"]["auroc"]["value"] == 1
    assert "false alarms</td>" not in Path(result["report"]).read_text()


def test_a_workspace_in_the_folder_is_no_part_of_the_batch(images: Path, workspace: Path, tmp_path: Path) -> None:
    """As it is for ``nelbo score .`` with the default workspace."""
    shutil.copytree(images / "new", tmp_path, dirs_exist_ok=True)
    first, second = score(tmp_path, workspace), score(tmp_path, workspace)
    assert (first["n_images"], first["batch_id"]) == (28, second["batch_id"])


def test_a_batch_ingested_again_while_it_is_scored_is_not_published(
    images: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nelbo.flows.steps import score as scoring

    real = scoring.publish

    def publish_late(shards: Any, run: Any) -> Any:
        other = IngestOptions(images=str(images / "normal"), workspace=str(workspace), batch_id="same")
        execute("ingest", other, prefect=False)
        return real(shards, run)

    monkeypatch.setattr(scoring, "publish", publish_late)
    with pytest.raises(RuntimeError, match="ingested again"):
        score(images / "new", workspace, batch_id="same")
    assert not (workspace / "scores").exists()


def test_a_new_calibration_becomes_current_and_the_old_one_stays_usable(
    images: Path, workspace: Path, trained: Trained
) -> None:
    model_id = trained[1]["model_id"]
    options = CalibrateOptions(normal=str(images / "normal"), workspace=str(workspace), fpr=0.1)
    result = execute("calibrate", options, prefect=False)
    # In the folder of training images, only the held-out part counts.
    assert (result["n_calibration"], result["n_left_out"]) == (19, 61)
    assert result["model_id"] == model_id
    assert result["calibration_id"] != trained[1]["calibration_id"]
    assert result["threshold"] <= trained[1]["threshold"]
    assert pointers.current_calibration(Workspace.at(str(workspace)), model_id) == result["calibration_id"]
    by_default = score(images / "new", workspace)
    assert by_default["calibration_id"] == result["calibration_id"]
    by_name = score(images / "new", workspace, calibration=trained[1]["calibration_id"])
    assert by_name["calibration_id"] == trained[1]["calibration_id"]
    # The same request again gives the same calibration.
    assert execute("calibrate", options, prefect=False)["calibration_id"] == result["calibration_id"]


@pytest.mark.parametrize("objective", ["f1", "youden"])
def test_a_calibration_on_labels_promises_no_rate(
    images: Path, workspace: Path, tmp_path: Path, objective: str
) -> None:
    listed = [f"a/tile_2_{i:03d}.png,0" for i in range(20)] + [f"b/blot_3_{i:03d}.png,1" for i in range(6)]
    (tmp_path / "list.csv").write_text("path,label\n" + "\n".join([*listed, "notes.txt,"]) + "\n")
    options = CalibrateOptions(
        labels=str(tmp_path / "list.csv"), objective=objective, root=str(images / "new"), workspace=str(workspace)
    )
    result = execute("calibrate", options, prefect=False)
    # One half of the images chose the threshold, the other judges it.
    assert (result["fpr"], result["objective"], result["n_calibration"]) == (None, objective, 10)
    judged = result["judged"]
    assert (judged["n_normal"], judged["n_anomalous"], judged["detected"]) == (10, 3, 3)
    scored = score(images / "new", workspace, calibration=result["calibration_id"])
    assert scored["n_anomalous"] == 6
    table = read_table(Path(scored["scores"]))
    # p-values compare with the normal images among those that chose.
    assert pc.min(table["p_value"]).as_py() == pytest.approx(1 / 11)
    assert "no promised rate" in Path(scored["report"]).read_text()
    # All of these images took part in training or calibration, so none may judge the model.
    labelled = score(tmp_path / "list.csv", workspace, root=str(images / "new"), calibration=result["calibration_id"])
    assert "metrics" not in labelled
    assert (
        "All 26 labelled images had a part in the training or the calibration" in Path(labelled["report"]).read_text()
    )


def test_report_writes_the_same_page_again(images: Path, workspace: Path) -> None:
    scored = score(images / "new", workspace)
    page = Path(scored["report"]).read_text()
    Path(scored["report"]).unlink()
    result = execute("report", ReportOptions(batch=scored["batch_id"], workspace=str(workspace)), prefect=False)
    assert Path(result["report"]).read_text() == page


def test_shards_share_batches_and_give_the_same_rows(
    images: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nelbo import vae_core

    real, computed, decoded = vae_core.score_and_map, list[int](), list[int]()

    def counted(model: Any, pixels: np.ndarray, chosen: Any) -> Any:
        computed.append(len(pixels))
        return real(model, pixels, chosen)

    def counted_files(files: Any, *arguments: Any, **options: Any) -> Any:
        for images in iter_images(files, *arguments, **options):
            decoded.append(len(images.reasons))
            yield images

    monkeypatch.setattr(vae_core, "score_and_map", counted)
    monkeypatch.setattr("nelbo.flows.inference.pipeline.iter_images", counted_files)
    whole = score(images / "new", workspace, batch_id="whole")
    pieces = score(images / "new", workspace, batch_id="pieces", shard_size=1)
    # Each run computes each image one time, flagged or not, including its page.
    assert sum(computed) == 2 * whole["n_scored"]
    assert sum(decoded) <= 2 * whole["n_images"]
    assert whole["n_anomalous"] > 5
    for name in ("scores", "flagged"):
        assert rows(pieces[name]).to_pylist() == rows(whole[name]).to_pylist()
    assert rows(pieces["flagged"])["map"].null_count == 0


def test_a_failed_run_publishes_nothing(images: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nelbo.flows.inference import publishing
    from nelbo.flows.steps import score as scoring

    before = score(images / "new", workspace)
    kept = rows(before["scores"])

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publishing, "_decide", fail)
    with pytest.raises(SpaceError, match="Free space and run the same command again"):
        score(images / "new", workspace)
    assert rows(before["scores"]).equals(kept)
    # The next run reuses the shard that is scored.
    assert len(list((workspace / "_staging").rglob("*.parquet"))) == 1
    monkeypatch.undo()
    monkeypatch.setattr(scoring, "score_files", fail)
    assert rows(score(images / "new", workspace)["scores"]).equals(kept)
    assert list((workspace / "_staging").iterdir()) == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as found:
        yield found


@pytest.fixture
def here(server: Prefect) -> Iterator[None]:
    """Make this process a client of the server."""
    with server.here():
        yield


def latest_artifacts() -> dict[str, str]:
    """Key -> content of the newest artifact."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return {artifact.key: artifact.data for artifact in client.read_latest_artifacts()}


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_the_chain_through_prefect_gives_the_same_rows(images: Path, tmp_path: Path) -> None:
    chains = {}
    for name, prefect in (("direct", False), ("prefect", True)):
        workspace = str(tmp_path / name)
        train = TrainOptions(normal=str(images / "normal"), workspace=workspace, image_size=(32, 32), epochs=2)
        trained = execute("train", train, prefect)
        options = CalibrateOptions(normal=str(images / "normal"), workspace=workspace, fpr=0.1)
        calibrated = execute("calibrate", options, prefect)
        scored = execute("score", ScoreOptions(images=str(images / "new"), workspace=workspace, shard_size=6), prefect)
        ingested = execute("ingest", IngestOptions(images=str(images / "new"), workspace=workspace), prefect)
        reported = execute("report", ReportOptions(batch=scored["batch_id"], workspace=workspace), prefect)
        assert ingested["batch_id"] == scored["batch_id"] == reported["batch_id"]
        ids = (trained["model_id"], trained["threshold"], calibrated["calibration_id"])
        chains[name] = (ids, rows(scored["scores"]), rows(scored["flagged"]))
    artifacts = latest_artifacts()
    assert artifacts["model-card"].startswith("# Model card")
    assert [row["epoch"] for row in json.loads(artifacts["training-history"])] == [1, 2]
    assert chains["direct"][0] == chains["prefect"][0]
    assert chains["direct"][1].equals(chains["prefect"][1])
    assert chains["direct"][2].equals(chains["prefect"][2])


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_prefect_records_the_runs_and_their_tasks(
    images: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client

    monkeypatch.setitem(LEAST_IMAGES, "local", 1)
    options = ScoreOptions(images=str(images / "new"), workspace=str(workspace), shard_size=10)
    execute("score", options, prefect=None)
    with get_client(sync_client=True) as client:
        flow_runs = client.read_flow_runs()
        task_runs = client.read_task_runs()
    assert all(run.state is not None and run.state.is_completed() for run in flow_runs)
    newest = max(flow_runs, key=lambda run: run.created)
    assert newest.parameters["shard_size"] == 10
    names = sorted(re.sub(r"-\w{3}$", "", run.name) for run in task_runs if run.flow_run_id == newest.id)
    shards = [f"score shards {i} of 3" for i in (1, 2, 3)]
    assert names == ["freeze_batch", "publish", *shards, "write_report"]
    (scored,) = (workspace / "scores").glob("*/*")
    ids = [part.partition("=")[2] for part in (scored.name, scored.parent.name)]
    assert newest.name == f"{ids[0]} with {ids[1]}"
    artifacts = latest_artifacts()
    assert artifacts["progress"] == 100
    assert {row["what"]: row["value"] for row in json.loads(artifacts["summary"])}["n_images"] == 28
    assert f"[{workspace}/reports/{ids[0]}.html](file://{workspace}/reports/{ids[0]}.html)" in artifacts["report"]
    plot = base64.b64decode(artifacts["scores"].removeprefix("data:image/svg+xml;base64,"))
    assert ElementTree.fromstring(plot).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - our own


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_failing_shard_fails_the_flow(images: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nelbo.flows.steps import score as scoring

    real = scoring.score_files

    def fail_on_the_second(model: Any, files: Iterator[File], *how: Any) -> Any:
        files = list(files)
        if any("blot" in file.path for file in files):
            raise PermissionError(13, "Permission denied")
        return real(model, files, *how)

    monkeypatch.setattr(scoring, "score_files", fail_on_the_second)
    with pytest.raises(OSError, match="Permission denied"):
        execute(
            "score", ScoreOptions(images=str(images / "new"), workspace=str(workspace), shard_size=10), prefect=True
        )
    assert not (workspace / "scores").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_step_is_retried_after_a_storage_error(
    images: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nelbo.flows.orchestration import flows as orchestration
    from nelbo.flows.steps import score as scoring

    real, failures = scoring.score_files, [OSError(5, "Input/output error"), TimeoutError("slow")]

    def fail_twice(model: Any, files: Iterator[File], *how: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(model, files, *how)

    monkeypatch.setattr(scoring, "score_files", fail_twice)
    monkeypatch.setattr(orchestration, "_RETRY_S", 0)
    options = ScoreOptions(images=str(images / "new"), workspace=str(workspace))
    assert execute("score", options, prefect=True)["n_images"] == 28
    assert not failures


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_prefect_says_bad_input_without_a_traceback(
    tmp_path: Path, workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ScoreOptions(images=str(tmp_path / "none"), workspace=str(workspace))
    with pytest.raises(InputError, match="does not exist"):
        execute("score", options, prefect=True)
    assert "none does not exist" in caplog.text
    assert "Traceback" not in caplog.text


def test_flows_have_the_options_as_parameters() -> None:
    from nelbo.flows import orchestration as flows

    assert flows.__all__ == [
        "calibrate",
        "compact",
        "export",
        "ingest",
        "prune",
        "report",
        "score",
        "sensitivity",
        "train",
    ]
    for name in flows.__all__:
        kind = COMMANDS[name].options
        flow = getattr(flows, name)
        assert flow.name == name
        schema = flow.parameters.model_dump()
        # Options of the command line alone are left out.
        assert set(schema["properties"]) == {field for field, info in kind.model_fields.items() if not info.exclude}
        assert set(schema.get("required", ())) == {
            field for field, info in kind.model_fields.items() if info.is_required()
        }
    assert schema["properties"]["image_size"]["default"] == [256, 256]


def test_regions_are_where_the_map_exceeds_its_calibrated_level(images: Path, workspace: Path) -> None:
    result = score(images / "new", workspace)
    regions, flagged = read_table(Path(result["regions"])), read_table(Path(result["flagged"]))
    assert regions.schema.equals(REGIONS_SCHEMA, check_metadata=False)
    calibration = workspace / "calibrations" / result["calibration_id"]
    kept = json.loads((calibration / "calibration.json").read_text())["region_level"]
    assert json.loads(regions.schema.metadata[b"nelbo.region_level"]) == kept
    # The rule of the threshold, applied to the largest values of normal images' maps.
    peaks = read_table(calibration / "scores.parquet")["map_peak"].to_numpy()
    assert kept["value"] == conformal_threshold(peaks, 0.05)
    assert (kept["fpr"], kept["n_calibration"], kept["objective"]) == (0.05, len(peaks), "conformal")
    (run,) = read_table(workspace / "runs" / f"{result['run_id']}.parquet").to_pylist()
    assert (run["n_regions"], run["no_regions"]) == (result["n_regions"], result["no_regions"])
    assert (result["n_regions"], result["no_regions"]) == (regions.num_rows, None)
    found = {row["relative_path"]: [] for row in flagged.to_pylist()}
    for row in regions.to_pylist():
        found[row["relative_path"]].append(row)
    for row in flagged.to_pylist():
        assert (row["upright_width_px"], row["upright_height_px"]) == (32, 32)
        map_, own = np.array(row["map"], np.float32), found[row["relative_path"]]
        # The stored map has a precision of 11 bits.
        units = (map_ - row["map_low"]) / (row["map_level"] - row["map_low"])
        above = without_halos(units, 1.0) > 1
        mask = np.logical_or.reduce([decode(one["mask"], (32, 32)) for one in own] or [np.zeros((32, 32), bool)])
        assert (mask != above).sum() <= 0.02 * above.size
        assert [one["region_id"] for one in own] == [*range(len(own))]
        assert all(one["peak"] > kept["value"] for one in own)
    assert all(found[f"b/blot_3_{i:03d}.png"] for i in range(6))


def test_a_calibration_of_an_earlier_version_has_no_regions_and_says_so(
    images: Path, workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As schema version 8 wrote it: without the column and the level."""
    place = Workspace.at(str(workspace))
    current = calibration_of(place, pointers.promoted(place) or "")
    assert current is not None
    folder = workspace / "calibrations" / current.calibration_id
    content = json.loads((folder / "calibration.json").read_text())
    del content["region_level"]
    rows_of = pq.read_table(folder / "scores.parquet").drop_columns("map_peak")
    old_id = calibration_id(content, rows_of)
    old = folder.with_name(old_id)
    old.mkdir()
    write_json({**content, "calibration_id": old_id}, old / "calibration.json")
    pq.write_table(rows_of.replace_schema_metadata({"nelbo.schema_version": "8"}), old / "scores.parquet")
    hashes = {
        name: hashlib.sha256((old / name).read_bytes()).hexdigest() for name in ("calibration.json", "scores.parquet")
    }
    write_json(hashes, old / "checksums.json")
    caplog.clear()
    with caplog.at_level("WARNING", logger="nelbo"):
        result = score(images / "new", workspace, calibration=old_id)
    assert result["n_anomalous"] >= 6
    assert result["n_regions"] is None
    assert "calibrate again" in result["no_regions"]
    assert any(
        "no regions: the calibration was made by a version without regions" in message for message in caplog.messages
    )
    regions = read_table(Path(result["regions"]))
    assert regions.num_rows == 0
    assert regions.schema.metadata[b"nelbo.no_regions"].decode() == result["no_regions"]
    (run,) = read_table(workspace / "runs" / f"{result['run_id']}.parquet").to_pylist()
    assert (run["n_regions"], run["no_regions"]) == (None, result["no_regions"])
    flagged = read_table(Path(result["flagged"]))
    assert flagged["map_level"].null_count == flagged.num_rows
    # Outlines are drawn as in that version.
    assert outline_of(flagged.to_pylist()[0])
    # Without any calibration nothing is flagged.
    plain = score(images / "new", workspace, uncalibrated=True)
    assert (plain["n_regions"], plain["no_regions"]) == (None, "there is no calibration")


def test_normal_images_set_the_level_of_regions_and_labels_keep_it(
    images: Path, workspace: Path, tmp_path: Path
) -> None:
    """Normal images and a rate set it; labels and reviews leave it unchanged."""
    place = Workspace.at(str(workspace))
    first = read_calibration(place, score(images / "new", workspace)["calibration_id"])
    write_images(tmp_path / "normal", 40, seed=21)
    other = read_calibration(place, calibrate(workspace, normal=str(tmp_path / "normal"), fpr=0.2)["calibration_id"])
    assert first.region_level is not None
    assert other.region_level is not None
    assert other.region_level.threshold.fpr == 0.2
    assert other.region_level != first.region_level
    good, bad = (
        write_images(tmp_path / "labelled", n, seed=seed, blot=blot)
        for n, seed, blot in ((30, 22, False), (12, 23, True))
    )
    labels = [*((path, 0) for path in good), *((path, 1) for path in bad)]
    table = write_list(tmp_path / "labels.csv", "path,label", labels)
    chosen = calibrate(workspace, labels=str(table), objective="f1")
    assert read_calibration(place, chosen["calibration_id"]).region_level == other.region_level
    # If there is no level yet, the normal images among the labelled ones set it.
    latest = json.loads((workspace / "latest.json").read_text())
    (workspace / "latest.json").write_text(json.dumps({**latest, "calibrations": {}}))
    alone = read_calibration(place, calibrate(workspace, labels=str(table), objective="youden")["calibration_id"])
    assert alone.region_level is not None
    assert (alone.region_level.threshold.fpr, alone.region_level.threshold.n_calibration) == (0.05, 30)
