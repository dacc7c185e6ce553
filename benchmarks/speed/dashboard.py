"""The dashboard over 1,000,000 rows: 1,000 batches of 1,000, written here by nelbo's own writers.

    python -m benchmarks.speed.dashboard

prints the table of ``docs/evidence/benchmarks.md``: times in a browser (Chromium through Playwright), with a warm
server.
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
from PIL import Image
from scored import MODEL, START, add_batch, add_calibration
from synthetic import write_images

from nelbo.flows.workspace.layout import Workspace

N_BATCHES, N_IMAGES, N_ROUNDS = 1_000, 1_000, 7
#: Flagged images of the last batch, enough for a page of 200 pictures; and their side, the default model's input.
N_FLAGGED, SIDE_PX = 230, 256
LAST = "b-last"


def make_workspace(folder: Path) -> None:
    """Batches three hours apart, a few with many defects; the last one has its pictures."""
    workspace = Workspace.at(str(folder))
    calibration = add_calibration(workspace, n=1_999, fpr=0.01, review_fpr=0.05)
    for i in range(N_BATCHES - 1):
        paths = [f"line-{k % 4}/{i:04d}-{k:05d}.png" for k in range(N_IMAGES)]
        anomalous = 0.02 if i % 50 == 7 else 0.002
        add_batch(
            workspace, f"b{i:04d}", paths, calibration, anomalous=anomalous, at=START + i * timedelta(hours=3), seed=i
        )
    root = folder.parent / "pictures"
    files = write_images(root / "line", N_IMAGES, seed=1)
    for file in files:
        Image.open(file).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC).save(file)
    paths = [file.relative_to(root).as_posix() for file in files]
    defects = [i < N_FLAGGED for i in range(N_IMAGES)]
    at = START + N_BATCHES * timedelta(hours=3)
    add_batch(workspace, LAST, paths, calibration, root=root, anomalous=defects, at=at, seed=0)


def timed(name: str, action: Callable[[], Any]) -> None:
    """Run an action several times and print the median and the slowest in seconds; the first run warms up."""
    seconds = []
    for _ in range(N_ROUNDS + 1):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    print(f"| {name} | {median(seconds[1:]):.2f} | {max(seconds[1:]):.2f} |", flush=True)


def measure(browser: Any, address: str) -> None:
    """Time pages from the address to everything on them, and filters and keys from the key to their effect."""
    page = Watched(browser.new_page())
    batch = f"{address}/batch?model={MODEL}&batch=b0123"
    print("| what | median, s | slowest, s |\n|---|---|---|")
    print(f"load of this machine: {os.getloadavg()[0]:.1f}", file=sys.stderr)
    timed("Home, all of it", lambda: page.open(address))
    timed("Batch, all of it", lambda: page.open(batch))
    timed("200 pictures", lambda: page.open(f"{address}/batch?model={MODEL}&batch={LAST}&shown=200"))
    assert page.page.locator("#pictures img").count() == 200
    timed("Search over all batches", lambda: page.open(f"{address}/search?text=0123-00042"))
    page.open(batch)
    words = iter(range(1_000))

    def search() -> None:
        text = f"line-{next(words) % 4}/0123"
        page.page.get_by_label("Text in the path").fill(text)
        page.page.wait_for_url(f"**text={text.replace('/', '%2F')}**")
        page.page.get_by_text(f"250 of {N_IMAGES:,} images.").wait_for()

    timed("filter by text in the path", search)
    said, slider = page.page.get_by_text(re.compile("^Above ")), page.page.get_by_role("slider")

    def drag() -> None:
        before = said.inner_text()
        slider.press("ArrowRight")
        page.page.wait_for_function("before => !document.body.innerText.includes(before)", arg=before)

    timed("another threshold", drag)
    page.open(f"{address}/review?model={MODEL}&batch={LAST}")
    page.page.get_by_label("Your name").fill("Ann")
    page.page.keyboard.press("Enter")

    def decide() -> None:
        before = page.page.locator("#item h2").inner_text()
        page.page.keyboard.press("d")
        page.page.wait_for_function(
            "before => ![before, ''].includes(document.querySelector('#item h2')?.innerText ?? '') && "
            "document.querySelector('#item img').naturalWidth > 0",
            arg=before,
            polling=5,
        )

    page.page.locator("#item h2").wait_for()
    timed("a decision, until the next image is there", decide)
    page.page.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(aside) / "workspace"
        if not folder.exists():
            make_workspace(folder)
        with dashboard(folder, Path(aside)) as address, chromium() as browser:
            measure(browser, address)
