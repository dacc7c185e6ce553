"""What only a browser can test: keys, deferred parts, colours, narrow screens, and a walk through the pages."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from browser import Server, Watched, dashboard
from scored import ATTACKS, MODEL, START, add_batch, add_calibration, address_of, make_two_models
from servers import wait_for
from synthetic import write_images

from nelbo.data import read_table
from nelbo.flows.numbers import number
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import latest_reviews

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(two_models: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with dashboard(two_models.root, tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    """A page of a fresh browser context; fails at the end if anything went wrong on it."""
    with browser.new_context(viewport={"width": 1280, "height": 900}, timezone_id="Asia/Tokyo") as context:
        found = Watched(context.new_page())
        yield found
        found.settle()
        assert found.problems == []


def name_oneself(page: Any, name: str = "Ann") -> None:
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Begin").click()


def wait_for_image(page: Any, image_id: str) -> None:
    page.wait_for_function("id => document.getElementById('item').dataset.shown === id", arg=image_id)


def wait_for_fetched(page: Any, items: list[dict[str, str]]) -> None:
    page.wait_for_function(
        """ids => { const names = performance.getEntriesByType('resource').map(one => one.name);
        return ids.every(id => names.some(name => name.includes('/review/image') && name.includes(id))); }""",
        arg=[item["image"] for item in items],
    )


def queue(page: Any) -> list[dict[str, str]]:
    return list(page.evaluate("JSON.parse(document.getElementById('queue').textContent)"))


def kept(workspace: Workspace) -> list[dict[str, Any]]:
    """The rows of all reviews, the oldest first."""
    rows = catalog.all_rows(workspace, "reviews").to_pylist()
    return sorted(rows, key=lambda row: row["reviewed_at_utc"])


# Accessibility


def places(scores: pd.DataFrame) -> dict[str, str]:
    query = "&".join(f"{name}={value}" for name, value in address_of(scores.iloc[0]).items())
    return {
        "Home": "/",
        "Batch": f"/batch?model={MODEL}&batch=shift",
        "Image": f"/image?{query}",
        "Review": f"/review?model={MODEL}&batch=shift",
        "Compare": f"/compare?model={MODEL}&batch=shift",
        "Search": "/search?text=blot",
        "Not there": "/nothing",
    }


@pytest.mark.parametrize("name", ["Home", "Batch", "Image", "Review", "Compare", "Search", "Not there"])
def test_pages_are_accessible(address: str, watched: Watched, scores: pd.DataFrame, name: str) -> None:
    """In dark and light colours, on a wide and on a narrow screen."""
    page = watched.page
    if name == "Review":
        watched.open(address + places(scores)[name])
        name_oneself(page)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        watched.open(address + places(scores)[name])
        if name == "Review":
            wait_for_image(page, queue(page)[0]["image"])
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert watched.findings() == [], (width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), width
    if name == "Not there":
        watched.problems = [one for one in watched.problems if "404" not in one]


def test_every_control_is_reached_by_keyboard(address: str, watched: Watched, scores: pd.DataFrame) -> None:
    for name, place in places(scores).items():
        watched.open(address + place)
        watched.page.evaluate("document.activeElement.blur()")
        wanted = watched.page.evaluate(
            """() => [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex="0"]')]
            .filter(one => one.checkVisibility() && one.type !== 'hidden').length"""
        )
        seen = set()
        for _ in range(wanted + 5):
            watched.page.keyboard.press("Tab")
            seen.add(
                watched.page.evaluate(
                    """() => { const one = document.activeElement; if (one === document.body) return -1;
                    window.places ??= new Map(); if (!places.has(one)) places.set(one, places.size);
                    const shown = getComputedStyle(one);
                    return shown.outlineStyle === 'none' ? 'unseen ' + one.outerHTML : places.get(one); }"""
                )
            )
        seen.discard(-1)
        assert not [one for one in seen if isinstance(one, str)], name
        assert len(seen) == wanted, name
        if name == "Not there":
            watched.problems = [one for one in watched.problems if "404" not in one]


# Parts that are drawn later


def test_a_batch_appears_while_the_page_is_open(own: Workspace, tmp_path: Path, watched: Watched) -> None:
    """Times are shown in the visitor's time zone."""
    page = watched.page
    with dashboard(own.root, tmp_path) as at:
        watched.open(at)
        listed, loads = page.get_by_role("region", name="Batches"), list[str]()
        page.on("load", lambda: loads.append(page.url))
        page.get_by_role("link", name="shift").first.wait_for()
        time = page.locator(f"time[datetime='{START:%Y-%m-%dT%H:%M:%S}Z']").first
        assert time.get_attribute("title") == "2026-10-01 06:00 UTC"
        # Tokyo is nine hours ahead.
        assert re.search(r"\b(3:00\sPM|15:00)", time.inner_text())
        page.get_by_label("Text in the name").fill("ne")
        page.wait_for_url("**text=ne**")
        page.get_by_text("0 batches, the newest first.").wait_for()
        add_batch(own, "newest", ["a.png"], None, not_scored=0, at=START + timedelta(days=9))
        listed.get_by_role("cell", name="newest").wait_for()
        page.get_by_text("1 batch, the newest first.").wait_for()
        assert page.get_by_label("Text in the name").input_value() == "ne"
        assert re.search(r"\b(3:00\sPM|15:00)", listed.get_by_role("row", name="newest").locator("time").inner_text())
        assert loads == []
        # Links in a table that was drawn later work.
        listed.get_by_role("cell", name="newest").get_by_role("link").click()
        page.get_by_role("heading", name="newest").wait_for()
        page.go_back()
        page.get_by_text("1 batch, the newest first.").wait_for()
        page.goto("about:blank")


