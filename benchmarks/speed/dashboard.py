"""The dashboard over 1,000,000 rows: 400 batches of 2,500, made here by nelbo's own writers.

    python -m benchmarks.speed.dashboard

prints the table of ``docs/benchmarks.md``: what a browser (Chromium through Playwright) sees of a server that is warm.
"""

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "tests" / "support"))
from browser import Watched, chromium, dashboard
from scored import MODEL, START, add_batch, add_calibration

from nelbo.flows.workspace.layout import Workspace

N_BATCHES, N_IMAGES, N_ROUNDS = 400, 2_500, 7


def make_workspace(folder: Path) -> None:
    """Batches three hours apart, a few with many defects."""
    workspace = Workspace.at(str(folder))
    calibration = add_calibration(workspace, n=1_999, fpr=0.01, review_fpr=0.05)
    for i in range(N_BATCHES):
        paths = [f"line-{k % 4}/{i:04d}-{k:05d}.png" for k in range(N_IMAGES)]
        anomalous = 0.02 if i % 50 == 7 else 0.002
        add_batch(
            workspace, f"b{i:04d}", paths, calibration, anomalous=anomalous, at=START + i * timedelta(hours=3), seed=i
        )


def timed(name: str, action: Callable[[], Any]) -> None:
    """Run an action some times and print the median and the slowest in seconds; the first run warms up."""
    seconds = []
    for _ in range(N_ROUNDS + 1):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    print(f"| {name} | {median(seconds[1:]):.2f} | {max(seconds[1:]):.2f} |", flush=True)


def measure(browser: Any, address: str) -> None:
    """First paint: from the address to the sentence with the numbers. Filter: from the key to the count."""
    page = Watched(browser.new_page())
    batch = f"{address}/batch?model={MODEL}&batch=b0123"

    def paint(at: str, text: str) -> None:
        page.page.goto(at)
        page.page.get_by_text(text).first.wait_for()

    def whole(at: str) -> None:
        page.open(at)

    print("| what | median, s | slowest, s |\n|---|---|---|")
    print(f"load of this machine: {os.getloadavg()[0]:.1f}", file=sys.stderr)
    timed("Overview, first paint", lambda: paint(address, "The newest batch, b0399"))
    timed("Overview, all of it", lambda: whole(address))
    timed("Batch, first paint", lambda: paint(batch, "2,500 images: "))
    timed("Batch, all of it", lambda: whole(batch))
    words = iter(range(1_000))

    def search() -> None:
        word = f"line-{next(words) % 4}/0123"
        page.page.get_by_label("Text in the path").fill(word)
        page.page.keyboard.press("Enter")
        page.page.wait_for_url(f"**text={word.replace('/', '%2F')}**")
        page.page.get_by_text("625 of 2,500 images.").wait_for()
        page.settle()

    timed("filter by text in the path", search)
    said, slider = page.page.get_by_text(re.compile("^Above ")), page.page.get_by_role("slider")

    def drag() -> None:
        before = said.inner_text()
        slider.press("ArrowRight")
        page.page.wait_for_function("before => !document.body.innerText.includes(before)", arg=before)

    timed("another threshold", drag)
    page.page.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(aside) / "workspace"
        if not folder.exists():
            make_workspace(folder)
        with dashboard(folder, Path(aside)) as address, chromium() as browser:
            measure(browser, address)
