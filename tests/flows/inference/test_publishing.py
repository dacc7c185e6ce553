"""A batch and its run: what readers see while files are replaced, and how the remains of a kill are repaired."""

import json
import logging
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import killed
import numpy as np
import pytest
from scored import MODEL, stub_workspace
from synthetic import write_images

from nelbo.data import read_metadata, read_table
from nelbo.flows.dashboard.tables import Tables
from nelbo.flows.inference import publishing
from nelbo.flows.options.options import CompactOptions, ScoreOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.steps import report as reporting
from nelbo.flows.workspace import journal
from nelbo.flows.workspace.flagged import BESIDE, NO_REGIONS
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run

CONTRACT = (Path(__file__).parents[3] / "docs" / "reference" / "data_contract.md").read_text(encoding="utf-8")
SECTION = CONTRACT.split("### Flagged rows of the published run\n")[1].split("\n### ")[0]
(SQL,), (PANDAS,) = (re.findall(rf"```{kind}\n(.*?)```", SECTION, re.DOTALL) for kind in ("sql", "python"))

#: Path, run, and whether there is a thumbnail.
Row = tuple[str, str, bool]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", 12, seed=5)
    write_images(tmp_path / "other", 3, seed=6)
    return tmp_path / "images"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("SCORED", str(tmp_path / "scored.txt"))
    for module, name, value in killed.stubs():
        monkeypatch.setattr(module, name, value)
    monkeypatch.chdir(tmp_path)
    return stub_workspace(tmp_path / "workspace")


def score(workspace: Workspace, images: Path, **options: Any) -> dict[str, Any]:
    asked = ScoreOptions(images=str(images), workspace=str(workspace.root), workers=1, **options)
    return execute("score", asked, prefect=False)


def by_sql() -> set[Row]:
    rows = duckdb.sql(SQL).fetchall()
    names = [column[0] for column in duckdb.sql(SQL).description]
    return {_row(dict(zip(names, row, strict=True))) for row in rows}


def by_pandas() -> set[Row]:
    scope: dict[str, Any] = {"print": lambda *_: None}
    exec(PANDAS, scope)  # noqa: S102 - our own document
    return {_row(row) for row in scope["flagged"].to_dict("records")}


def by_the_dashboard() -> set[Row]:
    rows = Tables(Workspace.at("workspace")).query("SELECT relative_path, run_id, thumbnail FROM flagged")
    return {_row(row) for row in rows.to_dict("records")}


def by_the_report() -> set[Row]:
    (path,) = Path("workspace").glob("scores/*/*/scores.parquet")
    _, flagged, n, _ = reporting._read(Workspace.at("workspace"), MODEL, path.parent.name.removeprefix("batch_id="))
    assert n == flagged.num_rows
    return {_row(row) for row in flagged.to_pylist()}


def _row(row: dict[str, Any]) -> Row:
    return row["relative_path"], row["run_id"], isinstance(row["thumbnail"], bytes | bytearray)


READERS = [by_sql, by_pandas, by_the_dashboard, by_the_report]