def test_the_table_of_files_filters_pages_and_links(address: str, watched: Watched) -> None:
    page = watched.page
    watched.open(f"{address}/batch?model={MODEL}&batch=shift")
    page.get_by_role("link", name="Next →").click()
    page.get_by_text("Page 2 of 2").wait_for()
    page.wait_for_url("**page=2**")
    page.get_by_label("Text in the path").fill("<IMG")
    page.get_by_text("1 of 40 images.").wait_for()
    page.wait_for_url("**text=%3CIMG**")
    page.get_by_label("anomalous", exact=False).first.check()
    page.wait_for_url("**verdict=anomalous**")
    # Each step back restores the page, with its fields, before the next one.
    export = page.locator("#files").get_by_role("link", name="CSV")
    page.go_back()
    page.locator("#files a[href^='/files.csv']:not([href*='verdict'])").wait_for()
    assert not page.get_by_label("anomalous", exact=False).first.is_checked()
    page.wait_for_load_state()
    page.go_back()
    page.get_by_text("Page 2 of 2").wait_for()
    assert page.get_by_label("Text in the path").input_value() == ""
    assert "page=2" in page.url
    page.get_by_label("Text in the path").fill("<img")
    page.get_by_text("1 of 40 images.").wait_for()
    with page.expect_download() as found:
        export.click()
    assert "onerror" in Path(found.value.path()).read_text("utf-8-sig")
    page.get_by_role("cell", name=ATTACKS[0]).get_by_role("link").click()
    page.get_by_role("heading", name=ATTACKS[0]).wait_for()
    page.get_by_alt_text(f"original of {ATTACKS[0]}").wait_for()
    assert page.locator("img[src=x]").count() == 0


def test_the_slider_counts_as_it_moves(address: str, watched: Watched, scores: pd.DataFrame) -> None:
    page = watched.page
    watched.open(f"{address}/batch?model={MODEL}&batch=shift")
    found = []
    for presses in (0, 40):
        for _ in range(presses):
            page.get_by_role("slider").press("ArrowLeft")
        threshold = float(page.get_by_role("slider").input_value())
        found.append(int((scores["anomaly_score"] > threshold).sum()))
        page.get_by_text(f"Above {number(threshold)}: {found[-1]} of ").wait_for()
    assert found[1] > found[0]


