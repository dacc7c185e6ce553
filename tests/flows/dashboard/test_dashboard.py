"""The dashboard as a browser and as an attacker see it, over synthetic workspaces."""
# ruff: noqa: S104, S105, S608 - addresses, passwords and queries of tests

import csv
import hashlib
import io
import math
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import httpx
import numpy as np
import pandas as pd
import pytest
from browser import Watched, dashboard
from reviewing import review
from scored import MODEL, START, add_batch, add_calibration
from synthetic import write_images

from nelbo.data import SCORES_SCHEMA, read_table, write_table
from nelbo.detectors import Threshold
from nelbo.flows.dashboard import frames
from nelbo.flows.dashboard.frames import without_formulas
from nelbo.flows.dashboard.pages.whatif import false_alarms
from nelbo.flows.dashboard.server import serve_dashboard
from nelbo.flows.dashboard.tables import Tables
from nelbo.flows.numbers import number
from nelbo.flows.options.options import CompactOptions, DashboardOptions
from nelbo.flows.steps.compact import compact_group, list_groups
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import record_review

ATTACKS = ["<img src=x onerror=alert(1)>.jpg", "**bold** $x$ :red[x].png", "a_b_c[d](javascript:alert(1)).png"]
BATCH = (MODEL, "b2")
SECRET = "correct horse <b>"


def make_workspace(folder: Path) -> Workspace:
    """Three batches, the last with drift and with names that are attacks; one without verdicts, one without scores."""
    workspace = Workspace.at(str(folder))
    calibration = add_calibration(workspace)
    for i in range(3):
        paths = [f"line-{k % 2}/{k:03d}.png" for k in range(300)] + ATTACKS * (i == 2)
        add_batch(workspace, f"b{i}", paths, calibration, shift=1.5 * (i == 2), at=START + timedelta(hours=i), seed=i)
    add_batch(workspace, "without-verdicts", ["a.png", "b.png"], None, not_scored=0, at=START - timedelta(hours=1))
    add_batch(workspace, "without-scores", ["a.txt"], calibration, not_scored=[True], at=START - timedelta(hours=2))
    return workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("scored") / "[work] space")


def count(workspace: Workspace, where: str) -> int:
    """Rows of the last batch, as DuckDB counts them itself."""
    sql = f"SELECT count(*) FROM read_parquet(?) WHERE {where}"
    return int(duckdb.execute(sql, [str(workspace.scores(*BATCH))]).fetchall()[0][0])


# Tables


def test_tables_hold_what_the_files_hold(workspace: Workspace) -> None:
    tables = Tables(workspace)
    assert tables.query("SELECT count(*) AS n FROM scores")["n"].item() == 906
    assert tables.query("SELECT * FROM batches ORDER BY batch_id")["batch_id"].tolist() == [
        *("b0", "b1", "b2", "without-scores", "without-verdicts")
    ]
    found = tables.query("SELECT verdict, count(*) AS n FROM scores WHERE batch_id = ? GROUP BY 1", ["b2"], [BATCH])
    assert set(found["verdict"]) == {"normal", "review", "anomalous", "not_scored"}
    for verdict, n in found.itertuples(index=False, name=None):
        assert n == count(workspace, f"verdict = '{verdict}'")
    flagged = tables.query("SELECT count(*) AS n, count(map) AS pictures FROM flagged", batches=[BATCH])
    assert flagged.iloc[0].tolist() == [count(workspace, "verdict IN ('anomalous', 'review')")] * 2
    assert tables.query("SELECT count(*) AS n FROM runs WHERE command = 'score'")["n"].item() == 5


def test_tables_of_nothing_are_empty(tmp_path: Path, workspace: Workspace) -> None:
    tables = Tables(Workspace.at(str(tmp_path / "none")))
    for name in ("scores", "flagged", "audit", "runs", "reviews", "decisions", "batches"):
        assert tables.query(f"SELECT * FROM {name}").empty
    assert {"model_id", "peak", "map", "thumbnail", "heatmap_png"} <= set(tables.query("SELECT * FROM flagged").columns)
    for batches in ([], [("m0", "b0")], [("..", "b0")], [("*", "*")]):
        assert Tables(workspace).query("SELECT * FROM scores", batches=batches).empty
    # Nothing is made by looking.
    assert not (tmp_path / "none").exists()


