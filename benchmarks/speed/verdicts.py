"""Calibration and verdicts at ten million scores.

    python -m benchmarks.speed.verdicts

prints the tables of ``docs/evidence/benchmarks.md``.
"""

import tempfile
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.rates import peak_mib
from nelbo.data import CALIBRATION_SCHEMA, MEASURES
from nelbo.detectors import Threshold, detect_drift, p_values, q_values, verdicts
from nelbo.flows.options.options import CalibrateOptions
from nelbo.flows.workspace.calibrations.calibration import read_calibration, write_calibration
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run

N_SCORES = 10_000_000

Result = TypeVar("Result")


def timed(name: str, step: Callable[[], Result]) -> Result:
    """Run a step and print its time and the peak memory of the process so far."""
    started = time.perf_counter()
    result = step()
    print(f"| {name} | {time.perf_counter() - started:.1f} | {peak_mib():,.0f} |")
    return result


def at_size() -> None:
    """Time ten million calibration scores, and ten million to judge."""
    random = np.random.default_rng(0)
    calibration, batch = random.normal(size=N_SCORES), random.normal(size=N_SCORES)
    print("| step | s | peak MiB of the process |\n|---|---|---|")
    threshold = timed("threshold", lambda: Threshold.from_normals(calibration, 0.01, review_fpr=0.05))
    p = timed("p-values", lambda: p_values(batch, calibration))
    timed("q-values", lambda: q_values(p))
    timed("verdicts", lambda: verdicts(batch, threshold.value, threshold.review))
    timed("drift", lambda: detect_drift(batch, calibration, threshold=threshold.value))


def as_files() -> None:
    """Time a calibration on ten million images: written to a workspace, read, and used to judge as many."""
    rows = _rows(N_SCORES)
    threshold = Threshold.from_normals(rows["peak"], 0.01, review_fpr=0.05)
    about = {"model_id": "m0", "batch_id": "t0", "statistic": "peak", "joint": None, "judged": None}
    content = {**about, "threshold": threshold.to_dict(), "heatmap_top": 8.0}
    run = Run("calibrate", CalibrateOptions(normal="normal"))
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace.at(folder)
        calibration_id = timed("write", lambda: write_calibration(content, rows, workspace, run))
        calibration = timed("read", lambda: read_calibration(workspace, calibration_id))
    timed("judge", lambda: calibration.judge(rows))


def _rows(n: int) -> pa.Table:
    """Paths, hashes and numbers as a calibration keeps them."""
    random = np.random.default_rng(0)
    hashes = pa.py_buffer(random.bytes(32 * n).hex().encode())
    ids = pa.StringArray.from_buffers(n, pa.py_buffer(np.arange(0, 64 * n + 1, 64, np.int32)), hashes)
    numbers = pc.cast(pa.array(np.arange(n)), pa.string())
    columns = {
        "relative_path": pc.binary_join_element_wise("line/", numbers, ".png", ""),
        "image_id": ids,
        "label": np.zeros(n, np.int8),
        "split": pa.repeat("calibration", n),
        **{name: random.normal(size=n) for name in MEASURES},
    }
    return pa.table({**columns, "anomaly_score": columns["peak"]}).select(CALIBRATION_SCHEMA.names)


if __name__ == "__main__":
    at_size()
    as_files()