def test_a_batch_opens_by_a_button_and_a_side_changes_without_one(address: str, watched: Watched) -> None:
    page = watched.page
    watched.open(f"{address}/compare?model={MODEL}&batch=shift")
    page.get_by_label("Batch").select_option(label=f"repeat · model {MODEL[:10]}")
    # On the keyboard each arrow selects another batch, which opens only on request.
    page.get_by_role("button", name="Open").click()
    page.wait_for_url("**chosen=**repeat**")
    page.wait_for_function("() => document.querySelectorAll('select[name=a] option').length === 3")
    chosen = page.locator("select[name=b]").select_option(index=2)
    page.wait_for_url(f"**b={chosen[0]}**")
    page.get_by_role("heading", name="Same verdict on").wait_for()


# Decisions


def pressed(page: Any, key: str, item: dict[str, str]) -> None:
    wait_for_image(page, item["image"])
    page.keyboard.press(key)


@pytest.fixture
def many(tmp_path: Path) -> Workspace:
    """A batch with 110 images, all flagged, and three kinds of defects that people have named before."""
    workspace, root = Workspace.at(str(tmp_path / "workspace")), tmp_path / "images"
    names = [path.name for path in write_images(root, 110, seed=4)]
    add_batch(workspace, "b1", names, add_calibration(workspace), root=root, anomalous=1.0, not_scored=0, shift=9)
    return workspace


def test_no_decision_is_lost_when_the_server_is_killed(many: Workspace, tmp_path: Path, watched: Watched) -> None:
    """Each of 100 decisions by keyboard arrives one time, in the order of the keys."""
    page, server = watched.page, Server(many.root, tmp_path)
    watched.is_forgiving = True
    expected: list[tuple[str, str, str | None, str]] = []
    try:
        server.start()
        watched.open(f"{server.address}/review?batch=b1")
        name_oneself(page, "Zoë <b>")
        items, i = queue(page), 0

        def press(key: str, decision: str, kind: str | None = None, note: str = "") -> None:
            nonlocal i
            pressed(page, key, items[i])
            expected.append((items[i]["image"], decision, kind, note))
            i += 1

        # A kind that is named during the review has a key from then on.
        for kind in ("crack", "dent"):
            wait_for_image(page, items[i]["image"])
            page.keyboard.press("n")
            page.keyboard.type(f"#{kind}")
            page.keyboard.press("Enter")
            press("d", "anomalous", kind)
        while len(expected) < 30:
            press("d", "anomalous") if i % 2 else press("g", "normal")
        press("2", "anomalous", "dent")
        press("1", "anomalous", "crack")
        # A digit without a kind does nothing; a key that is held down counts one time.
        pressed(page, "7", items[i])
        page.keyboard.down("g")
        for _ in range(3):
            page.keyboard.down("g")
        page.keyboard.up("g")
        expected.append((items[i]["image"], "normal", None, ""))
        i += 1
        # Letters typed into the note are not shortcuts.
        wait_for_image(page, items[i]["image"])
        page.keyboard.press("n")
        page.keyboard.type("d g s u 1 good")
        page.keyboard.press("Enter")
        press("d", "anomalous", None, "d g s u 1 good")
        # Skip an image, and undo that.
        pressed(page, "s", items[i])
        i += 1
        press("g", "normal")
        wait_for_image(page, items[i]["image"])
        page.keyboard.press("u")
        i -= 1
        expected.append((items[i]["image"], "withdrawn", None, ""))
        press("1", "anomalous", "crack")
        # The server is killed midway; decisions made meanwhile wait.
        while len(expected) < 60:
            press("d", "anomalous") if i % 2 else press("g", "normal")
        wait_for_fetched(page, items[i : i + 5])
        press("d", "anomalous")
        server.kill()
        for _ in range(3):
            press("g", "normal")
        page.get_by_text(re.compile(r"^[1-9]\d* waiting for the server: the server does not answer$")).wait_for()
        server.start()
        while len(expected) < 103:
            press("d", "anomalous") if i % 2 else press("g", "normal")
        page.get_by_text("all kept", exact=True).wait_for()
        assert page.get_by_text("101 of 110 decided").count() == 1
    finally:
        server.kill()
    rows = kept(many)
    assert [(row["image_id"], row["decision"], row["kind"], row["note"]) for row in rows] == expected
    assert len({row["review_id"] for row in rows}) == len(rows) == 103
    assert {row["reviewer"] for row in rows} == {"Zoë <b>"}
    assert latest_reviews(many).num_rows == 101


