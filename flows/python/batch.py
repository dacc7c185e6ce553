"""A scored batch."""

import io
from dataclasses import dataclass, field

import pandas as pd
import pyarrow as pa
from PIL import Image

from nelbo.data import (
    FLAGGED_SCHEMA,
    File,
    ImageError,
    Place,
    Preprocessing,
    read_metadata,
    read_scores,
    read_thumbnail,
)
from nelbo.flows.inference.heatmap import overlay
from nelbo.flows.python.sheet import SIDE_PX, sheet
from nelbo.flows.workspace.flagged import iter_flagged
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.models import describe_model


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
        """The rows that are anomalous or for review, the worst first."""
        tables = iter_flagged(self.workspace, self.model_id, self.batch_id)
        rows = pa.concat_tables([FLAGGED_SCHEMA.empty_table(), *tables])
        return rows.sort_by([("anomaly_score", "descending")]).to_pandas()

    @property
    def report(self) -> Place:
        """The page of the batch, as of the model that it was last scored with."""
        return self.workspace.report(self.batch_id)

    def show(self, n: int = 12) -> Image.Image:
        """The worst flagged images, each beside its map: one picture, which a notebook displays.

        Args:
            n: images at most. Of one that is gone there is the map alone.
        """
        root = read_metadata(self.workspace.scores(self.model_id, self.batch_id))["nelbo.root"]
        preprocessing = Preprocessing(**describe_model(self.workspace, self.model_id)["preprocessing"])
        shown = self.flagged.dropna(subset="heatmap_png")[:n]
        columns = (shown[name] for name in ("relative_path", "anomaly_score", "heatmap_png"))
        return sheet(
            [
                (f"{score:.4g}  {path}", _pictures(File(root, path), heatmap, preprocessing))
                for path, score, heatmap in zip(*columns, strict=True)
            ]
        )


def _pictures(file: File, heatmap_png: bytes, preprocessing: Preprocessing) -> list[Image.Image]:
    heatmap = Image.open(io.BytesIO(heatmap_png))
    try:
        original = Image.open(io.BytesIO(read_thumbnail(file, SIDE_PX)))
    except ImageError:
        return [heatmap]
    return [original, overlay(original, heatmap, preprocessing)]
