"""What holds for all pages: names are text, damage is named, bad addresses are explained, the next step is given."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from browser import Pages, found, parsed, text
from reviewing import review
from scored import ATTACKS, MODEL, START, add_batch, add_calibration, address_of, spoilt

from nelbo.data import read_table
from nelbo.flows.dashboard.app import make_app
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import record_review

PLACES = ["/", "/batch", "/review", "/compare", "/search"]
LAZY = ["/image/original", "/image/normals", "/review/image", "/batch/what-if", "/review/effect", "/missed"]
NOBODY = {"model": "nobody", "batch": "nothing", "image": "0" * 64, "path": "a.png", "threshold": "1"}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """A workspace whose flagged images have attacks for names, as do the decisions on them."""
    workspace = Workspace(tmp_path_factory.mktemp("hostile"))
    calibration = add_calibration(workspace)
    add_batch(workspace, "b1", ATTACKS, calibration, anomalous=1.0, not_scored=0, shift=9)
    rows = read_table(workspace.scores(MODEL, "b1")).to_pylist()
    for number, row in enumerate(rows[:-2]):
        name = "".join(letter for letter in row["relative_path"] if letter.isprintable())[:100]
        said = {"note": name, "kind": name, "reviewer": name, "decision": "anomalous", "model_id": MODEL}
        image = {name: row[name] for name in ("image_id", "relative_path")}
        record_review(workspace, review(number, **said, **image))
        record_review(workspace, review(1000 + number, **image, model_id=MODEL, review_id=f"w{number}"))
    return Pages(workspace)


def names(page: Any) -> set[str]:
    """The attacks that stand on a page as text."""
    shown = text(page)
    return {name for name in ATTACKS if " ".join(name.split()) in shown}


def test_names_are_text(hostile: Pages) -> None:
    """`Pages.open` fails if a name has made an element or attribute."""
    assert names(hostile.open("/batch")) == {*ATTACKS}
    assert names(hostile.open("/batch", text="<IMG")) >= {ATTACKS[0]}
    assert names(hostile.open("/review")) >= {*ATTACKS[:-2]}
    assert names(hostile.open("/search", text=".")) == {*ATTACKS}
    assert len(names(hostile.open("/"))) == 1
    for row in read_table(hostile.workspace.scores(MODEL, "b1")).to_pylist():
        asked = address_of(row, "b1")
        hostile.open("/image/original", **asked)
        page = hostile.open("/image", **asked)
        assert " ".join(row["relative_path"].split()) in text(found(page, ".//h1"))
        assert found(page, ".//title").text == f"{row['relative_path']} · nelbo"
        assert names(hostile.open("/review/image", **asked)) >= {row["relative_path"]}
        # A path in place of a hash finds nothing.
        hostile.open("/image", 404, **asked | {"image": row["relative_path"]})


def test_what_the_address_says_is_text(hostile: Pages) -> None:
    for attack in (ATTACKS[3], "", "../*", "\x00\ud83d", "'; DROP TABLE scores; --" * 200):
        said = attack.encode("utf-8", "replace").decode()
        for place, query in (
            ("/", {"text": said, "model": said}),
            ("/batch", {"model": said, "batch": said}),
            ("/batch", {"batch": "b1", "verdict": said, "reason": said, "variant": said, "text": said}),
            ("/review", {"model": MODEL, "batch": said, "image": said}),
            ("/compare", {"model": said, "batch": said, "a": said, "b": said}),
            ("/search", {"text": said}),
        ):
            hostile.open(place, **query)
        for place in LAZY:
            asked = dict.fromkeys(("model", "batch", "image", "path"), said)
            hostile.open(place, **asked, threshold="2.5")
        hostile.open("/image", 404, model=said, batch=said, image=said, path=said)
        hostile.open(f"/x{quote(attack.encode('utf-8', 'surrogatepass'))}", 404)


def test_no_name_can_end_the_queues_json(hostile: Pages) -> None:
    page = hostile.open("/review", model=MODEL, batch="b1", by="Nobody")
    (queue,) = [one for one in page.iter("script") if one.get("id") == "queue"]
    items = json.loads(queue.text or "")
    assert {item["path"] for item in items} == {*ATTACKS}
    assert not re.search("[<>&']", queue.text or "")
    kinds = json.loads(found(page, ".//*[@id='review']").attrib["data-kinds"])
    assert len(kinds) == len(ATTACKS) - 2
    for item in items[:3]:
        assert names(parsed(hostile.get(item["place"]).text)) >= {item["path"]}


@pytest.mark.parametrize(
    ("place", "query"),
    [
        ("/", {"page": "0"}),
        ("/", {"page": "9" * 30}),
        ("/", {"drift": "perhaps"}),
        ("/batch", {"page": "x"}),
        ("/batch", {"page": "9" * 30}),
        ("/batch", {"p": "2"}),
        ("/batch", {"p": "nan"}),
        ("/batch", {"order": "relative_path; DROP TABLE x"}),
        ("/batch", {"shown": "100000"}),
        ("/batch/what-if", {"model": MODEL, "batch": "b2", "threshold": "inf"}),
        ("/batch/what-if", {"model": MODEL, "batch": "b2", "threshold": "nan"}),
        ("/batch/what-if", {"model": MODEL, "batch": "b2"}),
        ("/search", {"page": "-1"}),
        ("/search", {"page": "9" * 30}),
        ("/compare", {"page": "1e9"}),
        ("/compare", {"page": "9" * 30}),
        ("/review", {"of": "<b>everything</b>"}),
        ("/review", {"by": "x" * 101}),
        ("/image/original", {}),
    ],
)
def test_a_bad_address_gives_a_page_that_says_so(pages: Pages, place: str, query: dict[str, str]) -> None:
    page = pages.open(place, 422, **query)
    assert "Not understood" in text(found(page, ".//h1"))
    (name, *_) = [*query, "model"]
    said = text(found(page, ".//*[@role='alert']"))
    assert (name if name != "model" or not query else "threshold") in said
    assert "<b>" not in said


def test_the_last_page_of_a_table_may_be_behind_its_end(pages: Pages) -> None:
    for place, query in (("/", {}), ("/batch", {"batch": "b2"}), ("/search", {"text": "png"}), ("/compare", {})):
        pages.open(place, page=1_000_000, **query)


def test_an_unknown_address_gives_a_page_that_says_so(pages: Pages) -> None:
    for place in ("/nothing", "/%2e%2e/etc/passwd", "/overview", "/docs", "/openapi.json"):
        assert "There is no such page" in text(pages.open(place, 404))
    for place in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/", "/static/nothing.js"):
        pages.open(place, 404)
    page = pages.open("/batch", model="nobody", batch="gone")
    assert "The requested batch is not in the workspace" in text(page)
    assert "b2" in text(found(page, ".//h1"))
    pages.open("/image", 404, **{name: NOBODY[name] for name in ("model", "batch", "image", "path")})
    for place in LAZY:
        pages.open(place, **NOBODY)


def test_an_empty_workspace_tells_what_to_run(tmp_path: Path) -> None:
    pages = Pages(Workspace(tmp_path / "none"))
    for place in PLACES:
        page = text(pages.open(place))
        assert place == "/search" or "nelbo train --normal good/ --workspace" in page
    for place in LAZY:
        pages.open(place, **NOBODY)
    for name in ("batches", "runs", "reviews"):
        assert pages.get(f"/{name}.csv").content.count(b"\n") == 1
    # Reading creates nothing.
    assert not (tmp_path / "none").exists()


def test_files_of_the_first_version_have_pages(tmp_path: Path) -> None:
    """They lack columns, and the rows of runs have no counts."""
    workspace = Workspace(tmp_path / "old")
    version_1 = Path(__file__).parents[2] / "data" / "version_1"
    for place, name in ((workspace.scores("m1", "b1"), "scores"), (workspace.runs / "r1.parquet", "runs")):
        place.parent.mkdir(parents=True)
        place.write_bytes((version_1 / f"{name}.parquet").read_bytes())
    pages = Pages(workspace)
    for place in PLACES:
        assert "left out" not in text(pages.open(place))
    row = read_table(workspace.scores("m1", "b1")).to_pylist()[0]
    for place in ("/image", *LAZY):
        pages.open(place, **address_of(row, "b1", "m1"), threshold="1")


def test_pages_of_a_damaged_workspace_show_the_rest(own_three: Workspace) -> None:
    workspace = own_three
    run = sorted(workspace.runs.glob("*.parquet"))[0]
    damaged = [workspace.scores(MODEL, "b1"), workspace.flagged(MODEL, "b2"), run]
    for file in damaged:
        file.write_bytes(spoilt(file.read_bytes(), "cut"))
    pages = Pages(workspace)
    assert "303 images" not in text(pages.open("/batch", model=MODEL, batch="b2"))
    assert "310 images" in text(pages.open("/batch", model=MODEL, batch="b2"))
    for place in (*PLACES, "/batch?batch=b1", "/review?batch=b1", "/search?text=002"):
        page = pages.open(place)
        assert text(found(page, ".//h1"))
    said = text(next(iter(pages.open("/").findall(".//*[@role='alert']"))))
    assert "3 files cannot be read and are left out: " in said
    for file in damaged:
        assert str(Path(str(file)).relative_to(str(workspace.root))) in said
    assert str(workspace.root) not in said
    # The first page that needs a damaged file also names it.
    assert "left out" in text(Pages(workspace).open("/review", model=MODEL, batch="b1"))


def test_every_answer_has_the_content_security_policy(pages: Pages) -> None:
    for method, place, status in (
        ("GET", "/static/pages.js", 200),
        ("GET", "/health", 200),
        ("HEAD", "/", 405),
        ("GET", "/runs.csv", 200),
        ("GET", "/live", 200),
        ("PUT", "/batch", 405),
        ("POST", "/reviews", 422),
        ("GET", "/reviews", 405),
    ):
        answer = pages.ask(method, place)
        assert (method, place, answer.status_code) == (method, place, status)
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers.get("cache-control") in ("no-cache", "no-store")


def test_an_unexpected_error_shows_no_traceback(three: Workspace) -> None:
    import asyncio

    import httpx

    pages = Pages(three)
    app = make_app(three, None, ("testserver",))
    app._app.state.tables = None  # type: ignore[attr-defined]
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            return await client.get("/batch")

    answer = asyncio.run(ask())
    assert answer.status_code == 500
    assert "Traceback" not in answer.text
    assert "tables" not in answer.text
    assert pages.open("/batch")


def test_only_known_host_names_are_answered(three: Workspace) -> None:
    pages = Pages(three)
    for host, status in (
        ("testserver", 200),
        ("evil.example", 400),
        ("testserver:8501", 200),
        ("testserver.evil", 400),
    ):
        assert pages.ask("GET", "/batch", headers={"Host": host}).status_code == status


def test_times_are_sent_in_utc_for_the_browser_to_convert(pages: Pages) -> None:
    times = pages.open("/").findall(".//time")
    assert len(times) > 5
    for one in times:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one.attrib["datetime"])
        assert one.attrib["title"] == one.text == one.attrib["datetime"].replace("T", " ")[:16] + " UTC"
    assert f"{START:%Y-%m-%dT%H:%M:%S}Z" in [one.attrib["datetime"] for one in times]
