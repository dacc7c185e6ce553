"""Calibrations of version 0.1 with a rule over several statistics can be read, and score as they did.

Version 0.1 wrote ``joint_0_1.tar.xz`` (``calibrate --fpr 0.1 --joint RULE``) on 60 images of 16 x 16, with the model
of ``workspace_0_1.tar.xz``: half of the images determined the tails, the others the threshold.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from nelbo.data import read_table
from nelbo.flows.options.options import CalibrateOptions
from nelbo.flows.workspace.calibrations.calibration import (
    part_rows,
    read_calibration,
    reference_rows,
    write_calibration,
)
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run

#: Rule -> the id and the threshold that 0.1 printed.
MADE = {
    "fisher": ("c06473b7b6dab16e0", 10.559878086593873),
    "cauchy": ("c618891c70f9c0908", 1.8701111693344494),
    "minimum": ("c7069d9a1052201fc", 3.2095038068956048),
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    with tarfile.open(Path(__file__).parent / "joint_0_1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return Workspace.at(str(tmp_path / "workspace"))


@pytest.mark.parametrize("rule", MADE)
def test_a_rule_of_0_1_scores_as_it_did(workspace: Workspace, rule: str) -> None:
    calibration_id, value = MADE[rule]
    calibration = read_calibration(workspace, calibration_id)
    assert (calibration.statistic.name, calibration.threshold.value) == (f"joint_{rule}", value)
    assert not calibration.threshold.cross
    rows = read_table(workspace.calibrations / calibration_id / "scores.parquet")
    assert rows.num_rows == 60
    # Equal up to the last bit, in which the logarithms of machines differ.
    found = calibration.judge(rows)
    np.testing.assert_allclose(found.anomaly_score, rows["anomaly_score"].to_numpy(), rtol=1e-13)
    # The threshold is the floor(31 * 0.1)-th largest of the 30 scores that chose it.
    assert (part_rows(rows, "calibration")["anomaly_score"].to_numpy() > value).sum() == 2
    assert len(calibration.normal_scores) == reference_rows(workspace, calibration).num_rows == 30


@pytest.mark.parametrize(
    "joint",
    [
        {"rule": "sum", "statistics": ["peak"]},
        {"rule": "fisher", "statistics": ["peaks"]},
        {"rule": "fisher"},
        {"rule": "fisher", "statistics": None},
    ],
)
def test_a_calibration_with_an_unknown_rule_is_refused(workspace: Workspace, joint: dict[str, object]) -> None:
    """Its id matches its contents, but nelbo did not make it."""
    folder = workspace.calibrations / MADE["fisher"][0]
    content = json.loads((folder / "calibration.json").read_text()) | {"joint": joint}
    run = Run("calibrate", CalibrateOptions(normal="normal"))
    other = write_calibration(content, read_table(folder / "scores.parquet"), workspace, run)
    with pytest.raises(UsageError, match=r"calibration.json is not what nelbo writes: .* Restore it from a copy"):
        read_calibration(workspace, other)
