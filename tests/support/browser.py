"""A real browser on a real dashboard."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import end, free_port, wait_for

CHROMIUM = shutil.which("chromium")
_NELBO = Path(sys.executable).with_name("nelbo")


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


@contextmanager
def dashboard(
    workspace: Path | str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    *,
    before: Sequence[str] = (),
    more: Sequence[str] = (),
) -> Iterator[str]:
    """The address of ``nelbo dashboard`` over a workspace; its log is in the folder.

    Args:
        before: what goes before the command; more: options behind it.
    """
    port, log = free_port(), folder / "dashboard.log"
    command = [*before, _NELBO, "dashboard", "--workspace", str(workspace), "--port", str(port), *more]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NELBO_", "STREAMLIT_"))}
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            env=kept | dict(environment or {}),
            cwd=folder,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: _answers(address, server, log), f"the dashboard, see {log}")
        yield address
    finally:
        end(server)


def _answers(address: str, server: "subprocess.Popen[bytes]", log: Path) -> bool:
    assert server.poll() is None, log.read_text()
    try:
        return httpx.get(f"{address}/_stcore/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@dataclass
class Watched:
    """A page of a browser, and what went wrong on it: errors, warnings, dialogs and requests that failed."""

    page: Any
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # The first visit imports what the pages need; on a busy machine that takes a while.
        self.page.set_default_timeout(120_000)
        self.page.on("console", lambda message: self._console(message))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.problems.append(dialog.message), dialog.dismiss()))
        self.page.on("requestfailed", lambda request: self._failed(request))

    def open(self, address: str) -> None:
        """Go to an address, and wait until everything is drawn."""
        self.page.goto(address)
        # Before the first run there is nothing, which is as still as after it. Every page has a title.
        self.page.wait_for_selector("h1")
        self.settle()

    def settle(self) -> None:
        """Wait until Streamlit has run the page to its end."""
        self.page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"], input[type=password]')
        self.page.wait_for_function("!document.querySelector('[data-stale=true]')")
        self.problems += self.page.locator('[data-testid="stException"]').all_inner_texts()

    def findings(self) -> list[str]:
        """What axe-core finds that is serious or critical."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [
            f"{one['impact']}: {one['help']}: {node['html'][:200]}"
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    def _failed(self, request: Any) -> None:
        # What is still on its way when a page is left is given up.
        if request.failure != "net::ERR_ABORTED":
            self.problems.append(f"{request.failure}: {request.url[:80]}")

    def _console(self, message: Any) -> None:
        # Streamlit looks for its server below the address of the page first; the door answers with 401.
        looking = re.search(r"/\w+/_stcore/(health|host-config)$", message.location.get("url", ""))
        if message.type in ("error", "warning") and not looking and "status of 401" not in message.text:
            self.problems.append(message.text)
