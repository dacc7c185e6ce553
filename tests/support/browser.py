"""Visitors to a dashboard: a real browser on a real server, and one without scripts that calls the app directly."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from xml.etree.ElementTree import Element, SubElement

import httpx
import pytest
from servers import end, free_port, wait_for

from nelbo.flows.dashboard.app import make_app
from nelbo.flows.workspace.layout import Workspace

CHROMIUM = shutil.which("chromium")
_NELBO = Path(sys.executable).with_name("nelbo")
#: Elements without an end tag.
_VOID = {"base", "br", "circle", "col", "hr", "img", "input", "line", "link", "meta", "path", "rect"}


@contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's browser; the test is skipped where Chromium is not installed."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian package chromium)")
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield browser
        browser.close()


@dataclass
class Server:
    """``nelbo dashboard`` over a workspace, in a process of its own; its log is in the folder.

    before: what goes before the command; more: options that follow it.
    """

    workspace: Path | str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    before: Sequence[str] = ()
    more: Sequence[str] = ()
    port: int = field(default_factory=free_port)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "dashboard.log"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["--workspace", str(self.workspace), "--port", str(self.port), *self.more]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("NELBO_")}
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*self.before, _NELBO, "dashboard", *options],
                env=kept | dict(self.environment),
                cwd=self.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wait_for(self._answers, f"the dashboard, see {self.log}")

    def kill(self) -> None:
        """End it by SIGKILL, whatever it is doing."""
        end(self.process)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.address}/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def dashboard(
    workspace: Path | str, folder: Path, environment: Mapping[str, str] | None = None, **options: Any
) -> Iterator[str]:
    """The address of a `Server` with these options."""
    server = Server(workspace, folder, environment or {}, **options)
    try:
        server.start()
        yield server.address
    finally:
        server.kill()


@dataclass
class Watched:
    """A page of a browser, and what went wrong on it: errors, warnings, dialogs and requests that failed.

    is_forgiving: whether requests may fail, as they do when their server is killed.
    """

    page: Any
    problems: list[str] = field(default_factory=list)
    is_forgiving: bool = False

    def __post_init__(self) -> None:
        # On a busy machine everything takes a while.
        self.page.set_default_timeout(60_000)
        self.page.on("console", lambda message: self._console(message))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.problems.append(dialog.message), dialog.dismiss()))
        self.page.on("requestfailed", lambda request: self._failed(request))

    def open(self, address: str) -> None:
        """Go to an address, and wait until everything is drawn."""
        self.page.goto(address)
        self.settle()

    def settle(self) -> None:
        """Wait until htmx has drawn every pending response."""
        self.page.wait_for_function(
            """() => document.readyState === 'complete'
            && !document.querySelector('.htmx-request, .htmx-swapping, .htmx-settling')"""
        )

    def findings(self) -> list[str]:
        """The violations that axe-core calls serious or critical."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [
            f"{one['impact']}: {one['help']}: {node['html'][:200]}"
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    def _failed(self, request: Any) -> None:
        # The browser aborts requests that are still pending when it leaves a page.
        if request.failure != "net::ERR_ABORTED" and not self.is_forgiving:
            self.problems.append(f"{request.failure}: {request.url[:80]}")

    def _console(self, message: Any) -> None:
        # The login page answers with status 401, and the browser logs that.
        is_failure = self.is_forgiving and "Failed to load resource" in message.text
        if message.type in ("error", "warning") and not is_failure and "status of 401" not in message.text:
            self.problems.append(message.text)


# Without a browser


class Pages:
    """A dashboard's app over a workspace, called in this process; every page is checked as it is opened."""

    def __init__(self, workspace: Workspace, password: str | None = None) -> None:
        self.workspace = workspace
        self.app = make_app(workspace, password, ("testserver",))

    def ask(self, method: str, address: str, **options: Any) -> httpx.Response:
        """The response to a request."""

        async def answer() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
                return await client.request(method, address, **options)

        return asyncio.run(answer())

    def get(self, place: str, status: int = 200, **query: Any) -> httpx.Response:
        """The response to a GET request, whose status is checked."""
        answer = self.ask("GET", f"{place}?{urlencode(query, doseq=True)}" if query else place)
        assert answer.status_code == status, answer.text[:2000]
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"
        return answer

    def open(self, place: str, status: int = 200, **query: Any) -> Element:
        """A page, or a part of one; fails if it holds anything that a file name could have injected."""
        answer = self.get(place, status, **query)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "Traceback" not in answer.text
        root = parsed(answer.text)
        for one in root.iter():
            assert not [name for name in one.attrib if name.startswith("on")]
            assert not re.match(r"\s*(javascript|data:text)", one.get("href", one.get("src", "")), re.IGNORECASE)
            if one.tag == "script":
                assert one.get("type") == "application/json" or str(one.get("src")).startswith("/static/")
            if one.tag == "img":
                assert one.attrib.keys() == {"src", "alt"}
                assert one.attrib["src"].startswith(("data:image/jpeg;base64,", "data:image/png;base64,"))
        return root


def text(element: Element) -> str:
    """The text of an element, with one space between words."""
    return " ".join("".join(_words(element)).split())


def _words(element: Element) -> Iterator[str]:
    if element.tag in ("script", "style"):
        return
    # Inline elements run on; blocks do not.
    space = "" if element.tag in ("a", "b", "code", "kbd", "span", "time") else " "
    yield space + (element.text or "")
    for one in element:
        yield from _words(one)
        yield one.tail or ""
    yield space


def found(root: Element, path: str) -> Element:
    """The one element at a path."""
    (one,) = root.findall(path)
    return one


def parsed(html: str) -> Element:
    """The elements of a page or a part of one; fails if any is left open."""
    builder = _Builder()
    builder.feed(html)
    builder.close()
    assert len(builder.open) == 1, f"left open: {[one.tag for one in builder.open]}"
    return builder.open[0]


class _Builder(HTMLParser):
    """Builds an XML tree from HTML, so that paths find elements."""

    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("all")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        one = SubElement(self.open[-1], tag, {name: value or "" for name, value in attrs})
        if tag not in _VOID:
            self.open.append(one)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop().tag == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        last = self.open[-1]
        if len(last):
            last[-1].tail = (last[-1].tail or "") + data
        else:
            last.text = (last.text or "") + data
