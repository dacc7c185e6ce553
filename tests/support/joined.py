"""Calibrations with a rule that joins statistics, as version 0.1 made them; current code makes no new ones."""

import json

import pyarrow as pa

from nelbo.data import read_table
from nelbo.detectors import Threshold
from nelbo.flows.options.options import CalibrateOptions
from nelbo.flows.workspace import pointers
from nelbo.flows.workspace.calibrations.calibration import Calibration, part_rows, read_calibration, write_calibration
from nelbo.flows.workspace.calibrations.statistic import Statistic
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run

MEMBERS = ("peak", "nelbo_two_sided", "rate_two_sided", "z_mean_norm_two_sided", "worst_pixels")


def join(workspace: Workspace, calibration_id: str, rule: str) -> Calibration:
    """Remake a calibration on normal images with a rule that fits its tails on half of them; make it current."""
    folder = workspace.calibrations / calibration_id
    content = json.loads((folder / "calibration.json").read_text())
    made = {name: content.pop(name) for name in ("made_at_utc", "code_version", "format_version", "calibration_id")}
    assert made["calibration_id"] == calibration_id
    rows = read_table(folder / "scores.parquet")
    n_reference = rows.num_rows // 2
    split = pa.array(["reference"] * n_reference + ["calibration"] * (rows.num_rows - n_reference))
    rows = rows.set_column(rows.schema.get_field_index("split"), "split", split)
    statistic = Statistic.by_rule(part_rows(rows, "reference"), MEMBERS, rule)
    scores = pa.array(statistic.scores(rows))
    rows = rows.set_column(rows.schema.get_field_index("anomaly_score"), "anomaly_score", scores)
    threshold = Threshold.from_normals(part_rows(rows, "calibration")["anomaly_score"], content["threshold"]["fpr"])
    content |= {
        "statistic": statistic.name,
        "joint": {"rule": rule, "statistics": list(MEMBERS)},
        "threshold": threshold.to_dict(),
    }
    run = Run("calibrate", CalibrateOptions(normal="normal"))
    joined = write_calibration(content, rows, workspace, run)
    pointers.use_calibration(workspace, content["model_id"], joined)
    return read_calibration(workspace, joined)
