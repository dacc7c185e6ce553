"""Calibrations as files: what is read equals what was written, and their promises hold."""

import json
import logging
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binomtest
from scored import START, add_calibration

from nelbo.data import QUALITY, read_table
from nelbo.detectors import Threshold, binomial_interval, p_values, q_values
from nelbo.flows.evaluation.drift import find_drift
from nelbo.flows.options.options import CalibrateOptions, ScoreOptions
from nelbo.flows.workspace.calibrations.calibration import (
    REVIEWS,
    Calibration,
    normal_rows,
    promise,
    review_share,
    write_calibration,
)
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(str(tmp_path))


def test_an_id_follows_from_the_contents(workspace: Workspace) -> None:
    first = add_calibration(workspace, n=100)
    assert add_calibration(workspace, n=100, at=START + timedelta(days=1)).made_at_utc == first.made_at_utc
    folder = workspace.calibrations / first.calibration_id
    written = json.loads((folder / "calibration.json").read_text())
    content = {
        name: value
        for name, value in written.items()
        if name not in {"made_at_utc", "code_version", "format_version", "calibration_id"}
    }
    rows = read_table(folder / "scores.parquet").replace_schema_metadata()
    run = Run("calibrate", CalibrateOptions(normal="normal"))
    # Chunks do not change the id; another number or another order does.
    pieces = pa.concat_tables([rows.slice(0, 37), rows.slice(37)])
    changed = rows.set_column(2, "label", pa.array([1] + [0] * 99, pa.int8()))
    ids = [
        write_calibration(content, table, workspace, run)
        for table in (pieces, changed, rows.take([*range(99, -1, -1)]))
    ]
    assert ids[0] == first.calibration_id
    assert len(set(ids)) == 3
    assert write_calibration({**content, "heatmap_top": 1.0}, rows, workspace, run) not in ids


def test_the_share_for_review_is_measured_if_no_rate_is_promised(workspace: Workspace) -> None:
    scores = np.arange(1, 201) / 10
    threshold = Threshold(value=19.5, fpr=None, objective="f1", n_calibration=50, review=18.0, review_recall=0.99)
    verdicts = {"normal": 40, "review": 9, "anomalous": 1}
    from_table = replace(
        add_calibration(workspace),
        threshold=threshold,
        normal_scores=scores,
        judged={"confusion": {"normal": verdicts, "anomalous": verdicts}},
        labels_from="manifest",
    )
    assert review_share(from_table) == binomial_interval(9, 50)
    assert promise(from_table) == (
        "false-alarm rate promised: none, because the threshold was chosen from labels (f1); "
        "for review 18 % of normal images, between 8.6 and 31.4 %"
    )
    # Reviewed images were all flagged, so held-out ones are counted: 15 of 200 lie between the two thresholds.
    assert review_share(replace(from_table, labels_from=REVIEWS)) == binomial_interval(15, 200)
    assert review_share(replace(from_table, judged=None)) is None
    assert review_share(replace(from_table, threshold=replace(threshold, review=None))) is None


def test_only_the_threshold_of_a_contaminated_set_is_trimmed(workspace: Workspace) -> None:
    calibration = add_calibration(workspace, n=100, review_fpr=None, contamination=0.1)
    assert calibration.threshold.n_calibration == 90
    table = read_table(workspace.calibrations / calibration.calibration_id / "scores.parquet")
    written = table["anomaly_score"].to_numpy()
    np.testing.assert_array_equal(calibration.normal_scores, np.sort(written))
    # Each calibration image has the p-value of its rank; the smallest is 1/101, trimmed or not.
    found = calibration.judge(table)
    np.testing.assert_allclose(np.sort(found.p_value), (1 + np.arange(1, 101)) / 101)
    np.testing.assert_array_equal(found.p_value, p_values(written, written))
    assert normal_rows(workspace, calibration).num_rows == 100


def test_a_clean_set_that_was_trimmed_keeps_the_promises_of_q_and_drift(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    """The worst case: 10 % of the calibration images are taken for anomalies, though none is."""
    # Without a manifest, looks are not compared, which gives a warning.
    caplog.set_level(logging.ERROR)
    draws, m, n_anomalous, fdr, alarms, false_share = 60, 1000, 100, 0.1, 0, []
    random = np.random.default_rng(0)
    for seed in range(draws):
        calibration = add_calibration(workspace, n=300, review_fpr=None, contamination=0.1, seed=seed)
        batch = 2 + random.gamma(4, 0.6, m)
        alarms += alarm(batch, calibration, workspace)
        batch[:n_anomalous] += 20
        listed = q_values(calibration.p_values(batch)) <= fdr
        assert listed[:n_anomalous].all()
        false_share.append(listed[n_anomalous:].sum() / listed.sum())
    assert binomtest(alarms, draws, 0.01, "greater").pvalue > 0.001
    assert np.mean(false_share) <= fdr * (1 - n_anomalous / m) + 3 * np.std(false_share) / np.sqrt(draws)


def alarm(scores: np.ndarray, calibration: Calibration, workspace: Workspace) -> bool:
    rows = pa.table(
        {
            "image_id": [f"{i:04d}" for i in range(len(scores))],
            "anomaly_score": scores,
            **{name: np.zeros(len(scores)) for name in QUALITY},
            **{name: pa.array([64] * len(scores), pa.int32()) for name in ("width_px", "height_px")},
        }
    )
    options = ScoreOptions(images="in", workspace=str(workspace.root))
    return bool(find_drift(rows, calibration, workspace, "b0", options)["alarm"])
