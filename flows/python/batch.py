"""A scored batch."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pyarrow as pa
from PIL import Image, ImageDraw, ImageOps

from nelbo.data import FLAGGED_SCHEMA, Place, read_scores, read_unchanged
from nelbo.flows.report.pictures import SIDE_PX, pictures
from nelbo.flows.report.sheet import sheet
from nelbo.flows.workspace.flagged import iter_flagged, strangest
from nelbo.flows.workspace.layout import Workspace

#: The room around pictures, and the height of the line below them, in pixels; letters of it that fit there.
_GAP_PX, _LINE_PX, _LETTERS = 8, 16, 60


@dataclass(frozen=True)
class Batch:
    """What a model said of a batch of images; the tables are read when they are asked for."""

    batch_id: str
    model_id: str
    workspace: Workspace = field(repr=False)

    @property
    def scores(self) -> pd.DataFrame:
        """A row for each file: its numbers, its verdict, and why it has none; see docs/data_contract.md."""
        return read_scores(self.workspace.scores(self.model_id, self.batch_id)).to_pandas()

    @property
    def flagged(self) -> pd.DataFrame:
        """The rows that are anomalous or for review, the worst first, with their maps and thumbnails: some kB each."""

        def read() -> pa.Table:
            tables = iter_flagged(self.workspace, self.model_id, self.batch_id)
            return pa.concat_tables([FLAGGED_SCHEMA.empty_table(), *tables])

        return read_unchanged(read).sort_by([("anomaly_score", "descending")]).to_pandas()

    @property
    def report(self) -> Place:
        """The page of the batch, as of the model that it was last scored with."""
        return self.workspace.report(self.batch_id)

    def show(self, n: int = 12) -> Image.Image:
        """The worst flagged images, each beside its map: one picture, which a notebook displays.

        Args:
            n: images at most.
        """
        rows, _ = read_unchanged(lambda: strangest(iter_flagged(self.workspace, self.model_id, self.batch_id), n))
        return sheet([_shown(row) for row in rows.to_pylist()], _GAP_PX, "white")


def _shown(row: Mapping[Hashable, Any]) -> Image.Image:
    """An image and its map beside each other, above its path and score."""
    drawn = pictures(row)
    shown = Image.new("RGB", (2 * SIDE_PX + _GAP_PX, SIDE_PX + _LINE_PX), "white")
    found = [picture for picture in (drawn.original, drawn.overlay or drawn.heatmap) if picture is not None]
    for i, picture in enumerate(found):
        padded = ImageOps.pad(picture.convert("RGB"), (SIDE_PX, SIDE_PX), color="white")
        shown.paste(padded, (i * (SIDE_PX + _GAP_PX), 0))
    line = f"{row['relative_path']}  {row['anomaly_score']:.4g}"
    ImageDraw.Draw(shown).text((0, SIDE_PX), line[-_LETTERS:], "black")
    return shown
