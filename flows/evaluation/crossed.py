"""Rows of images that a cross-fitted model was trained on, as models of other images measured them."""

import pyarrow as pa

from nelbo.data import CALIBRATION_SCHEMA
from nelbo.flows.workspace.calibrations.calibration import calibrations_of, part_rows, rows_of
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.tables import only


def crossed_rows(workspace: Workspace, model_id: str, table: pa.Table) -> pa.Table:
    """What models of other images said of these images; none of a model that is not cross-fitted.

    So another rate can be asked of the images that it has, all of which it has seen.
    """
    for calibration in calibrations_of(workspace, model_id):
        if calibration.threshold.cross and calibration.labels_from is None:
            return only(part_rows(rows_of(workspace, calibration), "calibration"), table)
    return CALIBRATION_SCHEMA.empty_table()


def with_crossed(scored: pa.Table, crossed: pa.Table) -> pa.Table:
    """Rows of both with what a calibration keeps, and the groups of those that have just been scored."""
    names = [name for name in CALIBRATION_SCHEMA.names if name != "anomaly_score"]
    crossed = crossed.select(names).append_column("group", pa.nulls(crossed.num_rows, pa.string()))
    kept = scored.select([*names, "group"]).cast(crossed.schema)
    return pa.concat_tables([kept, crossed])
