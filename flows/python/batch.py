"""A scored batch."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any

import pandas as pd
import pyarrow as pa
from PIL import Image, ImageDraw, ImageOps

from nelbo.data import FLAGGED_SCHEMA, Place, read_scores, read_unchanged
from nelbo.flows.report.normals import Normals, read_normals
from nelbo.flows.report.pictures import SIDE_PX, pictures
from nelbo.flows.report.sheet import sheet
from nelbo.flows.workspace.flagged import iter_flagged, read_audit, read_regions, strangest
from nelbo.flows.workspace.layout import Workspace

#: The gap between pictures, the height of a line of text and the width of a letter, in pixels; the number of lines.
_GAP_PX, _LINE_PX, _LETTER_PX, _LINES = 8, 16, 6, 6


@dataclass(frozen=True)
class Batch:
    """A model's results on a batch of images; each table is read on access."""

    batch_id: str
    model_id: str
    workspace: Workspace = field(repr=False)

    @property
    def scores(self) -> pd.DataFrame:
        """A row for each file: its numbers, its verdict or why it has none; see docs/reference/data_contract.md."""
        return read_scores(self.workspace.scores(self.model_id, self.batch_id)).to_pandas()

    @property
    def flagged(self) -> pd.DataFrame:
        """The rows that are anomalous or for review, the worst first, with their maps and thumbnails: some kB each."""

        def read() -> pa.Table:
            tables = iter_flagged(self.workspace, self.model_id, self.batch_id)
            return pa.concat_tables([FLAGGED_SCHEMA.empty_table(), *tables])

        return read_unchanged(read).sort_by([("anomaly_score", "descending")]).to_pandas()

    @property
    def regions(self) -> pd.DataFrame:
        """A row for each region of the flagged images: rectangle, area, peak and mask, in pixels of the original."""
        return read_unchanged(lambda: read_regions(self.workspace, self.model_id, self.batch_id)).to_pandas()

    @property
    def audit(self) -> pd.DataFrame:
        """Rows drawn at random from those not flagged, with their maps and thumbnails, in the order of the draw."""
        return read_unchanged(lambda: read_audit(self.workspace, self.model_id, self.batch_id)).to_pandas()

    @property
    def report(self) -> Place:
        """The page of the batch, by the model that scored it last."""
        return self.workspace.report(self.batch_id)

    def show(self, n: int = 12) -> Image.Image:
        """The worst flagged images, each beside its map and the nearest normal image, above why it was flagged.

        Outlines mark what is unusual. All are in one picture, which a notebook displays.

        Args:
            n: largest number of images.
        """
        rows, _ = read_unchanged(lambda: strangest(iter_flagged(self.workspace, self.model_id, self.batch_id), n))
        normals = read_normals(self.workspace, self.model_id)
        return sheet([_shown(row, normals) for row in rows.to_pylist()], _GAP_PX, "white")


def _shown(row: Mapping[Hashable, Any], normals: Normals) -> Image.Image:
    drawn = pictures(row)
    nearest = normals.nearest(drawn.original)
    found = [drawn.outlined or drawn.original, drawn.heatmap, nearest and nearest.picture]
    width = (3 if len(normals) else 2) * (SIDE_PX + _GAP_PX) - _GAP_PX
    shown = Image.new("RGB", (width, SIDE_PX + _LINES * _LINE_PX), "white")
    for i, picture in enumerate(one for one in found if one is not None):
        padded = ImageOps.pad(picture.convert("RGB"), (SIDE_PX, SIDE_PX), color="white")
        shown.paste(padded, (i * (SIDE_PX + _GAP_PX), 0))
    letters = width // _LETTER_PX
    said = wrap(row["why"] or "", letters, max_lines=_LINES - 1)
    lines = [f"{row['relative_path']}  {row['anomaly_score']:.4g}"[-letters:], *said]
    ImageDraw.Draw(shown).multiline_text((0, SIDE_PX), "\n".join(lines), "black")
    return shown