def test_decisions_survive_a_closed_page(many: Workspace, tmp_path: Path, watched: Watched) -> None:
    """The browser keeps them until the server answers again."""
    page, server = watched.page, Server(many.root, tmp_path)
    watched.is_forgiving = True
    try:
        server.start()
        watched.open(f"{server.address}/review?batch=b1")
        name_oneself(page)
        items = queue(page)
        wait_for_image(page, items[0]["image"])
        wait_for_fetched(page, items[:5])
        server.kill()
        for i in range(3):
            pressed(page, "d", items[i])
        page.get_by_text("3 waiting for the server: the server does not answer").wait_for()
        page.close()
        server.start()
        again = Watched(page.context.new_page())
        again.open(f"{server.address}/review?batch=b1")
        wait_for(lambda: len(kept(many)) == 3, "the decisions")
        assert [row["image_id"] for row in kept(many)] == [item["image"] for item in items[:3]]
        assert again.page.get_by_label("Your name").input_value() == "Ann"
        assert again.problems == []
        watched.page = again.page
    finally:
        server.kill()


def test_the_next_image_is_prefetched(address: str, watched: Watched) -> None:
    page, asked = watched.page, list[str]()
    watched.open(f"{address}/review?model={MODEL}&batch=shift")
    name_oneself(page)
    items = queue(page)
    # The page prefetches five images.
    wait_for_fetched(page, items[:6])
    wait_for_image(page, items[0]["image"])
    page.on("request", lambda request: asked.append(request.url))
    at_once = page.evaluate(
        """async ids => {
            const item = document.getElementById('item');
            document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 's', bubbles: true }));
            await new Promise(requestAnimationFrame);
            const pictures = [...item.querySelectorAll('img')];
            return item.dataset.shown === ids[1] && pictures.length > 0 && pictures.every(one => one.complete);
        }""",
        [item["image"] for item in items],
    )
    assert at_once
    # One more image is prefetched, and the one on show is not fetched again.
    wait_for_fetched(page, items[:7])
    assert not [url for url in asked if items[1]["image"] in url]


def test_a_user_gets_from_the_first_batch_to_a_candidate_threshold(tmp_path: Path, watched: Watched) -> None:
    page, workspace = watched.page, make_two_models(tmp_path / "walk")
    # Calibration by reviews does not need the model itself.
    (workspace.models / MODEL / "checksums.json").write_text("{}")
    with dashboard(workspace.root, tmp_path) as at:
        watched.open(at)
        page.get_by_role("link", name="shift").first.click()
        page.get_by_role("heading", name="shift").wait_for()
        worst = page.locator("#pictures li").first
        path = worst.locator("a").inner_text().strip()
        worst.locator("a").click()
        page.get_by_role("heading", name=path, exact=True).wait_for()
        page.get_by_alt_text(f"original of {path}").wait_for()
        page.get_by_role("link", name="Review it").click()
        name_oneself(page)
        items = queue(page)
        assert items[0]["path"] == path
        for i in range(20):
            pressed(page, "d" if "blot" in items[i]["path"] or "<img" in items[i]["path"] else "g", items[i])
        page.get_by_text("all kept", exact=True).wait_for()
        page.get_by_text("What a decision changes").click()
        command = page.locator("details pre").inner_text().strip()
        assert command.startswith(f"nelbo calibrate --model {MODEL} --labels reviews --objective youden --workspace ")
        before = set(catalog.calibration_ids(workspace))
        done = subprocess.run(
            [Path(sys.executable).with_name("nelbo"), *shlex.split(command)[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (made,) = set(catalog.calibration_ids(workspace)) - before
        watched.open(f"{at}/compare?model={MODEL}&batch=shift")
        assert page.locator(f"option[value='{made}']").count() == 2
        watched.open(f"{at}/review?model={MODEL}&batch=shift")
        with page.expect_download() as found:
            page.get_by_role("link", name="CSV").click()
        rows = pd.read_csv(found.value.path())
        # Stop prefetching before the server ends.
        page.goto("about:blank")
    assert len(rows) == 20
    assert set(rows["image_id"]) == {item["image"] for item in items[:20]}
    assert set(rows["reviewer"]) == {"Ann"}
    assert read_table(workspace.scores(MODEL, "shift")).num_rows == 40
