"""Workspaces in object stores, against an S3 server: the same results as on a disk, written in full or not at all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from buckets import s3_server
from reviewing import review
from servers import wait_for

import nelbo
from nelbo.data import (
    RUNS_SCHEMA,
    SCORES_SCHEMA,
    InputError,
    atomic_path,
    open_place,
    read_scores,
    read_table,
    write_scores,
    write_table,
)
from nelbo.flows.inference import models
from nelbo.flows.options.options import (
    CalibrateOptions,
    CompactOptions,
    IngestOptions,
    PruneOptions,
    ReportOptions,
    ScoreOptions,
    TrainOptions,
)
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.steps import prune as retention
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace import layout as workspaces
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.flagged import BESIDE
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import record_review

Trained = tuple[Path, dict[str, Any]]

OF_THE_RUN = ["run_id", "scored_at_utc"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The file system of an S3 server with one empty bucket, configured only by environment variables."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-printed")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    _forget()
    files = fsspec.filesystem("s3", use_listings_cache=False)
    files.mkdir("bucket")
    yield files
    files.rm("bucket", recursive=True)
    _forget()


def _forget() -> None:
    """Clear what this process remembers of a store."""
    workspaces._open.cache_clear()
    models._load.cache_clear()
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture
def bucket(s3: Any, trained: Trained) -> str:
    """The trained workspace, uploaded."""
    return upload(s3, trained[0])


def upload(s3: Any, workspace: Path) -> str:
    s3.put(f"{workspace}/", "bucket/work/space/", recursive=True)
    return "s3://bucket/work/space"


def rows(name: str) -> pa.Table:
    return read_table(open_place(name)).drop_columns(OF_THE_RUN)


@pytest.mark.slow
def test_the_whole_chain_gives_the_rows_of_a_local_workspace(images: Path, s3: Any, tmp_path: Path) -> None:
    said, normal = {}, str(images / "normal")

    def train(workspace: str) -> dict[str, Any]:
        options = TrainOptions(normal=normal, workspace=workspace, image_size=(32, 32), epochs=2)
        return execute("train", options, prefect=False)

    for workspace in (str(tmp_path / "local"), "s3://bucket/deep/er"):
        trained = train(workspace)
        calibrated = execute("calibrate", CalibrateOptions(normal=normal, workspace=workspace, fpr=0.1), prefect=False)
        scored = execute(
            "score", ScoreOptions(images=str(images / "new"), workspace=workspace, shard_size=9), prefect=False
        )
        assert trained["model_id"] == calibrated["model_id"] == catalog.find_model(Workspace.at(workspace), "latest")
        ids = (trained["model_id"], calibrated["calibration_id"], scored["batch_id"], scored["n_anomalous"])
        regions = Workspace.at(workspace).regions(trained["model_id"], scored["batch_id"])
        said[workspace] = (
            ids,
            rows(scored["scores"]),
            rows(scored["flagged"]),
            read_table(regions).drop_columns("run_id"),
        )
    # Training on the same images again finds the model in the store.
    assert train(workspace)["model_id"] == trained["model_id"]
    local, remote = said.values()
    assert local[0] == remote[0]
    assert local[1].equals(remote[1])
    assert local[2].equals(remote[2])
    assert local[3].equals(remote[3])
    names = {name.removeprefix("bucket/deep/er/").partition("/")[0] for name in s3.find("bucket")}
    kinds = {"calibrations", "cards", "flagged", "history", "latest.json", "manifests", "models", "reports", "runs"}
    assert names == kinds | {"audit", "looks", "near", "normals", "regions", "scores", "sensitivity"}
    # Files that need a disk lie in a private folder, and are deleted when the training ends.
    (private,) = (tmp_path / "caches" / "nelbo").iterdir()
    assert private.stat().st_mode & 0o077 == 0
    assert not [path for path in private.rglob("*") if path.is_file()]


def test_score_and_the_read_only_commands_work_in_a_bucket(
    images: Path, bucket: str, s3: Any, trained: Trained, tmp_path: Path, nelbo: Callable[..., Any]
) -> None:
    local = shutil.copytree(trained[0], tmp_path / "local")
    results = []
    for workspace in (str(local), bucket):
        code, out, err = nelbo("score", images / "new", "--workspace", workspace, "--json", "--no-prefect")
        assert code == 0, err
        results.append(json.loads(out))
        assert "never-printed" not in out + err
        assert "AKIDTEST" not in out + err
    first, second = results
    assert second["scores"].startswith(bucket + "/scores/model_id=")
    assert rows(first["scores"]).equals(rows(second["scores"]))
    assert rows(first["flagged"]).equals(rows(second["flagged"]))
    assert read_scores(bucket + "/scores").num_rows == read_scores(str(local / "scores")).num_rows == 28
    assert open_place(second["report"]).read_text().startswith("<!doctype html>")
    at = ("--workspace", bucket, "--json")
    for command in ("models", "batches", "calibrations", "verify", "doctor"):
        code, out, err = nelbo(command, *at)
        assert code == 0, err
        found = json.loads(out)
        if command == "batches":
            assert [row["batch_id"] for row in found["batches"]] == [first["batch_id"]]
        if command == "doctor":
            assert found["workspace_writable"] is True
    code, out, err = nelbo("report", "--batch", first["batch_id"], *at, "--no-prefect")
    assert (code, json.loads(out)["model_id"]) == (0, first["model_id"]), err
    code, out, err = nelbo("calibrate", "--compare", *at)
    assert (code, json.loads(out)["batch_id"]) == (0, first["batch_id"]), err
    everything = b"".join(s3.cat_file(name) for name in s3.find("bucket"))
    assert b"PAR1" in everything
    assert b"never-printed" not in everything


def test_the_python_interface_works_in_a_bucket(images: Path, bucket: str, trained: Trained) -> None:
    ws = nelbo.Workspace(bucket)
    assert ws.model().threshold == trained[1]["threshold"]
    batch = ws.score(images / "new")
    assert str(batch.report) == f"{bucket}/reports/{batch.batch_id}.html"
    (row,) = batch.flagged[:1].to_dict("records")
    assert ws.scorer()(images / "new" / row["relative_path"]).anomaly_score == row["anomaly_score"]
    assert ws.batches["batch_id"].tolist() == [batch.batch_id]


def test_a_model_without_its_last_file_is_not_listed(bucket: str, s3: Any, trained: Trained) -> None:
    model_id, calibration_id = trained[1]["model_id"], trained[1]["calibration_id"]
    s3.rm(f"bucket/work/space/calibrations/{calibration_id}/checksums.json")
    workspace = Workspace.at(bucket)
    with pytest.raises(UsageError, match="is not in workspace s3://bucket/work/space, which has none"):
        catalog.find_calibration(workspace, calibration_id)
    s3.rm(f"bucket/work/space/models/{model_id}/checksums.json")
    with pytest.raises(UsageError, match="is not in workspace"):
        catalog.find_model(workspace, model_id)


def test_a_damaged_model_is_named_by_its_url(bucket: str, s3: Any, trained: Trained, nelbo: Callable[..., Any]) -> None:
    s3.pipe_file(f"bucket/work/space/models/{trained[1]['model_id']}/weights.safetensors", b"x")
    code, _, err = nelbo("verify", "--workspace", bucket)
    assert code == 2
    assert f"nelbo: {bucket}/models/{trained[1]['model_id']}/weights.safetensors has SHA-256" in err
    s3.rm(f"bucket/work/space/models/{trained[1]['model_id']}/weights.safetensors")
    assert "is not a whole bundle" in nelbo("verify", "--workspace", bucket)[2]


@pytest.mark.usefixtures("s3")
def test_readers_see_the_old_rows_or_the_new_ones() -> None:
    """Batches of different sizes replace each other under one key, as fast as possible."""
    target = open_place("s3://bucket/scores/model_id=m/batch_id=b/scores.parquet")
    empty = dict.fromkeys(SCORES_SCHEMA.names)
    tables = []
    for letter, n in (("a", 20_000), ("b", 50_000)):
        listed = [empty | {"relative_path": f"{letter}{i}", "run_id": letter} for i in range(n)]
        tables.append(pa.Table.from_pylist(listed, SCORES_SCHEMA))
    write_scores(tables[0], target)
    stop = threading.Event()
    failures: list[str] = []

    def publish() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            write_scores(tables[turn % 2], target)

    writer = threading.Thread(target=publish)
    writer.start()
    sizes, reads = set(), 0
    try:
        deadline = time.monotonic() + 60
        while len(sizes) < 2 or reads < 30:
            assert time.monotonic() < deadline
            reads += 1
            found = read_table(target, ["relative_path", "run_id"])
            runs = set(found["run_id"].to_pylist())
            if len(runs) != 1 or found.num_rows != {"a": 20_000, "b": 50_000}[runs.copy().pop()]:
                failures.append(f"{runs} {found.num_rows}")
            sizes.add(found.num_rows)
    finally:
        stop.set()
        writer.join()
    assert not failures


def test_prune_and_compact_work_in_a_bucket(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace.at("s3://bucket").prepare()
    for kind in ("scores", *BESIDE):
        s3.pipe_file(f"bucket/{kind}/model_id=m1/batch_id=b1/{kind}.parquet", b"x")
    s3.pipe_file("bucket/_staging/r1/shard.parquet", b"x")
    s3.pipe_file("bucket/mine.txt", b"mine")
    for number in range(3):
        row = dict.fromkeys(RUNS_SCHEMA.names) | {"run_id": f"r20201001T000000-{number:08x}"}
        table = pa.Table.from_pylist([row], RUNS_SCHEMA)
        write_table(table, workspace.runs / f"{row['run_id']}.parquet", RUNS_SCHEMA)
    joined = execute("compact", CompactOptions(workspace="s3://bucket"), prefect=False)
    assert joined == {"n_months": 1, "n_files": 3, "n_rows": 3, "n_reviews": 0}
    (month,) = s3.find("bucket/runs")
    assert read_table(open_place(f"s3://{month}")).num_rows == 3
    options = PruneOptions(workspace="s3://bucket", older_than="12h", apply=True)
    assert execute("prune", options, prefect=False)["n"] == 0
    monkeypatch.setattr(retention.time, "time", lambda real=time.time: real() + 86_400)
    done = execute("prune", options, prefect=False)
    assert [item["kind"] for item in done["items"]][: 1 + len(BESIDE)] == ["scores", *BESIDE]
    assert s3.find("bucket") == ["bucket/mine.txt"]


def test_a_review_is_an_object_that_is_never_overwritten(s3: Any) -> None:
    workspace = Workspace.at("s3://bucket/reviewed")
    with ThreadPoolExecutor(4) as threads:
        written = list(threads.map(lambda i: record_review(workspace, review(1, reviewer=f"R{i}")), range(4)))
    assert written.count(True) == 1
    assert catalog.all_rows(workspace, "reviews")["reviewer"].to_pylist() == [f"R{written.index(True)}"]
    record_review(workspace, review(2))
    assert execute("compact", CompactOptions(workspace="s3://bucket/reviewed"), prefect=False)["n_reviews"] == 2
    assert not record_review(workspace, review(2, note="again"))
    assert catalog.all_rows(workspace, "reviews")["review_id"].to_pylist() == ["v1", "v2"]
    assert len(s3.find("bucket/reviewed/reviews")) == 1


def test_an_unfinished_upload_leaves_the_old_object(s3: Any) -> None:
    target = open_place("s3://bucket/a.txt")
    with atomic_path(target) as file:
        file.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as file:
        file.write_text(f"new {1 / 0}")
    assert target.read_text() == "old"
    assert s3.find("bucket") == ["bucket/a.txt"]


@pytest.mark.slow
def test_a_killed_command_run_again_gives_the_same_rows(images: Path, exported: Path, s3: Any) -> None:
    bucket = upload(s3, exported)
    whole = execute("score", ScoreOptions(images=str(images / "new"), workspace=bucket, shard_size=2), prefect=False)
    expected = rows(whole["scores"])
    s3.rm("bucket/work/space/scores", recursive=True)
    program = [sys.executable, "-c", "from nelbo.flows.cli.main import main; main()"]
    options = ["--workspace", bucket, "--no-prefect", "--json", "--set", "shard_size=2"]
    command = [*program, "score", str(images / "new"), *options]

    def a_shard() -> bool:
        assert process.poll() is None
        return any(name.endswith(".parquet") for name in s3.find("bucket/work/space/_staging"))

    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(a_shard, "a shard", every=0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not s3.exists("bucket/work/space/scores")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert rows(json.loads(done.stdout)["scores"]).equals(expected)


@pytest.mark.parametrize(
    "name",
    ["s3://AKID:s3cr3t@bucket/x", "s3://bucket/x?secret=s3cr3t", "s3://bucket/x#s3cr3t", "https://user:s3cr3t@host/x"],
)
def test_credentials_in_the_url_are_refused_and_not_repeated(name: str, tmp_path: Path, nelbo: Any) -> None:
    with pytest.raises(UsageError, match="credentials come from the environment"):
        Workspace.at(name)
    for given in (("--workspace", name), ("--set", f"workspace={name}")):
        code, out, err = nelbo("ingest", tmp_path, *given)
        assert (code, out) == (2, "")
        assert "s3cr3t" not in err
        assert len(err.splitlines()) == 1


@pytest.mark.usefixtures("s3")
def test_a_bad_store_gives_an_error_of_one_line(
    images: Path, nelbo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(workspace: str, *words: str) -> None:
        code, _, err = nelbo("ingest", images / "new", "--workspace", workspace, "--no-prefect")
        assert code == 2, err
        assert len(err.splitlines()) == 1, err
        assert all(word in err for word in words), err
        assert "s3cr3t" not in err

    refused("s3://no-such-bucket/x", "s3://no-such-bucket/x cannot be reached", "bucket does not exist")
    refused("memory://", "expected a URL such as")
    refused("zip://a.zip::s3://bucket", "without ::")
    refused("nonsense://x/y", "Give a local path or a URL")
    refused("file://host/x", "three slashes")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:s3cr3t@127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    _forget()
    refused("s3://bucket/x", "s3://bucket/x cannot be reached")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    _forget()
    refused("s3://bucket/x", "s3://bucket/x cannot be reached", "Could not connect")


def test_a_store_that_fails_midway_gives_an_error_of_one_line(
    images: Path, bucket: str, nelbo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import EndpointConnectionError

    from nelbo.flows.steps import score as scoring

    def gone(*_: Any) -> None:
        raise EndpointConnectionError(endpoint_url="http://me:s3cr3t@127.0.0.1:9/bucket?token=s3cr3t")

    monkeypatch.setattr(scoring, "publish", gone)
    code, _, err = nelbo("score", images / "new", "--workspace", bucket, "--no-prefect")
    assert code == 1
    assert "http://127.0.0.1:9/bucket" in err
    assert "safe to run the same command again" in err
    assert "s3cr3t" not in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("s3")
def test_denied_access_gives_an_error_of_one_line(
    images: Path, nelbo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    async def denied(*_: Any, **__: Any) -> None:
        raise PermissionError("Access Denied")

    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "_call_s3", denied)
        code, _, err = nelbo("ingest", images / "new", "--workspace", "s3://bucket/x", "--no-prefect")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "cannot be reached (Access Denied)" in err


def test_a_missing_extra_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"].__dict__["_registry"], "s3", raising=False)
    workspaces._open.cache_clear()
    with pytest.raises(UsageError, match=r"pip install 'nelbo\[s3\]'"):
        Workspace.at("s3://bucket/extra")


def test_a_workspace_in_memory_can_be_read_back(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = IngestOptions(images=str(images / "new"), workspace="memory://ws")
    result = execute("ingest", options, prefect=False)
    assert result["manifest"].startswith("memory://")
    assert read_table(open_place(result["manifest"])).num_rows == 28
    options = ReportOptions(batch=result["batch_id"], workspace="memory://ws")
    with pytest.raises(UsageError, match="has no scores"):
        execute("report", options, prefect=False)


def test_columns_are_read_without_the_rest_of_the_object(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    target = open_place("s3://bucket/wide.parquet")
    noise = np.random.default_rng(0)
    table = pa.table({f"c{i}": noise.random(300_000) for i in range(30)} | {"small": np.zeros(300_000)})
    write_table(table, target, table.schema)
    size = s3.info("bucket/wide.parquet")["size"]
    fetched = []
    import s3fs.core

    fetch = s3fs.core._fetch_range

    def counted(*args: Any, **more: Any) -> bytes:
        data = fetch(*args, **more)
        fetched.append(len(data))
        return data

    monkeypatch.setattr(s3fs.core, "_fetch_range", counted)
    assert read_table(target, ["small"]).num_rows == 300_000
    assert 0 < sum(fetched) < size / 3


def test_an_object_that_is_not_parquet_is_refused(s3: Any) -> None:
    s3.pipe_file("bucket/bad.parquet", b"PAR1 and no more")
    with pytest.raises(InputError, match=r"s3://bucket/bad.parquet is not a readable Parquet file"):
        read_table(open_place("s3://bucket/bad.parquet"))
    with pytest.raises(InputError, match=r"s3://bucket/none.parquet does not exist"):
        read_table(open_place("s3://bucket/none.parquet"))
