"""The training image that is shown beside a flagged one."""

import io
import logging
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scored import MODEL, WHY, add_batch, add_calibration, add_normals, stub_workspace

from nelbo.data import CachedPixels, read_table, remove_folder
from nelbo.flows.dashboard.tables import Tables
from nelbo.flows.options.options import ReportOptions, TrainOptions
from nelbo.flows.report.normals import MOST_KEPT, Normals, keep_normals, read_normals
from nelbo.flows.steps.report import write_report
from nelbo.flows.workspace.calibrations.calibration import calibrations_of
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run
from nelbo.flows.workspace.tables import with_column

FLAGGED = [f"{name}.png" for name in "abcdef"]


def jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()


def half(dark: str) -> Image.Image:
    """A picture with a dark half."""
    values = np.full((64, 64), 200, np.uint8)
    values[:, : 32 if dark == "left" else None][:, 0 if dark == "left" else 32 :] = 50
    return Image.fromarray(values)


def test_the_nearest_normal_image_has_the_same_light_and_position() -> None:
    normals = Normals([{"relative_path": side, "thumbnail": jpeg(half(side))} for side in ("left", "right")])
    wide = half("right").resize((120, 60))
    # A defect counts only by its size.
    wide.paste(255, (60, 0, 90, 40))
    found = normals.nearest(wide)
    assert found is not None
    assert found.relative_path == "right"
    assert found.picture.size == wide.size
    assert normals.nearest(None) is None


def test_two_hundred_small_normal_images_are_kept(random: np.random.Generator, tmp_path: Path) -> None:
    workspace, n = Workspace(tmp_path), MOST_KEPT + 10
    pixels = CachedPixels(random.integers(0, 256, (n, 8, 300, 3), np.uint8), np.arange(n))
    table = read_table(Path(__file__).parents[2] / "data" / "version_1" / "manifest.parquet").slice(0, 1)
    keep_normals(pixels, table.take([0] * n), 3, workspace, "m1", Run("train", TrainOptions(normal="normal")))
    kept = read_table(workspace.normals("m1"))
    assert kept.num_rows == MOST_KEPT == len(read_normals(workspace, "m1"))
    picture = Image.open(io.BytesIO(kept["thumbnail"][0].as_py()))
    assert (picture.mode, picture.width) == ("RGB", 256)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A batch whose images, missing and so black, are all flagged."""
    workspace = stub_workspace(tmp_path)
    (calibration,) = calibrations_of(workspace, MODEL)
    add_batch(workspace, "b1", FLAGGED, calibration, anomalous=1.0, not_scored=0.0, shift=9.0)
    return workspace


def page(workspace: Workspace) -> str:
    return Path(write_report(ReportOptions(workspace=str(workspace.root)), "b1", MODEL).path).read_text()


def test_the_page_shows_why_and_the_nearest_normal_image_without_the_model(workspace: Workspace) -> None:
    add_normals(workspace)
    remove_folder(workspace.models)
    html = page(workspace)
    assert html.count("stands out.</p>") == len(FLAGGED)
    assert html.count('alt="nearest normal image"') == len(FLAGGED)
    assert html.count('nearest normal image: <span class="any">normal/40.png</span>') == len(FLAGGED)


def test_damaged_normal_images_are_reported_one_time_and_nothing_else_is_lost(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    without = page(workspace)
    assert "nearest normal image:" not in without
    add_normals(workspace)
    workspace.normals(MODEL).write_bytes(b"no Parquet")
    with caplog.at_level(logging.WARNING):
        assert page(workspace) == page(workspace) == without
    assert [str(workspace.normals(MODEL)) in message for message in caplog.messages] == [True]


def test_the_page_of_a_batch_of_schema_version_6_is_written(tmp_path: Path) -> None:
    workspace, version_6 = Workspace(tmp_path), Path(__file__).parents[2] / "data" / "version_6"
    calibration_id = add_calibration(workspace).calibration_id
    for kind in ("scores", "flagged"):
        place = getattr(workspace, kind)(MODEL, "b1")
        place.parent.mkdir(parents=True)
        table = pq.read_table(version_6 / f"{kind}.parquet", partitioning=None)
        # The stored rows name another calibration.
        pq.write_table(with_column(table, "calibration_id", [calibration_id] * table.num_rows), place)
    add_normals(workspace)
    html = page(workspace)
    assert html.count("<figure") == html.count('nearest normal image: <span class="any">normal/') == 2
    assert "stands out" not in html
    tables = Tables(workspace)
    assert tables.query("SELECT why FROM flagged")["why"].isna().tolist() == [True, True]
    assert tables.query("SELECT why FROM scores")["why"].isna().all()
    # While a batch is published again, one file holds old rows and new ones for a moment.
    (calibration,) = calibrations_of(workspace, MODEL)
    add_batch(workspace, "b2", ["a.png"], calibration, anomalous=1.0, not_scored=0.0, shift=9.0)
    assert set(tables.query("SELECT why FROM flagged")["why"].dropna()) == {WHY}


def test_a_damaged_thumbnail_is_left_out() -> None:
    rows = [{"relative_path": "a", "thumbnail": b"no picture"}, {"relative_path": "b", "thumbnail": jpeg(half("left"))}]
    found = Normals(rows).nearest(half("right"))
    assert found is not None
    assert found.relative_path == "b"
    assert Normals(rows[:1]).nearest(half("right")) is None
