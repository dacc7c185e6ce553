"""Pictures of simulated defects: some that a model finds, and some that it misses."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw

from nelbo.data import atomic_path, read_table
from nelbo.flows.report.heatmap import png
from nelbo.flows.report.pictures import opened
from nelbo.flows.report.sheet import COLUMNS, GAP_PX, WIDTH_PX, sheet
from nelbo.flows.workspace.calibrations.calibration import calibration_of
from nelbo.flows.workspace.layout import Workspace

#: Rows of pictures of found defects, and of missed ones.
_ROWS = 2
_RING = (255, 160, 64)
#: Pixels between a defect and its ring.
_ROOM_PX = 6


def write_simulated(workspace: Workspace, model_id: str) -> None:
    """Write them beside the model's card, if it has a threshold; `seen` must be able to read the model's rows."""
    calibration = calibration_of(workspace, model_id)
    if calibration is None:
        return
    rows = read_table(workspace.simulated(model_id))
    for name in ("thumbnail", "x", "y", "length"):
        rows = rows.filter(pc.is_valid(rows[name]))
    found = calibration.verdicts(calibration.statistic.scores(rows)) == "anomalous"
    some = [
        (row, word, opened(row["thumbnail"], "JPEG"))
        for word, mask in (("found", found), ("missed", ~found))
        for row in rows.take(pa.array(_spread(np.flatnonzero(mask)))).to_pylist()
    ]
    pictures = [_ringed(row, word, picture) for row, word, picture in some if picture is not None]
    with atomic_path(workspace.simulated_shown(model_id), workspace.staging) as unfinished:
        unfinished.write_bytes(png(sheet(pictures, GAP_PX, "grey")))


def _spread(rows: np.ndarray) -> np.ndarray:
    """A few of the rows, evenly spread from the first to the last kind."""
    n = min(len(rows), _ROWS * COLUMNS)
    return rows[np.linspace(0, len(rows) - 1, n).astype(int)] if n else rows


def _ringed(row: dict[str, Any], word: str, picture: Image.Image) -> Image.Image:
    """The picture with a ring around the defect, and the word."""
    picture = picture.convert("RGB").resize((WIDTH_PX, round(WIDTH_PX * picture.height / picture.width)))
    x, y = row["x"] * picture.width, row["y"] * picture.height
    radius = _ROOM_PX + row["length"] * picture.width / 2
    draw = ImageDraw.Draw(picture)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=_RING, width=2)
    draw.text((_ROOM_PX, _ROOM_PX), word, fill=_RING, stroke_width=1, stroke_fill="black")
    return picture
