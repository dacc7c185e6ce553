"""The dashboard's pictures in ``docs/images/``, of a workspace of synthetic images.

    python benchmarks/screenshots.py

Run it again when a page looks different.
"""

import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from browser import Watched, chromium, dashboard
from scored import MODEL, START, add_batch, add_calibration
from synthetic import write_images

from data import Preprocessing, write_json
from flows.workspace import Workspace

IMAGES = Path(__file__).parents[1] / "docs" / "images"
N_BATCHES = 60
LAST = f"model={MODEL}&batch=line-{N_BATCHES:03d}"

#: Name of the picture, colours, address, and the part of the page that is shown, in CSS pixels.
PICTURES = (
    ("overview", "light", "/", 1_080),
    ("batch", "dark", f"/batch?{LAST}", 1_080),
    ("review", "light", f"/review?{LAST}", 860),
)


def make_workspace(folder: Path) -> Path:
    """Two weeks of batches; two of them with many defects, and the last one with its images."""
    workspace = Workspace.at(str(folder / "workspace"))
    described = {"config": {}, "preprocessing": Preprocessing(32, 32).to_dict(), "training": {"seen": []}}
    write_json(described, workspace.models / MODEL / "model.json")
    calibration = add_calibration(workspace, n=1_999, fpr=0.02, review_fpr=0.05)
    for i in range(1, N_BATCHES):
        paths = [f"{k:04d}.png" for k in range(300 + 40 * (i % 5))]
        anomalous = 0.15 if i in (23, 41) else 0.005
        at = START + i * timedelta(hours=6)
        add_batch(workspace, f"line-{i:03d}", paths, calibration, anomalous=anomalous, at=at, seed=i)
    root = folder / "images"
    files = [*write_images(root / "tiles", 340, seed=1), *write_images(root / "tiles", 20, seed=2, blot=True)]
    names = [file.relative_to(root).as_posix() for file in files]
    defects = ["blot" in name for name in names]
    at = START + N_BATCHES * timedelta(hours=6)
    add_batch(workspace, f"line-{N_BATCHES:03d}", names, calibration, root=root, anomalous=defects, at=at, seed=0)
    return folder / "workspace"


def take(browser: Any, address: str) -> None:
    """Write the pictures."""
    for name, scheme, path, height in PICTURES:
        context = browser.new_context(color_scheme=scheme, viewport={"width": 1_280, "height": height})
        page = Watched(context.new_page())
        page.open(address + path)
        # Plots are drawn after the page has settled.
        page.page.wait_for_timeout(3_000)
        page.page.screenshot(path=IMAGES / f"dashboard-{name}.png", scale="css")
        context.close()


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as aside,
        dashboard(make_workspace(Path(aside)), Path(aside)) as address,
        chromium() as browser,
    ):
        take(browser, address)
