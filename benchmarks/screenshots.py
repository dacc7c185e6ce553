"""The pictures in ``docs/images/``, of synthetic images: the pages of the dashboard, and a report.

    python -m benchmarks.screenshots

Run it again when a page looks different.
"""

import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

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
_WAIT_MS = 3_000


class Picture(NamedTuple):
    """A picture's name, the colours and the address of its page, and how much of that is shown, in CSS pixels."""

    name: str
    scheme: str
    address: str
    height: int


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


def make_small_workspace(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A model that was really trained, one batch, and a second calibration; what scoring said."""
    write_images(folder / "normal", 120, seed=3)
    write_images(folder / "new", 34, seed=4)
    write_images(folder / "new", 6, seed=5, blot=True)
    workspace = str(folder / "small")
    small = {"workspace": workspace, "normal": str(folder / "normal")}
    execute("train", TrainOptions(**small, image_size=(32, 32), epochs=40, fpr=0.05, review_fpr=0.2), prefect=False)
    scored = execute("score", ScoreOptions(images=str(folder / "new"), workspace=workspace, batch_id="line-a"), False)
    write_images(folder / "fresh", 60, seed=6)
    fresh = small | {"normal": str(folder / "fresh")}
    execute("calibrate", CalibrateOptions(**fresh, fpr=0.1), prefect=False)
    return Path(workspace), scored


def take(browser: Any, picture: Picture) -> None:
    """Write a picture."""
    context = browser.new_context(color_scheme=picture.scheme, viewport={"width": 1_280, "height": picture.height})
    page = Watched(context.new_page())
    page.open(picture.address) if picture.address.startswith("http") else page.page.goto(picture.address)
    # Plots, and what the model says, are drawn after the page has settled.
    page.page.wait_for_timeout(_WAIT_MS)
    page.page.screenshot(path=IMAGES / f"{picture.name}.png", scale="css")
    context.close()


def main() -> None:
    """Make the workspaces and write the pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as aside, chromium() as browser:
        folder = Path(aside)
        with dashboard(make_workspace(folder), folder) as address:
            take(browser, Picture("dashboard-overview", "light", address, 1_080))
            take(browser, Picture("dashboard-batch", "dark", f"{address}/batch?{LAST}", 1_080))
            take(browser, Picture("dashboard-review", "light", f"{address}/review?{LAST}", 860))
        workspace, scored = make_small_workspace(folder)
        take(browser, Picture("report", "light", Path(scored["report"]).as_uri(), 1_080))
        batch = f"model={scored['model_id']}&batch={scored['batch_id']}"
        worst = max(read_table(Path(scored["flagged"])).to_pylist(), key=lambda row: row["anomaly_score"])
        with dashboard(workspace, folder) as address:
            take(
                browser, Picture("dashboard-image", "light", f"{address}/image?{batch}&image={worst['image_id']}", 960)
            )
            take(browser, Picture("dashboard-compare", "light", f"{address}/compare?{batch}", 1_080))


if __name__ == "__main__":
    main()
