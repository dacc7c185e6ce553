"""Reviews: each decision is stored one time, and ``calibrate --labels reviews`` uses them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import reviewing
from commands import calibrate
from joined import join
from reviewing import review
from synthetic import write_images

from nelbo.data import (
    DECISIONS,
    REVIEWS_SCHEMA,
    SCHEMA_VERSION,
    InputError,
    open_place,
    read_metadata,
    read_table,
    write_scores,
    write_table,
)
from nelbo.detectors import CalibrationError, labelled_threshold
from nelbo.flows.dashboard.tables import Tables
from nelbo.flows.options.options import CalibrateOptions, CompactOptions, ScoreOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.workspace import catalog, pointers
from nelbo.flows.workspace.calibrations.calibration import read_calibration, reference_rows
from nelbo.flows.workspace.errors import NotYetError, UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.models import seen_in_training
from nelbo.flows.workspace.reviews import disagreements, labels_of, latest_reviews, new_review_id, record_review

Trained = tuple[Path, dict[str, Any]]


@pytest.fixture(params=["disk", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty workspace, on a disk or in a store."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Workspace.at(str(tmp_path / "w") if request.param == "disk" else f"memory://{tmp_path.name}")


def test_a_decision_is_a_row(place: Workspace) -> None:
    before = datetime.now(UTC)
    assert record_review(place, review(1, note="crack?\n<b>", decision="anomalous", kind="<i>crack", reviewer="Zoë"))
    (path,) = place.reviews.iterdir()
    assert path.name == "v1.parquet"
    table = read_table(path)
    assert table.schema.equals(REVIEWS_SCHEMA)
    assert read_metadata(path) == {"nelbo.schema_version": str(SCHEMA_VERSION)}
    (row,) = table.to_pylist()
    assert before <= row.pop("reviewed_at_utc") <= datetime.now(UTC)
    assert row == {
        "review_id": "v1",
        "reviewer": "Zoë",
        "decision": "anomalous",
        "withdraws": None,
        "kind": "<i>crack",
        "note": "crack?\n<b>",
        "image_id": "0" * 63 + "1",
        "relative_path": "a/1.png",
        "model_id": "m1",
        "batch_id": "b1",
        "calibration_id": "c1",
        "verdict": "anomalous",
        "anomaly_score": 2.5,
    }
    assert not list(place.staging.glob("*"))


def test_a_form_that_is_sent_twice_is_one_row(place: Workspace) -> None:
    assert record_review(place, review(1))
    assert not record_review(place, review(1, decision="anomalous", note="another answer"))
    assert record_review(place, review(2, calibration_id=None))
    # After compaction the review has no file of its own.
    assert execute("compact", CompactOptions(workspace=str(place.root)), prefect=False) == {
        "n_months": 0,
        "n_files": 2,
        "n_rows": 2,
        "n_reviews": 2,
    }
    assert not record_review(place, review(1))
    assert [(row["review_id"], row["decision"]) for row in catalog.all_rows(place, "reviews").to_pylist()] == [
        ("v1", "normal"),
        ("v2", "normal"),
    ]
    assert [path.name[:4] for path in place.reviews.iterdir()] == ["all-"]


def test_threads_that_send_the_same_form_store_it_one_time(tmp_path: Path) -> None:
    workspace, start = Workspace(tmp_path), Barrier(8)

    def send(number: int) -> bool:
        start.wait()
        return record_review(workspace, review(1, reviewer=f"R{number}"))

    with ThreadPoolExecutor(8) as threads:
        written = list(threads.map(send, range(8)))
    assert written.count(True) == 1
    assert catalog.all_rows(workspace, "reviews")["reviewer"].to_pylist() == [f"R{written.index(True)}"]


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``reviewing.py`` finds, in a process that loads no network and can fork."""
    command = [sys.executable, reviewing.__file__, str(tmp_path_factory.mktemp("driven"))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_two_processes_that_send_the_same_forms_store_each_one_time(driven: dict[str, Any]) -> None:
    found = driven["race"]
    assert found["codes"] == [0, 0]
    assert sum(found["told"]) == 40
    # Both processes wrote some, so they did compete.
    assert min(found["told"]) > 0
    assert found["seen"] == sorted(f"v{number}" for number in range(40))


@pytest.mark.slow
def test_a_kill_leaves_no_half_review(driven: dict[str, Any]) -> None:
    *dead, alive = driven["record"]
    assert len(dead) >= 4
    assert {one["code"] for one in dead} == {-signal.SIGKILL}
    assert alive["code"] == 0
    for one in [*dead, alive]:
        assert one["seen"] in (["v0", "v1", "v2"], ["v0", "v1", "v2", "v9"])
        assert one["again"] == one["read"] == ["v0", "v1", "v2", "v9"]
    assert {len(one["seen"]) for one in dead} == {3, 4}


@pytest.mark.slow
def test_a_killed_compaction_loses_and_duplicates_nothing(driven: dict[str, Any]) -> None:
    *dead, alive = driven["compact"]
    assert len(dead) >= 6
    assert {one["code"] for one in dead} == {-signal.SIGKILL}
    for one in [*dead, alive]:
        assert sorted(set(one["seen"])) == one["again"] == one["read"] == ["v0", "v1", "v2"]
    # Some kills came while rows stood in two files.
    assert max(len(one["seen"]) for one in dead) > 3


def test_readers_see_whole_decisions_while_more_come_in(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    record_review(workspace, review(0))
    query = f"SELECT review_id, reviewer, decision FROM read_parquet('{workspace.reviews}/*.parquet')"  # noqa: S608
    sizes = []
    with ThreadPoolExecutor(1) as threads, duckdb.connect() as connection:
        writing = threads.submit(lambda: [record_review(workspace, review(number)) for number in range(1, 60)])
        while True:
            over = writing.done()
            rows = connection.execute(query).fetchall()
            assert {row[1:] for row in rows} == {("Ann", "normal")}
            assert len({row[0] for row in rows}) == len(rows)
            sizes.append(len(rows))
            if over:
                break
    assert sizes == sorted(sizes)
    assert sizes[-1] == 60
    assert len(set(sizes)) > 3


def test_every_review_is_read_during_compaction(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)

    def write() -> None:
        for number in range(40):
            record_review(workspace, review(number))
            if number % 4 == 3:
                reviewing.compact(workspace)

    sizes = []
    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write)
        while not writing.done():
            ids = catalog.all_rows(workspace, "reviews")["review_id"].to_pylist()
            assert sorted(ids, key=lambda name: int(name[1:])) == [f"v{number}" for number in range(len(ids))]
            sizes.append(len(ids))
        writing.result()
    assert sizes == sorted(sizes)
    assert catalog.all_rows(workspace, "reviews").num_rows == 40


def test_reviews_joined_while_their_folder_is_listed_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, glob, joined = Workspace(tmp_path), Path.glob, list[bool]()
    for number in range(3):
        record_review(workspace, review(number))

    def listed(folder: Path, pattern: str) -> list[Path]:
        found = [*glob(folder, pattern)]
        if folder == workspace.reviews and not joined:
            joined.append(True)
            reviewing.compact(workspace)
        return found

    monkeypatch.setattr(Path, "glob", listed)
    assert catalog.all_rows(workspace, "reviews").num_rows == 3
    assert joined


def decide(workspace: Workspace, *decisions: tuple[str, int, str, int] | tuple[str, int, str, int, str]) -> None:
    """Record decisions: (form, image, decision, second), and the reviewer if it is not Ann.

    For "withdrawn", the form that is taken back follows.
    """
    for review_id, number, said, second, *reviewer in decisions:
        decision, _, withdraws = said.partition(" ")
        changes = {"decision": decision, "withdraws": withdraws or None, "reviewer": (*reviewer, "Ann")[0]}
        row = vars(review(number, review_id=review_id, **changes))
        when = {"reviewed_at_utc": datetime(2026, 11, 1, 12, 0, second, tzinfo=UTC)}
        table = pa.Table.from_pylist([row | when], REVIEWS_SCHEMA)
        write_table(table, workspace.reviews / f"{review_id}.parquet", REVIEWS_SCHEMA)


def test_the_last_decision_counts_and_all_are_kept(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert catalog.all_rows(workspace, "reviews").schema.equals(latest_reviews(workspace).schema)
    assert catalog.all_rows(workspace, "reviews").schema.equals(REVIEWS_SCHEMA)
    decide(
        workspace,
        ("va", 1, "anomalous", 3),
        ("vb", 1, "normal", 1),
        ("vd", 2, "normal", 2),
        ("vc", 2, "anomalous", 2),
        ("ve", 3, "normal", 0),
    )
    assert catalog.all_rows(workspace, "reviews")["review_id"].to_pylist() == ["ve", "vb", "vc", "vd", "va"]
    latest = latest_reviews(workspace)
    assert latest["review_id"].to_pylist() == ["ve", "vd", "va"]
    assert latest["decision"].to_pylist() == ["normal", "normal", "anomalous"]
    assert [row[1] for row in as_documented(workspace)] == ["anomalous", "normal", "normal"]


def as_documented(workspace: Workspace) -> list[tuple[str, ...]]:
    """The decisions that count by the query of docs/reference/data_contract.md, in order of ``image_id``."""
    contract = (Path(__file__).parents[3] / "docs" / "reference" / "data_contract.md").read_text(encoding="utf-8")
    query = contract.split("```sql\n")[1].split("```")[0].replace("workspace/reviews", str(workspace.reviews))
    return duckdb.sql(query).fetchall()


def test_a_decision_that_is_taken_back_does_not_count(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    decide(
        workspace,
        # Ann takes back her last decision; Bob's, which hers had overruled, counts again.
        ("va", 1, "anomalous", 1, "Ann"),
        ("vb", 1, "normal", 2, "Bob"),
        ("vc", 1, "anomalous", 3, "Ann"),
        ("vd", 1, "withdrawn vc", 4, "Ann"),
        # Taken back, and decided again.
        ("ve", 2, "normal", 1),
        ("vf", 2, "withdrawn ve", 2),
        ("vg", 2, "anomalous", 3),
        # There was nothing to take back.
        ("vh", 3, "anomalous", 1, "Ann"),
        ("vi", 3, "withdrawn", 2, "Bob"),
        # Undecided again.
        ("vj", 4, "normal", 1),
        ("vk", 4, "withdrawn vj", 2),
        # Taken back by a clock that is behind.
        ("vl", 5, "normal", 5),
        ("vm", 5, "withdrawn vl", 4),
    )
    latest = latest_reviews(workspace)
    assert latest["review_id"].to_pylist() == ["vh", "vb", "vg"]
    assert [row[1] for row in as_documented(workspace)] == ["normal", "anomalous", "anomalous"]
    assert labels_of(latest) == {f"{1:064x}": 0, f"{2:064x}": 1, f"{3:064x}": 1}
    reviewing.compact(workspace)
    assert latest_reviews(workspace).equals(latest)
    assert catalog.all_rows(workspace, "reviews").num_rows == 13


def test_undo_takes_back_the_last_answer_alone(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)

    def counts() -> str:
        found = {one: label for one, label in labels_of(latest_reviews(workspace)).items() if one == f"{1:064x}"}
        shown = Tables(workspace).query("SELECT decision FROM reviews ORDER BY reviewed_at_utc DESC, review_id DESC")
        assert shown["decision"].tolist()[:1] == [DECISIONS[label] for label in found.values()]
        return "undecided" if not found else DECISIONS[found[f"{1:064x}"]]

    def say(form: str, **changes: Any) -> str:
        assert record_review(workspace, review(1, review_id=form, **changes))
        return counts()

    assert say("va") == "normal"
    assert say("vb", decision="anomalous") == "anomalous"
    assert say("vc", decision="withdrawn") == "normal"
    # A form sent twice takes back one decision; undo pressed twice takes back two.
    assert not record_review(workspace, review(1, review_id="vc", decision="withdrawn"))
    assert counts() == "normal"
    assert say("vd", decision="withdrawn") == "undecided"
    assert say("ve", decision="withdrawn") == "undecided"
    # A decision that is named need not be the last.
    assert say("vf") == "normal"
    assert say("vg", decision="anomalous") == "anomalous"
    assert say("vh", decision="withdrawn", withdraws="vf") == "anomalous"
    rows = catalog.all_rows(workspace, "reviews").to_pylist()
    assert {row["review_id"]: row["withdraws"] for row in rows if row["decision"] == "withdrawn"} == {
        "vc": "vb",
        "vd": "va",
        "ve": None,
        "vh": "vf",
    }


def test_a_reviewer_can_only_take_back_their_own_decisions(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    record_review(workspace, review(1))
    for changes in ({"reviewer": "Bob"}, {"image_id": f"{2:064x}"}, {"withdraws": "v9"}):
        taken_back = review(1, **{"review_id": "vx", "decision": "withdrawn", "withdraws": "v1", **changes})
        with pytest.raises(UsageError, match=r"expected a decision of (Ann|Bob) on a/1\.png"):
            record_review(workspace, taken_back)
    assert record_review(workspace, review(1, reviewer="Bob", review_id="vy", decision="withdrawn"))
    assert latest_reviews(workspace)["review_id"].to_pylist() == ["v1"]


def test_rows_that_are_passed_in_are_not_read_again(tmp_path: Path) -> None:
    workspace, elsewhere = Workspace(tmp_path / "a"), Workspace(tmp_path / "b")
    decide(
        workspace,
        ("va", 1, "anomalous", 1, "Ann"),
        ("vb", 1, "normal", 2, "Bob"),
        ("vc", 2, "normal", 3, "Ann"),
        ("vd", 2, "withdrawn vc", 4, "Ann"),
    )
    rows = catalog.all_rows(workspace, "reviews")
    # Rows may come in any order and with other columns.
    rows = rows.take(pa.array([2, 0, 3, 1])).append_column("filename", pa.array(["x"] * 4))
    assert latest_reviews(elsewhere, rows).equals(latest_reviews(workspace))
    assert disagreements(elsewhere, rows).equals(disagreements(workspace))
    assert disagreements(workspace)["review_id"].to_pylist() == ["va", "vb"]


@pytest.mark.parametrize("seed", range(5))
def test_random_histories_are_read_in_the_same_way_everywhere(seed: int, tmp_path: Path) -> None:
    """Read by Arrow, by the documented query, by the dashboard's tables, and one at a time."""
    workspace, random = Workspace(tmp_path), np.random.default_rng(seed)
    # Several decisions share a second; the id of the form then decides.
    moments = np.sort(random.integers(0, 30, 60)).tolist()
    history = []
    stands: dict[int, list[tuple[str, str, str]]] = {0: [], 1: [], 2: []}
    for n, second in enumerate(moments):
        review_id, image, decision = f"v{n:02}", int(random.integers(3)), DECISIONS[random.integers(3)]
        reviewer = "ABC"[random.integers(3)]
        own = [one for one in stands[image] if one[2] == reviewer]
        if decision != "withdrawn":
            stands[image].append((review_id, decision, reviewer))
        elif own:
            # Any of the reviewer's own decisions.
            taken_back = own[random.integers(len(own))]
            stands[image].remove(taken_back)
            decision = f"withdrawn {taken_back[0]}"
        history.append((review_id, image, decision, second, reviewer))
    decide(workspace, *history)
    last = sorted(standing[-1][:2] for standing in stands.values() if standing)
    assert latest_reviews(workspace)["review_id"].to_pylist() == [review_id for review_id, _ in last]
    assert sorted(row[1] for row in as_documented(workspace)) == sorted(decision for _, decision in last)
    rows = Tables(workspace).query("SELECT image_id, decision, reviewed_at_utc, review_id FROM reviews")
    shown = rows.sort_values(["reviewed_at_utc", "review_id"]).drop_duplicates("image_id", keep="last")
    assert sorted(shown["review_id"]) == [review_id for review_id, _ in last]
    of_each = [{reviewer: (form, decision) for form, decision, reviewer in standing} for standing in stands.values()]
    differing = [sorted(said.values()) for said in of_each if len({decision for _, decision in said.values()}) > 1]
    expected = [review_id for said in sorted(differing, key=max) for review_id, _ in said]
    assert disagreements(workspace)["review_id"].to_pylist() == expected


def test_unknown_decisions_are_ignored(tmp_path: Path) -> None:
    """Another program wrote the file."""
    workspace = Workspace(tmp_path)
    decide(workspace, ("va", 1, "normal", 1), ("vb", 1, "normal", 2), ("vc", 2, "normal", 2))
    for review_id, word in (("vb", "yes; DROP"), ("vc", None)):
        table = pq.read_table(workspace.reviews / f"{review_id}.parquet", partitioning=None)
        table = table.set_column(table.schema.get_field_index("decision"), "decision", pa.array([word], pa.string()))
        pq.write_table(table, workspace.reviews / f"{review_id}.parquet")
    assert latest_reviews(workspace)["review_id"].to_pylist() == ["va"]
    assert labels_of(latest_reviews(workspace)) == {f"{1:064x}": 0}
    assert disagreements(workspace).num_rows == 0
    assert Tables(workspace).query("SELECT review_id FROM reviews")["review_id"].tolist() == ["va"]
    assert len(Tables(workspace).query("SELECT review_id FROM decisions")) == 3


def test_disagreements_say_who_decided_what_and_when(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert disagreements(workspace).equals(REVIEWS_SCHEMA.empty_table())
    decide(
        workspace,
        ("va", 1, "anomalous", 1, "Ann"),
        ("vb", 1, "normal", 5, "Bob"),
        # A reviewer who changed her mind does not disagree with herself, nor with one who decided alike.
        ("vc", 2, "anomalous", 1, "Ann"),
        ("vd", 2, "normal", 2, "Ann"),
        ("ve", 2, "normal", 3, "Bob"),
        ("vf", 3, "normal", 2, "Ann"),
        ("vg", 3, "anomalous", 3, "Bob"),
        ("vh", 3, "normal", 4, "Cid"),
    )
    found = disagreements(workspace).select(["relative_path", "reviewer", "decision", "reviewed_at_utc"]).to_pylist()
    assert [
        (row["relative_path"], row["reviewer"], row["decision"], row["reviewed_at_utc"].second) for row in found
    ] == [
        ("a/3.png", "Ann", "normal", 2),
        ("a/3.png", "Bob", "anomalous", 3),
        ("a/3.png", "Cid", "normal", 4),
        ("a/1.png", "Ann", "anomalous", 1),
        ("a/1.png", "Bob", "normal", 5),
    ]


def test_reviews_of_schema_version_7_are_read(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    record_review(workspace, review(2, review_id="v2"))
    (new,) = workspace.reviews.iterdir()
    old = pq.read_table(new).drop_columns(["kind", "verdict"])
    old = old.set_column(0, "review_id", pa.array(["v1"]))
    pq.write_table(old.replace_schema_metadata({"nelbo.schema_version": "7"}), workspace.reviews / "v1.parquet")
    rows = catalog.all_rows(workspace, "reviews")
    assert rows.schema.equals(REVIEWS_SCHEMA)
    assert rows.select(["review_id", "decision", "kind", "verdict"]).to_pylist() == [
        {"review_id": "v1", "decision": "normal", "kind": None, "verdict": None},
        {"review_id": "v2", "decision": "normal", "kind": None, "verdict": "anomalous"},
    ]
    assert len(Tables(workspace).query("SELECT kind, verdict FROM reviews")) == 2
    assert len(as_documented(workspace)) == 1
    reviewing.compact(workspace)
    assert catalog.all_rows(workspace, "reviews").equals(rows)


def test_a_file_that_is_no_review_hides_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    workspace = Workspace(tmp_path)
    record_review(workspace, review(1))
    (workspace.reviews / "mine.parquet").write_bytes(b"mine")
    (workspace.reviews / "all-0.parquet").write_bytes(b"mine")
    (workspace.reviews / "link.parquet").symlink_to(workspace.reviews / "nowhere.parquet")
    write_table(pa.table({"n": [1]}), workspace.reviews / "other.parquet", pa.schema([("n", pa.int64())]))
    assert record_review(workspace, review(2))
    reviewing.compact(workspace)
    assert catalog.all_rows(workspace, "reviews")["review_id"].to_pylist() == ["v1", "v2"]
    assert {path.name for path in workspace.reviews.iterdir()} > {
        "mine.parquet",
        "all-0.parquet",
        "link.parquet",
        "other.parquet",
    }
    assert "mine.parquet is left as it is" in caplog.text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"reviewer": ""}, "reviewer is empty"),
        ({"reviewer": " \u2003"}, "reviewer is empty"),
        ({"reviewer": "x" * 101}, "reviewer has 101 characters, 100 at most"),
        ({"reviewer": "Ann\nBob"}, "reviewer holds the control character U\\+000A"),
        ({"note": "x" * 2001}, "note has 2,001 characters, 2,000 at most"),
        ({"note": "a\x1b[2J"}, "note holds the control character U\\+001B"),
        ({"note": "a\rb"}, "U\\+000D"),
        ({"note": "\ud800"}, "U\\+D800"),
        ({"note": "a\0"}, "U\\+0000"),
        ({"kind": "x" * 101, "decision": "anomalous"}, "kind has 101 characters, 100 at most"),
        ({"kind": "a\nb", "decision": "anomalous"}, "kind holds the control character U\\+000A"),
        ({"kind": " ", "decision": "anomalous"}, "kind is empty: expected the kind of the defect, or None"),
        ({"kind": "crack"}, "kind='crack' with decision='normal': only an anomalous image has a kind"),
        ({"kind": "crack", "decision": "withdrawn"}, "only an anomalous image has a kind"),
        ({"withdraws": "v1"}, "withdraws='v1' with decision='normal': expected 'withdrawn'"),
        ({"withdraws": "../v1", "decision": "withdrawn"}, "id '../v1': expected a letter"),
        ({"verdict": "not_scored"}, "verdict='not_scored': expected one of normal, review, anomalous, or None"),
        ({"decision": "review"}, "decision='review': expected one of normal, anomalous, withdrawn"),
        ({"decision": ""}, "decision='': expected one of"),
        ({"review_id": "../v1"}, "id '../v1': expected a letter"),
        ({"review_id": "v1/.."}, "expected a letter"),
        ({"review_id": ""}, "id '': expected a letter"),
        ({"review_id": "v" * 101}, "100 at most"),
        ({"model_id": "m 1"}, "id 'm 1'"),
        ({"batch_id": "b/1"}, "id 'b/1'"),
        ({"calibration_id": ""}, "id ''"),
        ({"image_id": "0" * 63}, "64 hex digits"),
        ({"image_id": "0" * 63 + "\n"}, "64 hex digits"),
        ({"image_id": "A" * 64}, "64 hex digits"),
        ({"relative_path": ""}, "relative_path is empty"),
        ({"anomaly_score": float("nan")}, "anomaly_score=nan: expected a finite number"),
    ],
)
def test_a_review_that_cannot_be_stored_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        review(1, **changes)


def test_texts_of_the_greatest_length_are_stored(tmp_path: Path) -> None:
    longest = review(1, reviewer="ü" * 100, note="\n" * 2000, review_id="v" * 100)
    assert record_review(Workspace(tmp_path), longest)
    assert catalog.all_rows(Workspace(tmp_path), "reviews")["note"].to_pylist() == ["\n" * 2000]
    assert len({new_review_id() for _ in range(100)}) == 100
    assert review(1, review_id=new_review_id())


# Tests from here on use a model.


def execute_in(workspace: Path, name: str, kind: Any, **options: Any) -> dict[str, Any]:
    result = execute(name, kind(workspace=str(workspace), **options), prefect=False)
    assert json.dumps(result)
    return result


def from_reviews(workspace: Path, **options: Any) -> dict[str, Any]:
    return calibrate(workspace, labels="reviews", **{"objective": "f1", **options})


def score(workspace: Path, images: Path) -> dict[str, Any]:
    return execute_in(workspace, "score", ScoreOptions, images=str(images))


@pytest.fixture(scope="module")
def landed(images: Path, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one scored batch, whose images are gone."""
    folder = tmp_path_factory.mktemp("landed")
    workspace = Path(shutil.copytree(trained[0], folder / "workspace"))
    score(workspace, Path(shutil.copytree(images / "new", folder / "new")))
    shutil.rmtree(folder / "new")
    return workspace


@pytest.fixture
def workspace(landed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(landed, tmp_path / "workspace"))


def scored(workspace: Path) -> list[dict[str, Any]]:
    (path,) = workspace.glob("scores/*/*/scores.parquet")
    return [row for row in read_table(path).to_pylist() if row["anomaly_score"] is not None]


def decide_on(workspace: Workspace | Path, image_id: str, decision: str, **changes: Any) -> None:
    """Record a decision on an image; by default with the latest model's verdict on it."""
    place = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    shown = {"model_id": pointers.promoted(place), "review_id": new_review_id()}
    assert record_review(place, review(0, image_id=image_id, decision=decision, **{**shown, **changes}))


def review_all(workspace: Path, n_normal: int, n_anomalous: int) -> dict[str, int]:
    """Review images with a blot as anomalous and others as normal; image id -> label."""
    rows = scored(workspace)
    blots = [row["image_id"] for row in rows if "blot" in row["relative_path"]][:n_anomalous]
    tiles = [row["image_id"] for row in rows if "tile" in row["relative_path"]][:n_normal]
    for image_id in blots:
        decide_on(workspace, image_id, "anomalous")
    for image_id in tiles:
        decide_on(workspace, image_id, "normal")
    return dict.fromkeys(blots, 1) | dict.fromkeys(tiles, 0)


def calibration_rows(workspace: Path, calibration_id: str, *parts: str) -> list[dict[str, Any]]:
    table = read_table(workspace / "calibrations" / calibration_id / "scores.parquet")
    return [row for row in table.to_pylist() if row["split"] in parts]


def test_reviews_move_the_threshold_and_nothing_else(workspace: Path, trained: Trained, images: Path) -> None:
    label_of = review_all(workspace, 10, 6)
    first = read_calibration(Workspace(workspace), trained[1]["calibration_id"])
    result = from_reviews(workspace, objective="youden", review_recall=1.0)
    rows = calibration_rows(workspace, result["calibration_id"], "calibration", "test")
    assert {row["image_id"]: row["label"] for row in rows} == label_of
    # Stored scores are used; the images are gone.
    score_of = {row["image_id"]: row["peak"] for row in scored(workspace)}
    assert all(row["anomaly_score"] == score_of[row["image_id"]] for row in rows)
    choosing = [row for row in rows if row["split"] == "calibration"]
    assert [sum(row["label"] == label for row in choosing) for label in (0, 1)] == [5, 3]
    labels, scores = zip(*((row["label"], row["anomaly_score"]) for row in choosing), strict=True)
    assert result["threshold"] == labelled_threshold(labels, scores, "youden")
    assert (result["judged"]["n_normal"], result["judged"]["n_anomalous"]) == (5, 3)
    # No rate is promised, and the source of the labels is printed and stored.
    assert (result["fpr"], result["labels_from"], result["n_calibration"], result["n_left_out"]) == (
        None,
        "reviews",
        5,
        0,
    )
    assert "the normal ones among them are the hardest" in result["caution"]
    n_above = int((first.normal_scores > result["threshold"]).sum())
    assert f"Of the {len(first.normal_scores)} held-out normal images" in result["caution"]
    assert f", {n_above} lie above the threshold" in result["caution"]
    moved = read_calibration(Workspace(workspace), result["calibration_id"])
    assert moved.labels_from == "reviews"
    np.testing.assert_array_equal(moved.normal_scores, first.normal_scores)
    assert (moved.batch_id, moved.heatmap_top, moved.statistic) == (first.batch_id, first.heatmap_top, first.statistic)
    # Few reviews only make a candidate.
    assert (result["current"], result["candidate"]) == (False, True)
    assert result["why_not"] == "6 anomalous images with a label, and at least 20 are needed"
    assert calibrate(workspace, use=result["calibration_id"])["current"]
    # Repeated with the now current calibration, it gives the same one.
    assert from_reviews(workspace, objective="youden", review_recall=1.0)["calibration_id"] == result["calibration_id"]
    # p-values and drift stay unchanged; verdicts follow the new threshold.
    before = read_table(next(workspace.glob("scores/*/*/scores.parquet")))
    anew = score(workspace, images / "new")
    assert "the normal ones among them are the hardest" in Path(anew["report"]).read_text()
    after = read_table(Path(anew["scores"]))
    assert after["p_value"].equals(before["p_value"])
    assert drift_of(after)["scores"] == drift_of(before)["scores"]
    assert set(after["calibration_id"].to_pylist()) == {result["calibration_id"]}
    assert [row["verdict"] == "anomalous" for row in scored(workspace)] == [
        row["anomaly_score"] > result["threshold"] for row in scored(workspace)
    ]


def drift_of(table: pa.Table) -> dict[str, float]:
    tests = json.loads(table.schema.metadata[b"nelbo.drift"])["tests"]
    return {test["name"]: test["p_value"] for test in tests}


def test_a_held_out_image_reviewed_as_anomalous_is_no_longer_normal(workspace: Path, trained: Trained) -> None:
    """One of the held-out images was also in a batch, where a reviewer saw its defect."""
    review_all(workspace, 4, 4)
    first = trained[1]["calibration_id"]
    held_out = calibration_rows(workspace, first, "calibration")
    (path,) = workspace.glob("scores/*/*/scores.parquet")
    rows = read_table(path).to_pylist()
    for row, known, decision in zip(rows, held_out[:2], ("anomalous", "normal"), strict=False):
        row["image_id"] = known["image_id"]
        decide_on(workspace, known["image_id"], decision)
    write_scores(pa.Table.from_pylist(rows, read_table(path).schema), path)
    kept = calibration_rows(workspace, from_reviews(workspace)["calibration_id"], "normal")
    assert {row["image_id"] for row in kept} == {row["image_id"] for row in held_out} - {held_out[0]["image_id"]}


def test_reviews_keep_a_joint_rule_of_version_0_1(workspace: Path, images: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "more", 60, seed=11)
    alone = calibrate(workspace, normal=str(tmp_path / "more"), fpr=0.1)
    joint = join(Workspace(workspace), alone["calibration_id"], "fisher")
    before = read_table(Path(score(workspace, images / "new")["scores"]))
    review_all(workspace, 10, 6)
    result = from_reviews(workspace)
    assert result["statistic"] == "joint_fisher"
    moved = read_calibration(Workspace(workspace), result["calibration_id"])
    table = before.filter(pc.is_valid(before["anomaly_score"]))
    np.testing.assert_array_equal(moved.statistic.scores(table), table["anomaly_score"].to_numpy())
    np.testing.assert_array_equal(moved.judge(table).p_value, table["p_value"].to_numpy())
    # The new calibration is complete: another threshold can be made from it.
    assert from_reviews(workspace, objective="youden")["statistic"] == "joint_fisher"
    with pytest.raises(UsageError, match=r"statistic nelbo does not go with reviews of what joint_fisher flagged"):
        from_reviews(workspace, statistic="nelbo")
    assert moved.threshold != joint.threshold
    assert reference_rows(Workspace(workspace), moved).equals(reference_rows(Workspace(workspace), joint))


def test_the_last_decision_is_the_label_whoever_made_it(workspace: Path) -> None:
    label_of = review_all(workspace, 5, 6)
    changed = next(image_id for image_id, label in label_of.items() if label)
    decide_on(workspace, changed, "normal", reviewer="Bob", model_id="mOther")
    result = from_reviews(workspace)
    assert result["n_left_out"] == 0
    rows = calibration_rows(workspace, result["calibration_id"], "calibration", "test")
    assert {row["image_id"]: row["label"] for row in rows} == label_of | {changed: 0}


def test_reviews_of_another_model_count_if_this_one_flagged_the_image_too(workspace: Path) -> None:
    label_of = review_all(workspace, 4, 4)
    last_blot = [row for row in scored(workspace) if "blot" in row["relative_path"]][-1]
    last_tile = [row for row in scored(workspace) if "tile" in row["relative_path"]][-1]
    assert (last_blot["verdict"], last_tile["verdict"]) == ("anomalous", "normal")
    for row in (last_blot, last_tile):
        decide_on(workspace, row["image_id"], "anomalous", model_id="mOther")
    # An image that no batch of this workspace holds any more.
    decide_on(workspace, "f" * 64, "anomalous")
    result = from_reviews(workspace)
    assert result["n_left_out"] == 2
    rows = calibration_rows(workspace, result["calibration_id"], "calibration", "test")
    assert {row["image_id"]: row["label"] for row in rows} == label_of | {last_blot["image_id"]: 1}


def test_reviews_of_an_audit_sample_move_no_threshold(workspace: Path) -> None:
    """They were not flagged: a defect with a low score among them would lower the threshold until all is flagged."""
    label_of = review_all(workspace, 4, 4)
    unflagged = [row for row in scored(workspace) if row["verdict"] == "normal"][-2:]
    decide_on(workspace, unflagged[0]["image_id"], "anomalous", verdict="normal")
    # A review from before schema version 8 has no verdict, but its image was flagged at the time.
    decide_on(workspace, unflagged[1]["image_id"], "anomalous", verdict=None)
    result = from_reviews(workspace)
    assert result["n_left_out"] == 1
    rows = calibration_rows(workspace, result["calibration_id"], "calibration", "test")
    assert {row["image_id"]: row["label"] for row in rows} == label_of | {unflagged[1]["image_id"]: 1}


def test_seven_reviews_are_a_candidate_and_many_are_current(workspace: Path, trained: Trained) -> None:
    """Guards against a former fault: a threshold from seven reviews raised misses from 43 to 99 %."""
    first = trained[1]["calibration_id"]
    review_all(workspace, 4, 3)
    few = from_reviews(workspace)
    assert (few["current"], few["why_not"]) == (False, "3 anomalous images with a label, and at least 20 are needed")
    assert pointers.current_calibration(Workspace(workspace), trained[1]["model_id"]) == first
    # Add more rows like the existing ones.
    (path,) = workspace.glob("scores/*/*/scores.parquet")
    rows = read_table(path).to_pylist()
    flagged = [row for row in rows if row["verdict"] == "anomalous"]
    more = [{**row, "image_id": f"{k:02x}{row['image_id'][2:]}"} for k in range(8) for row in flagged]
    write_scores(pa.Table.from_pylist(rows + more, read_table(path).schema), path)
    for row in more:
        decide_on(workspace, row["image_id"], "anomalous" if "blot" in row["relative_path"] else "normal")
    many = from_reviews(workspace)
    assert (many["current"], many["why_not"]) == (True, None)
    assert pointers.current_calibration(Workspace(workspace), trained[1]["model_id"]) == many["calibration_id"] != first


def test_reviews_of_all_held_out_images_leave_none_to_measure_by(workspace: Path, trained: Trained) -> None:
    review_all(workspace, 4, 4)
    (path,) = workspace.glob("scores/*/*/scores.parquet")
    rows = read_table(path).to_pylist()
    held_out = calibration_rows(workspace, trained[1]["calibration_id"], "calibration")
    template = next(row for row in rows if row["verdict"] == "anomalous")
    rows += [{**template, "image_id": row["image_id"]} for row in held_out]
    write_scores(pa.Table.from_pylist(rows, read_table(path).schema), path)
    for row in held_out:
        decide_on(workspace, row["image_id"], "anomalous")
    with pytest.raises(
        UsageError, match=r"found all held-out normal images .* anomalous, .* Calibrate on others first"
    ):
        from_reviews(workspace)


def test_the_review_band_is_measured_on_held_out_normal_images(workspace: Path) -> None:
    review_all(workspace, 10, 6)
    # Reviewers found images anomalous that score like normal ones; not all of them judge the threshold.
    for row in sorted(scored(workspace), key=lambda row: row["anomaly_score"])[:3]:
        decide_on(workspace, row["image_id"], "anomalous")
    result = from_reviews(workspace, review_recall=1.0)
    calibration = read_calibration(Workspace(workspace), result["calibration_id"])
    assert result["review"] < result["threshold"]
    band = (calibration.normal_scores > result["review"]) & (calibration.normal_scores <= result["threshold"])
    assert result["review_share"] == band.mean()


def test_the_command_calibrates_on_reviews(
    workspace: Path, nelbo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = ("--workspace", workspace, "--no-prefect")
    asked = ("calibrate", "--labels", "reviews", "--objective", "f1", *at)
    code, out, err = nelbo(*asked)
    assert (code, out) == (2, "")
    assert "has no reviews. Decide on flagged images in: nelbo dashboard" in err
    review_all(workspace, 0, 3)
    code, out, err = nelbo(*asked)
    assert (code, out) == (2, "")
    assert "0 were reviewed as normal and 3 as anomalous (0 that it did not flag" in err
    assert len(err.splitlines()) == 1
    review_all(workspace, 5, 0)
    code, out, err = nelbo(*asked)
    assert code == 0, err
    assert "promised: none" in out
    assert "no rate here (judged) holds for all images" in out
    code, out, _ = nelbo("calibrations", "--json", *at[:2])
    assert [row["labels_from"] for row in json.loads(out)["calibrations"]] == [None, "reviews"]
    code, out, err = nelbo(*asked, "--root", "x")
    assert (code, out) == (2, "")
    assert "--root goes with a manifest" in err
    # Folders with that name.
    monkeypatch.chdir(workspace)
    code, _, err = nelbo("calibrate", "--labels", "./reviews", "--objective", "f1", *at)
    assert code == 2
    assert "./reviews holds no usable image" in err
    code, _, err = nelbo("calibrate", "--normal", "reviews", *at)
    assert code == 2
    assert "reviews holds no usable image" in err


def test_bad_requests_are_refused(workspace: Path, trained: Trained) -> None:
    model_id, place = trained[1]["model_id"], Workspace(workspace)
    record_review(place, review(7))
    with pytest.raises(CalibrationError, match=r"0 were reviewed as normal and 0 as anomalous \(1 that it did not"):
        from_reviews(workspace)
    review_all(workspace, 4, 4)
    with pytest.raises(UsageError, match=r"target=0\.5: objective f1 takes none"):
        from_reviews(workspace, target=0.5)
    with pytest.raises(UsageError, match=r"statistic nelbo does not go with reviews of what peak flagged"):
        from_reviews(workspace, statistic="nelbo")
    with pytest.raises(UsageError, match="takes one of"):
        from_reviews(workspace, normal="x")
    # Models store only the beginnings of the hashes of their training images.
    seen = min(seen_in_training(place, model_id)) + "0" * 48
    (path,) = workspace.glob("scores/*/*/scores.parquet")
    rows = read_table(path).to_pylist()
    rows[0]["image_id"] = seen
    write_scores(pa.Table.from_pylist(rows, read_table(path).schema), path)
    decide_on(place, seen, "normal")
    with pytest.raises(
        InputError, match=rf"1 of 8 reviewed images were trained on \(first: {rows[0]['relative_path']}"
    ):
        from_reviews(workspace)
    pointers.forget(place, model_id)
    with pytest.raises(UsageError, match=r"has no calibration. Make one with: nelbo calibrate --normal"):
        from_reviews(workspace)
    with pytest.raises(NotYetError, match="no latest model"):
        from_reviews(workspace / "none")


def test_reviews_calibrate_in_an_object_store_too(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    review_all(workspace, 6, 6)
    expected = from_reviews(workspace)
    store = open_place("memory://reviewed")
    store.fs.put(f"{workspace}/", store.path, recursive=True)
    store.fs.rm(f"{store.path}/calibrations/{expected['calibration_id']}", recursive=True)
    options = CalibrateOptions(workspace="memory://reviewed", labels="reviews", objective="f1")
    assert execute("calibrate", options, prefect=False)["calibration_id"] == expected["calibration_id"]