def test_tables_read_files_of_old_versions(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path))
    version_1 = Path(__file__).parents[2] / "data" / "version_1"
    for place, name in ((workspace.scores("m1", "b1"), "scores"), (workspace.runs / "r1.parquet", "runs")):
        place.parent.mkdir(parents=True)
        place.write_bytes((version_1 / f"{name}.parquet").read_bytes())
    tables = Tables(workspace)
    rows = tables.query("SELECT batch_id, anomaly_score, peak FROM scores")
    assert set(rows["batch_id"]) == {"b1"}
    assert rows["anomaly_score"].notna().any()
    assert rows["peak"].isna().all()
    assert tables.query("SELECT n_waiting FROM runs")["n_waiting"].isna().all()
    add_batch(workspace, "b2", ["a.png"], None, not_scored=0)
    assert tables.query("SELECT count(peak) AS n FROM scores")["n"].item() == 1


def test_tables_see_nothing_but_the_workspace(workspace: Workspace, tmp_path: Path) -> None:
    outside = write_table(SCORES_SCHEMA.empty_table(), tmp_path / "outside.parquet", SCORES_SCHEMA)
    tables = Tables(workspace)
    for sql in (
        f"SELECT * FROM '{outside}'",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM glob('/etc/*')",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
    ):
        with pytest.raises(duckdb.Error, match=r"disabled|cannot be|locked|Cannot"):
            tables.query(sql)


def test_folders_of_somebody_else_are_no_batches(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path))
    add_batch(workspace, "b1", ["a.png"], None)
    copy = workspace.scores(MODEL, "b1").parents[1] / "batch_id=b1 (copy)" / "scores.parquet"
    copy.parent.mkdir()
    copy.write_bytes(workspace.scores(MODEL, "b1").read_bytes())
    (tmp_path / "_staging" / "scores.parquet").write_bytes(b"half")
    assert Tables(workspace).query("SELECT count(*) AS n FROM scores")["n"].item() == 1


def test_runs_are_counted_once_while_they_are_joined(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path))
    calibration = add_calibration(workspace)
    tables = Tables(workspace)
    counts = "SELECT count(*) AS n, count(DISTINCT run_id) AS ids FROM runs"
    for i in range(3):
        add_batch(workspace, f"b{i}", ["a.png"], calibration, at=START + timedelta(hours=i))
    assert tables.query(counts).iloc[0].tolist() == [4, 4]
    kept = {path.name: path.read_bytes() for path in workspace.runs.glob("*.parquet")}
    for group in list_groups(workspace):
        compact_group(CompactOptions(workspace=str(tmp_path)), group)
    assert len(list(workspace.runs.glob("*.parquet"))) < 4
    assert tables.query(counts).iloc[0].tolist() == [4, 4]
    for name, content in kept.items():
        (workspace.runs / name).write_bytes(content)
    assert tables.query(counts).iloc[0].tolist() == [4, 4]
    for path in workspace.runs.glob("*.parquet"):
        path.unlink()
    assert tables.query(counts).iloc[0].tolist() == [0, 0]


def test_tables_of_an_object_store() -> None:
    workspace = Workspace.at("memory://dashboard/workspace")
    add_batch(workspace, "b1", ["a.png", "b.png"], add_calibration(workspace), not_scored=0)
    tables = Tables(workspace)
    assert tables.query("SELECT count(*) AS n FROM scores WHERE batch_id = 'b1'")["n"].item() == 2
    assert tables.query("SELECT count(*) AS n FROM runs")["n"].item() == 2
    with pytest.raises(duckdb.Error):
        tables.query("SELECT * FROM glob('/etc/*')")