@pytest.fixture
def seen(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> list[set[Row]]:
    """What all readers agree on after each file of scores or flagged rows is put in place."""
    found: list[set[Row]] = []
    real = Path.replace

    def replace(path: Path, target: Path) -> Path:
        made = real(path, target)
        ours = Path(target).is_relative_to(str(workspace.root))
        if ours and Path(target).name in ("scores.parquet", "flagged.parquet") and has_scores(workspace):
            sights = [read() for read in READERS]
            assert all(sight == sights[0] for sight in sights)
            found.append(sights[0])
        return made

    monkeypatch.setattr(Path, "replace", replace)
    return found


def has_scores(workspace: Workspace) -> bool:
    return any(Path(str(workspace.root)).glob("scores/*/*/scores.parquet"))


def expected(result: dict[str, Any]) -> set[Row]:
    """The flagged rows of a run, by its scores."""
    rows = read_table(Path(result["scores"])).to_pylist()
    return {(row["relative_path"], result["run_id"], True) for row in rows if row["verdict"] == "anomalous"}


def test_flagged_rows_and_scores_of_two_runs_are_never_seen_together(
    workspace: Workspace, images: Path, seen: list[set[Row]]
) -> None:
    first = score(workspace, images)
    # Before the first commit there are no scores, and nothing is published.
    assert seen == [expected(first)]
    assert len(expected(first)) > 0
    old = expected(first)
    seen.clear()
    second = score(workspace, images)
    assert not expected(second) & old
    # Readers see the old run's rows, with thumbnails, until the commit, and the new run's rows after it.
    assert seen == [old, expected(second), expected(second)]


def test_an_engine_without_maps_has_no_regions_and_says_so(
    workspace: Workspace, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calibration has a level, computed with Keras, but an engine of version 0.1 scores."""
    result = score(workspace, images)
    assert result["n_regions"] > 0
    without = SimpleNamespace(**{**vars(publishing.load_model(workspace, MODEL, "onnx")), "map_scales": [[np.nan] * 2]})
    monkeypatch.setattr(publishing, "load_model", lambda *_: without)
    result = score(workspace, images)
    assert (result["n_regions"], result["no_regions"]) == (None, read_metadata(Path(result["regions"]))[NO_REGIONS])
    assert "nelbo export" in result["no_regions"]


def test_rows_and_files_carry_the_run_that_published_them(workspace: Workspace, images: Path) -> None:
    for _ in range(2):
        result = score(workspace, images)
        for name in ("scores", *BESIDE):
            path = Path(result[name])
            assert set(read_table(path)["run_id"].to_pylist()) == {result["run_id"]}
            assert read_metadata(path)["nelbo.run_id"] == result["run_id"]


@pytest.mark.slow
def test_a_batch_published_and_then_killed_has_its_run_row(images: Path, tmp_path: Path) -> None:
    """Killed at steps from before the commit to the end, during the first scoring of a batch and a second one."""
    model = tmp_path / "model"
    stub_workspace(model)

    def drive(*what: object) -> Any:
        (scratch := tmp_path / f"scratch-{what[0]}").mkdir()
        return killed.drive(model, images, scratch, *what)[0]

    n = drive("count")["events"]
    found = drive("commit", *range(n - 31, n + 1, 2))
    # A second scoring has about as many events as were counted.
    assert sum(one["code"] == -signal.SIGKILL for one in found) >= len(found) - 4
    published = 0
    for one in found:
        mended, in_the_end = one["mended"], one["in_the_end"]
        assert len(set(mended)) == len(mended)
        assert len(set(in_the_end)) == len(in_the_end)
        # Either nothing is published, or the run has its row once the next command has run.
        assert set(one["committed"]) <= set(mended)
        published += one["committed"] not in ([], one["recorded"][:1])
        # Flagged rows belong to the published run, and no others are left.
        assert len(set(one["shown"])) == 1
        assert not one["committed"] or one["flagged"] == one["committed"]
        # One page for the other batch, and one for the batch that was published before the kill.
        assert one["pages"] == 1 + len(one["committed"])
        assert one["again"] == 0
        # Files that were cut off are hidden.
        assert all(name.startswith(".") for name in one["left"])
        assert len(in_the_end) == len(mended) + 2
    assert 0 < published < len(found)


def published_and_killed(workspace: Workspace, images: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a run whose scores are published but that has no row."""
    with monkeypatch.context() as patch:
        patch.setattr(journal, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            score(workspace, images)
    (path,) = Path(workspace.root).glob("scores/*/*/scores.parquet")
    run_id = read_metadata(path)["nelbo.run_id"]
    assert run_id not in killed.run_ids(Path(workspace.root))
    return run_id


def test_a_repaired_row_says_what_it_would_have_said(
    workspace: Workspace, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = published_and_killed(workspace, images, monkeypatch)
    journal.settle(workspace)
    (row,) = read_table(workspace.runs / f"{run_id}.parquet").to_pylist()
    assert row["command"] == "score"
    assert (row["n_images"], row["n_scored"], row["n_not_scored"], row["n_waiting"]) == (12, 12, 0, 0)
    assert row["fpr"] == 0.05
    assert row["images_per_s"] > 0
    assert isinstance(row["drift"], bool)
    assert row["model_id"] == MODEL
    assert read_metadata(workspace.runs / f"{run_id}.parquet")["nelbo.config_hash"] == row["config_hash"]


def test_a_row_that_was_joined_is_not_written_again(
    workspace: Workspace, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = published_and_killed(workspace, images, monkeypatch)
    journal.settle(workspace)
    Run("report", CompactOptions()).record(workspace)
    execute("compact", CompactOptions(workspace=str(workspace.root)), prefect=False)
    assert not (workspace.runs / f"{run_id}.parquet").exists()
    journal.settle(workspace)
    assert killed.run_ids(Path(workspace.root)).count(run_id) == 1


def test_a_workspace_that_cannot_be_written_to_is_read(
    workspace: Workspace, images: Path, monkeypatch: pytest.MonkeyPatch, nelbo: Any
) -> None:
    published_and_killed(workspace, images, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "record_row", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no")))
        code, out, err = nelbo("batches", "--workspace", workspace.root, "--json")
    assert code == 0
    assert json.loads(out)["batches"]
    assert "cannot be finished yet" in err


def test_a_page_that_cannot_be_rewritten_stops_nothing_else(
    workspace: Workspace, images: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from nelbo.flows.workspace.errors import UsageError

    published_and_killed(workspace, images, monkeypatch)

    def fail(*_: Any) -> None:
        raise UsageError("the model is gone")

    monkeypatch.setattr(reporting, "write_report", fail)
    with caplog.at_level(logging.WARNING):
        assert score(workspace, images.with_name("other"))["n_images"] == 3
    assert "stays without its page: the model is gone" in caplog.text
    assert list(Path(workspace.root).glob("_staging/journal.*")) == []
