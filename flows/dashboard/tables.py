"""The Parquet files of a workspace as SQL tables."""

from collections.abc import Sequence
from typing import Any

import duckdb
import pandas as pd

from data import FLAGGED_SCHEMA, RUNS_SCHEMA, SCORES_SCHEMA
from flows.workspace import Workspace

#: Where the files of each table lie, and the columns that they have.
_FILES = {
    "scores": ("scores/model_id=*/batch_id=*/scores.parquet", SCORES_SCHEMA),
    "flagged": ("flagged/model_id=*/batch_id=*/flagged.parquet", FLAGGED_SCHEMA),
    "runs": ("runs/*.parquet", RUNS_SCHEMA),
}


class Tables:
    """SQL over a workspace; each query sees the files as they are at that moment."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._connection = duckdb.connect()

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pd.DataFrame:
        """The rows of a query; for few rows, as all of them come into memory."""
        return self._connection.cursor().execute(sql, parameters).df()
