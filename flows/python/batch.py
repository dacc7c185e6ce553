"""A scored batch."""

from dataclasses import dataclass, field

import pandas as pd
import pyarrow as pa

from nelbo.data import FLAGGED_SCHEMA, Place, read_scores
from nelbo.flows.workspace.flagged import iter_flagged
from nelbo.flows.workspace.layout import Workspace


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