def test_readers_see_whole_batches_while_they_are_replaced(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path))
    calibration = add_calibration(workspace)
    stop = threading.Event()

    def publish() -> None:
        for i in range(1000):
            if stop.is_set():
                return
            add_batch(workspace, f"b{i % 3}", [f"{k}.png" for k in range(200 + i % 2)], calibration, seed=i)

    writer = threading.Thread(target=publish)
    writer.start()
    try:
        tables, sizes = Tables(workspace), set()
        for _ in range(20):
            rows = tables.query("SELECT batch_id, count(*) AS n, count(DISTINCT run_id) AS runs FROM scores GROUP BY 1")
            sizes |= set(rows["n"])
            assert set(rows["n"]) <= {200, 201}
            assert set(rows["runs"]) <= {1}
    finally:
        stop.set()
        writer.join()
    assert sizes == {200, 201}


def spoilt(content: bytes, how: str) -> bytes:
    if how == "cut":
        return content[: len(content) // 2]
    if how == "a page":
        # The file opens, and breaks when it is read.
        return content[:4] + bytes(byte ^ 0xFF for byte in content[4:200]) + content[200:]
    return b"" if how == "empty" else b"garbage" * 99


@pytest.mark.parametrize("kind", ["scores", "flagged", "audit", "runs", "reviews"])
def test_a_damaged_file_is_named_and_the_others_are_shown(tmp_path: Path, kind: str) -> None:
    workspace = Workspace.at(str(tmp_path))
    calibration = add_calibration(workspace)
    for i in range(3):
        odd = [True, True, False, False]
        paths = [f"{letter}.png" for letter in "abcd"]
        add_batch(workspace, f"b{i}", paths, calibration, anomalous=odd, not_scored=0, seed=i, audit=1)
        record_review(workspace, review(i))
    # Rows of the table of flagged images come from their scores, and only maps and thumbnails from its own files.
    counted = "thumbnail" if kind == "flagged" else "*"
    sql = f"SELECT count({counted}) AS n, max(hash({kind})) FROM {kind}"
    n = int(Tables(workspace).query(sql)["n"].item())
    assert n
    file = sorted(tmp_path.glob(f"{kind}/**/*.parquet"))[-1]
    content = file.read_bytes()
    lost = read_table(file).num_rows
    for how in ("empty", "cut", "garbage", "a page"):
        tables = Tables(workspace)
        file.write_bytes(spoilt(content, how))
        for _ in range(2):
            assert tables.query(sql)["n"].item() == n - lost, how
            assert tables.damaged() == [str(file.relative_to(tmp_path))]
        # Restored, it is there again.
        file.write_bytes(content)
        assert tables.query(sql)["n"].item() == n
        assert tables.damaged() == []
    # One of each table, each named.
    other = next(path for path in tmp_path.glob("scores/**/*.parquet") if path != file)
    for path in (file, other):
        path.write_bytes(b"PAR1")
    tables = Tables(workspace)
    tables.query(sql)
    tables.query("SELECT max(hash(scores)) FROM scores")
    assert tables.damaged() == sorted(str(path.relative_to(tmp_path)) for path in (file, other))


def test_a_wrong_query_blames_no_file(workspace: Workspace) -> None:
    tables = Tables(workspace)
    with pytest.raises(duckdb.Error, match="nothing"):
        tables.query("SELECT nothing FROM scores")
    assert tables.damaged() == []


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_saved_tables_hold_no_formulas(start: str) -> None:
    """By OWASP's rule; what spreadsheets may calculate with stays what it is."""
    text = f"{start}cmd|' /C calc'!A0"
    rows = pd.DataFrame(
        {
            "path": [text, f"a{start}b", None],
            "kind": pd.Categorical([text, "x", None]),
            "any": [text, -1, 2.5],
            "score": [-1.5, 2, math.nan],
            "n": [-1, 2, 3],
            "right": [True, False, True],
            "scored": pd.to_datetime(["2026-01-01"] * 3, utc=True),
        }
    )
    found = without_formulas(rows)
    for name in ("path", "kind", "any"):
        assert found[name].iloc[0] == f"'{text}"
        assert found[name].iloc[1:].astype(object).equals(rows[name].iloc[1:].astype(object))
    pd.testing.assert_frame_equal(found[["score", "n", "right", "scored"]], rows[["score", "n", "right", "scored"]])
    read = list(csv.reader(io.StringIO(found.to_csv(index=False), newline="")))
    assert not [cell for row in read[1:] for cell in row[:3] if cell[:1] == start and cell != "-1"]


def test_every_table_is_drawn_without_formulas() -> None:
    folder = Path(frames.__file__).parent
    assert [path.name for path in folder.rglob("*.py") if "st.dataframe(" in path.read_text()] == ["frames.py"]
    assert not [
        path.name
        for path in folder.rglob("*.py")
        if re.search("download_button|data_editor|file_uploader", path.read_text())
    ]


# Numbers


def test_what_if_counts_as_the_promise_does() -> None:
    normal_scores = np.random.default_rng(0).gamma(4, size=199)
    threshold = Threshold.from_normals(normal_scores, fpr=0.05)
    assert false_alarms(normal_scores, threshold.value, 1000) == threshold.false_alarms(1000)
    assert threshold.false_alarms(1000).value == 50
    above_all = false_alarms(normal_scores, 1e9, 1000)
    assert (above_all.value, above_all.low) == (5, 0)
    assert false_alarms(normal_scores, -1e9, 1000) == (1000, 1000, 1000)


def test_band_holds_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    inside = []
    for _ in range(4000):
        threshold = Threshold.from_normals(random.random(99), fpr=0.05)
        alarms = threshold.false_alarms(60)
        inside.append(alarms.low <= (random.random(60) > threshold.value).sum() <= alarms.high)
    # A discrete law's central range holds at least what it says; 5 sigma of 4,000 are 0.017.
    assert 0.95 - 0.017 < np.mean(inside) < 0.99


# The server


def test_other_addresses_need_a_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NELBO_DASHBOARD_PASSWORD", raising=False)
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(UsageError, match=r"--host .* needs a password. Set NELBO_DASHBOARD_PASSWORD"):
            serve_dashboard(DashboardOptions(workspace=str(tmp_path), host=host))


def test_a_busy_port_is_one_line(nelbo: Callable[..., Any], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = nelbo("dashboard", "--workspace", tmp_path, "--port", port)
    assert (code, out) == (2, "")
    assert err == (
        f"nelbo: the dashboard cannot listen on 127.0.0.1 port {port} (Address already in use). "
        "Choose another with --port, or end what listens there.\n"
    )


def folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path} {path.stat().st_mtime_ns}".encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


@pytest.fixture(scope="module")
def address(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a dashboard that is started amid settings of another Streamlit app, which would open it to everybody."""
    folder = tmp_path_factory.mktemp("dashboard")
    (folder / ".streamlit").mkdir()
    (folder / ".streamlit" / "config.toml").write_text(
        '[server]\naddress = "0.0.0.0"\nenableCORS = false\nenableXsrfProtection = false\nenableStaticServing = true\n'
    )
    (folder / "static").mkdir()
    (folder / "static" / "secret.txt").write_text("secret")
    opened = {"STREAMLIT_SERVER_ADDRESS": "0.0.0.0", "STREAMLIT_SERVER_ENABLE_CORS": "false"}
    with dashboard(workspace.root, folder, opened) as at:
        yield at


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A dashboard with a password, and its folder; the workspace in it is empty at first."""
    folder = tmp_path_factory.mktemp("guarded")
    with dashboard(folder / "workspace", folder, {"NELBO_DASHBOARD_PASSWORD": SECRET}) as at:
        yield at, folder


@pytest.fixture
def page(visitor: Any) -> Iterator[Watched]:
    with visitor.new_page() as page:
        yield Watched(page)


@pytest.mark.slow
def test_server_is_for_this_machine_and_this_page_only(address: str) -> None:
    port = int(address.rpartition(":")[2])
    (row,) = [
        line.split() for line in Path("/proc/net/tcp").read_text().splitlines() if f":{port:04X} 00000000:0000" in line
    ]
    assert row[1] == f"0100007F:{port:04X}"
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }

    def status(**headers: str) -> int:
        with httpx.stream("GET", f"{address}/_stcore/stream", headers=upgrade | headers) as answer:
            return answer.status_code

    assert status(Origin=address) == 101
    assert status(Origin="http://evil.example") == 403
    # A name of somebody else's that leads here.
    assert status(Origin="http://evil.example", Host="evil.example") == 403


@pytest.mark.slow
def test_server_gives_no_file(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    for path in (
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/static/../../../../etc/passwd",
        "/static/..%2f..%2f..%2fetc/passwd",
        "/app/static/secret.txt",
        "/app/static/../latest.json",
        "/media/latest.json",
        "/media/../latest.json",
        "/component/x/../../latest.json",
        "/latest.json",
    ):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            # As it stands: clients tidy paths up.
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(partial(connection.recv, 65536), b""))
        assert not re.search(rb"root:|secret|calibrations", answer), path


@pytest.mark.slow
def test_pages_load_and_can_be_read_by_everybody(address: str, page: Watched) -> None:
    page.page.set_viewport_size({"width": 390, "height": 800})
    for path, text in (("/", "The newest batch, b2, has"), ("/batch", "303 images: ")):
        for scheme in ("light", "dark"):
            page.page.emulate_media(color_scheme=scheme)
            page.open(address + path)
            page.page.get_by_text(text).wait_for()
            assert page.findings() == []
        assert page.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.problems == []


@pytest.mark.slow
def test_filters_count_what_duckdb_counts(address: str, page: Watched, workspace: Workspace) -> None:
    def shown(query: str) -> str:
        page.open(f"{address}/batch?model={MODEL}&batch=b2&{query}")
        return page.page.get_by_text(re.compile(r"^[\d,]+ of 303 images\.$")).inner_text()

    for query, where in (
        ("verdict=anomalous", "verdict = 'anomalous'"),
        ("verdict=review&verdict=normal", "verdict IN ('review', 'normal')"),
        ("reason=truncated", "reason = 'truncated'"),
        ("p=0.02", "p_value <= 0.02"),
        ("p=0.02&text=LINE-1", "p_value <= 0.02 AND relative_path LIKE 'line-1%'"),
    ):
        n = count(workspace, where)
        assert 0 < n < 303
        assert shown(query) == f"{n:,} of 303 images."
    # And by hand, which the address then tells.
    page.page.get_by_label("Text in the path").fill("<IMG")
    page.page.keyboard.press("Enter")
    page.page.get_by_text("Nothing matches: widen the filters.").wait_for()
    page.page.wait_for_url("**text=%3CIMG**")
    assert page.problems == []


@pytest.mark.slow
def test_what_if_counts_and_writes_nothing(address: str, page: Watched, workspace: Workspace) -> None:
    before = folder_hash(Path(str(workspace.root)))
    page.open(f"{address}/batch?model={MODEL}&batch=b2")
    found = []
    for presses in (0, 40):
        for _ in range(presses):
            page.page.get_by_role("slider").press("ArrowRight")
        threshold = float(page.page.get_by_role("slider").input_value())
        found.append(count(workspace, f"anomaly_score > {threshold}"))
        # The slider moves at once, and the words follow: those of steps on its way are drawn, too.
        page.page.get_by_text(f"Above {number(threshold)}: {found[-1]} of ").wait_for()
        page.settle()
    assert found[1] < found[0]
    assert folder_hash(Path(str(workspace.root))) == before
    assert page.problems == []


@pytest.mark.slow
def test_names_are_text(address: str, page: Watched) -> None:
    page.open(f"{address}/batch?model={MODEL}&batch=b2&text=%3Cimg")
    page.page.get_by_text("1 of 303 images.").wait_for()
    # The cells of the table that screen readers see.
    page.page.locator("[role=gridcell]").filter(has_text=ATTACKS[0]).wait_for(state="attached")
    # The box before the only row.
    page.page.locator('[data-testid="stDataFrame"] .dvn-scroller').click(position={"x": 20, "y": 52})
    page.page.wait_for_url(re.compile(r"/image\?.*path=%3Cimg"))
    page.settle()
    for query in (f"batch={ATTACKS[0]}", f"batch=b2&model={ATTACKS[1]}", f"batch=b2&text={ATTACKS[0]}"):
        page.open(f"{address}/batch?{query}")
    assert page.page.locator("img[src=x]").count() == 0
    assert page.problems == []


@pytest.mark.slow
def test_batches_without_verdicts_and_without_scores(address: str, page: Watched) -> None:
    page.open(f"{address}/batch?model={MODEL}&batch=without-verdicts")
    page.page.get_by_text("2 images: 2 without verdict.").wait_for()
    page.open(f"{address}/batch?model={MODEL}&batch=without-scores")
    page.page.get_by_text("No file of this batch has a score").wait_for()
    page.open(f"{address}/batch?model={MODEL}&batch=gone")
    page.page.get_by_text("not in the workspace").wait_for()
    page.page.get_by_text("303 images: ").wait_for()
    assert page.problems == []


@pytest.mark.slow
def test_keyboard_leads_from_page_to_page(address: str, page: Watched) -> None:
    page.open(f"{address}/batch?model={MODEL}&batch=b1")
    page.page.get_by_role("link", name="Overview").focus()
    page.page.keyboard.press("Enter")
    page.page.get_by_text("The newest batch, b2").wait_for()
    page.page.get_by_role("link", name="Batch", exact=True).focus()
    page.page.keyboard.press("Enter")
    # The batch that was chosen before is still there, and in the address.
    page.page.get_by_text("300 images: ").wait_for()
    page.page.wait_for_url("**batch=b1**")
    assert page.problems == []


@pytest.mark.slow
def test_password_is_asked_for(guarded: tuple[str, Path], browser: Any) -> None:
    """Nothing is shown before, what to run next after; a picture, at the address of a hash, is for who is admitted."""
    at, folder = guarded
    field, asked = "input[type=password]", list[str]()
    with browser.new_page() as page:
        watched = Watched(page)
        for path in ("/", "/batch", "/image"):
            watched.open(at + path)
            page.wait_for_selector(field)
            assert page.get_by_role("link", name="Overview").count() == 0
        assert watched.findings() == []
        for guess in ("wrong", ""):
            page.fill(field, guess)
            page.get_by_role("button", name="Enter").click()
            page.get_by_text("This is not the password.").wait_for()
        page.fill(field, SECRET)
        page.press(field, "Enter")
        page.get_by_role("link", name="Overview").wait_for()
        page.get_by_role("link", name="Overview").click()
        page.get_by_text("nelbo train --normal good/").wait_for()
        page.get_by_role("link", name="Batch", exact=True).click()
        page.get_by_text("nelbo score DIR").wait_for()
        assert watched.findings() == []
        assert not (folder / "workspace").exists()
        workspace, root = Workspace.at(str(folder / "workspace")), folder / "images"
        names = [path.name for path in write_images(root, 3, seed=1)]
        add_batch(workspace, "b1", names, add_calibration(workspace), root=root, not_scored=0, anomalous=1.0, shift=9)
        image_id = read_table(workspace.scores(MODEL, "b1"))["image_id"][0]
        page.on("request", lambda request: asked.append(request.url))
        watched.open(f"{at}/image?model={MODEL}&batch=b1&image={image_id}")
        page.locator("img[src*='/media/']").first.wait_for()
        (cookie,) = [
            f"{one['name']}={one['value']}" for one in page.context.cookies() if one["name"].startswith("nelbo")
        ]
        (picture, *_) = [url for url in asked if url.startswith(f"{at}/media/")]
        assert httpx.get(picture, headers={"Cookie": cookie}).content.startswith((b"\xff\xd8", b"\x89PNG"))
        for headers in ({}, {"Cookie": f"{cookie}x"}, {"Accept": "text/html"}):
            for url in {url for url in asked if not url.endswith("/_stcore/health")}:
                assert httpx.get(url, headers=headers).status_code == 401
        assert watched.problems == []
    # Another visitor is another one.
    with browser.new_page() as page:
        Watched(page).open(at)
        page.wait_for_selector(field)
    assert SECRET not in (folder / "dashboard.log").read_text()


def memory_mb(address: str) -> int:
    """What the dashboard's server is told."""
    flag = f"--server.port={address.rpartition(':')[2]}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if flag in (process / "cmdline").read_bytes():
                return int(re.findall(r"VmRSS:\s+(\d+)", (process / "status").read_text())[0]) >> 10
    raise AssertionError(f"no server at {address}")


@pytest.mark.slow
def test_uploads_fill_no_memory(address: str, guarded: tuple[str, Path]) -> None:
    """Without a password or with one, to the address for uploads, to any other, or without an end of the headers."""
    mb = b"x" * (1 << 20)
    for at in (address, guarded[0]):
        host, port = at.removeprefix("http://").split(":")
        httpx.get(at)
        before = memory_mb(at)
        for head in (
            "PUT /_stcore/upload_file/a/b HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nX: ",
        ):
            with socket.create_connection((host, int(port)), timeout=20) as connection, suppress(OSError):
                connection.sendall(head.encode())
                for _ in range(200):
                    connection.sendall(mb)
            assert memory_mb(at) < before + 60
            assert httpx.get(f"{at}/_stcore/health").status_code == 200


@pytest.mark.slow
def test_pages_of_a_damaged_workspace_and_of_one_that_is_written_to(tmp_path: Path, visitor: Any) -> None:
    """They show the rest of it, and whole batches."""
    workspace = make_workspace(tmp_path / "workspace")
    for file in (workspace.scores(MODEL, "b1"), workspace.flagged(MODEL, "b2"), next(workspace.runs.glob("*.parquet"))):
        file.write_bytes(spoilt(file.read_bytes(), "cut"))
    code = "import scored, sys; scored.publish_for_ever(sys.argv[1])"
    path = os.pathsep.join([str(Path(__file__).parents[2] / "support"), os.environ.get("PYTHONPATH", "")])
    with dashboard(workspace.root, tmp_path) as at, visitor.new_page() as page:
        watched = Watched(page)
        watched.open(f"{at}/batch?model={MODEL}&batch=b2")
        page.get_by_text("303 images: ").wait_for()
        watched.open(f"{at}/review?model={MODEL}&batch=b2")
        page.get_by_text("flagged/model_id=").wait_for()
        watched.open(f"{at}/image")
        page.get_by_label("Find an image").fill("002")
        page.keyboard.press("Enter")
        page.get_by_text("Choose a row to open it.").wait_for()
        watched.open(f"{at}/")
        page.get_by_text("The newest batch, b2, has").wait_for()
        warning = page.get_by_text("3 files cannot be read and are left out").inner_text()
        for name in ("batch_id=b1/scores.parquet", "batch_id=b2/flagged.parquet", "runs/"):
            assert name in warning
        writer = subprocess.Popen([sys.executable, "-c", code, workspace.root], env=os.environ | {"PYTHONPATH": path})
        try:
            for i in range(4):
                watched.open(f"{at}/{('', f'batch?model={MODEL}&batch=b{i % 3}')[i % 2]}")
            page.get_by_text(re.compile(r"^(300|303) images: ")).wait_for()
            assert writer.poll() is None
        finally:
            writer.kill()
            writer.wait()
        assert watched.problems == []
