"""The verdict on a scored image before its batch is complete."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo.flows.workspace.calibrations.calibration import Calibration
from nelbo.flows.workspace.calibrations.statistic import Statistic
from nelbo.flows.workspace.tables import spread


def judged(rows: pa.Table, calibration: Calibration | None, statistic: str) -> pa.Table:
    """``anomaly_score``, ``threshold``, ``p_value`` and ``verdict`` of rows, each judged by itself.

    Args:
        rows: with the columns that a model measures, and ``reason``, which is null for rows with a score.
        calibration: None gives scores alone.
        statistic: what becomes the score without a calibration; a calibration has its own.
    """
    is_scored = pc.is_null(rows["reason"])
    scored = rows.filter(is_scored)
    columns = dict.fromkeys(("threshold", "p_value"), pa.nulls(len(scored), pa.float64()))
    if calibration is None:
        columns |= {"anomaly_score": pa.array(Statistic(statistic).scores(scored), pa.float64())}
        columns |= {"verdict": pa.nulls(len(scored), pa.string())}
    else:
        made = calibration.judge(scored)
        columns |= {name: pa.array(getattr(made, name), pa.float64()) for name in ("anomaly_score", "p_value")}
        columns |= {"verdict": pa.array(made.verdict, pa.string())}
        columns["threshold"] = pa.repeat(calibration.threshold.value, len(scored))
    columns = spread(columns, np.asarray(is_scored))
    columns["verdict"] = pc.if_else(is_scored, columns["verdict"], "not_scored")
    return pa.table(columns)
