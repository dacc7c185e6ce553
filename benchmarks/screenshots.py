"""The pictures in ``docs/images/``, from synthetic images: the pages of the dashboard, and a report.

    python -m benchmarks.screenshots

Run it again when a page looks different.
"""

import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from browser import Watched, chromium, dashboard
from scored import MODEL, START, add_batch, add_calibration
from synthetic import write_images

from nelbo.data import Preprocessing, read_table, write_json
from nelbo.flows.options.options import CalibrateOptions, ScoreOptions, TrainOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.workspace.layout import Workspace

IMAGES = Path(__file__).parents[1] / "docs" / "images"
N_BATCHES = 60
LAST = f"model={MODEL}&batch=line-{N_BATCHES:03d}"
_WAIT_MS = 2_000
#: Size of the window in CSS pixels, by the suffix of a picture's name.
_SIZES = {"": (1_280, 900), "-768": (768, 900), "-390": (390, 800)}


def make_workspace(folder: Path) -> Path:
    """Two weeks of batches: two of them with many defects, the last one with its images."""
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


def write_plates(folder: Path, n: int, seed: int, *, scratched: bool = False) -> None:
    """Brushed plates with four holes; some with a scratch, or without one of the holes."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for i in range(n):
        grain = cv2.GaussianBlur(random.normal(0, 40, (256, 256)), (0, 0), sigmaX=14, sigmaY=1)
        plate = 150 + 18 * np.sin(np.arange(256) / 9 + random.normal(0, 0.3))[:, None] + random.normal(0, 6) + grain
        holes = [(x, y) for x in (64, 192) for y in (64, 192)]
        for x, y in holes[scratched and i % 3 == 0 :]:
            cv2.circle(
                plate, (x + int(random.integers(-2, 3)), y + int(random.integers(-2, 3))), 13, 70, -1, cv2.LINE_AA
            )
        if scratched and i % 3:
            start, end = random.integers(40, 216, (2, 2)).tolist()
            cv2.line(plate, start, end, float(random.choice([60, 235])), int(random.integers(2, 5)), cv2.LINE_AA)
        shown = np.clip(plate + random.normal(0, 3, (256, 256)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{'defect' if scratched else 'plate'}_{seed}_{i:03d}.png"), shown)


def make_small_workspace(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A workspace with a trained model, one batch and a second calibration; and the result of scoring."""
    write_plates(folder / "normal", 120, seed=3)
    write_plates(folder / "new", 200, seed=4)
    write_plates(folder / "new", 16, seed=5, scratched=True)
    workspace = str(folder / "small")
    small = {"workspace": workspace, "normal": str(folder / "normal")}
    execute("train", TrainOptions(**small, fpr=0.05, review_fpr=0.2), prefect=False)
    scored = execute("score", ScoreOptions(images=str(folder / "new"), workspace=workspace, batch_id="line-a"), False)
    write_plates(folder / "fresh", 60, seed=6)
    fresh = small | {"normal": str(folder / "fresh")}
    execute("calibrate", CalibrateOptions(**fresh, fpr=0.1), prefect=False)
    return Path(workspace), scored


def take(browser: Any, name: str, scheme: str, address: str, click: str | None = None) -> None:
    """Write the pictures of a page, one for each of `_SIZES`.

    Args:
        scheme: "light" or "dark".
        click: what is clicked first.
    """
    for suffix, (width, height) in _SIZES.items():
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})
        page = Watched(context.new_page())
        page.open(address) if address.startswith("http") else page.page.goto(address)
        if "/review" in address:
            page.page.get_by_label("Your name").fill("Ann")
            page.page.keyboard.press("Enter")
            page.page.locator("#item h2").wait_for()
        # Some parts are fetched after the page has loaded.
        page.page.wait_for_timeout(_WAIT_MS)
        if click:
            page.page.locator(click).first.click()
        path = IMAGES / f"{name}{suffix}.png"
        page.page.screenshot(path=path, scale="css")
        # Half as large, without a visible difference.
        Image.open(path).quantize(256).save(path, optimize=True)
        context.close()


def main() -> None:
    """Make the workspaces and write the pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as aside, chromium() as browser:
        folder = Path(aside)
        with dashboard(make_workspace(folder), folder) as address:
            take(browser, "dashboard-home", "light", address)
            take(browser, "dashboard-batch", "dark", f"{address}/batch?{LAST}")
            take(browser, "dashboard-review", "light", f"{address}/review?{LAST}")
            take(browser, "dashboard-search", "light", f"{address}/search?text=0042")
        workspace, scored = make_small_workspace(folder)
        report = Path(scored["report"]).as_uri()
        take(browser, "report", "light", report)
        take(browser, "report-enlarged", "light", report, "button.open")
        batch = f"model={scored['model_id']}&batch={scored['batch_id']}"
        worst = max(read_table(Path(scored["flagged"])).to_pylist(), key=lambda row: row["anomaly_score"])
        with dashboard(workspace, folder) as address:
            take(browser, "dashboard-image", "light", f"{address}/image?{batch}&image={worst['image_id']}")
            take(browser, "dashboard-compare", "light", f"{address}/compare?{batch}")


if __name__ == "__main__":
    main()
