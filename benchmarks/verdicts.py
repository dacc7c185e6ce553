"""Calibration and verdicts at size, and what joining statistics does to real scores.

    python benchmarks/verdicts.py

prints the tables of ``docs/benchmarks.md``. The real scores are those that ``benchmarks/elpv_scores.py`` saved.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rates import peak_mib
from sklearn.metrics import roc_auc_score
from table import heads, row

from data import CALIBRATION_SCHEMA, MEASURES, STATISTICS
from detectors import Joint, Threshold, detect_drift, p_values, q_values, verdicts
from detectors.joint import RULES
from flows.calibrations import read_calibration, write_calibration
from flows.run import Run
from flows.settings import CalibrateOptions, CalibrationSettings
from flows.workspace import Workspace

SAVED = Path(__file__).parents[1] / "tests" / "detectors" / "elpv_scores.parquet"
N_SCORES = 10_000_000
N_REFERENCE, N_SPLITS = 150, 20

Result = TypeVar("Result")


def timed(name: str, step: Callable[[], Result]) -> Result:
    """Run a step and print its time and the peak memory of the process so far."""
    started = time.perf_counter()
    result = step()
    print(f"| {name} | {time.perf_counter() - started:.1f} | {peak_mib():,.0f} |")
    return result


def at_size() -> None:
    """Ten million calibration scores, ten million to judge."""
    random = np.random.default_rng(0)
    calibration, batch = random.normal(size=N_SCORES), random.normal(size=N_SCORES)
    print("| step | s | peak MiB of the process |\n|---|---|---|")
    threshold = timed("threshold", lambda: Threshold.from_normals(calibration, 0.01, review_fpr=0.05))
    p = timed("p-values", lambda: p_values(batch, calibration))
    timed("q-values", lambda: q_values(p))
    timed("verdicts", lambda: verdicts(batch, threshold.value, threshold.review))
    timed("drift", lambda: detect_drift(batch, calibration, threshold=threshold.value))


def as_files() -> None:
    """A calibration on ten million images, written to a workspace, read, and asked about as many."""
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


def joined() -> None:
    """AUROC of each rule and of its parts, over splits of the normals into reference and judged ones."""
    table = pq.read_table(SAVED)
    measures = {name: table[name].to_numpy().astype(np.float64) for name in STATISTICS}
    labels, kinds = table["label"].to_numpy(), np.array(table["type"].to_pylist())
    members = CalibrationSettings().joint_statistics
    print("\n".join(["", *heads("cells", *RULES, "Fisher on ranks", *STATISTICS)]))
    for kind in ("all", "mono", "poly"):
        of_kind = np.ones(len(labels), bool) if kind == "all" else kinds == kind
        random = np.random.default_rng(0)
        rows = []
        for _ in range(N_SPLITS):
            reference = random.permutation(np.flatnonzero(of_kind & (labels == 0)))[:N_REFERENCE]
            judged = np.setdiff1d(np.flatnonzero(of_kind), reference)
            of_reference = {name: values[reference] for name, values in measures.items()}
            of_judged = {name: values[judged] for name, values in measures.items()}
            scores = [Joint(of_reference, members, rule).scores(of_judged) for rule in RULES]
            scores.append(_fisher_on_ranks(of_reference, of_judged, members))
            rows.append([roc_auc_score(labels[judged], score) for score in [*scores, *of_judged.values()]])
        cells = [f"{mean:.3f} ± {sd:.3f}" for mean, sd in zip(np.mean(rows, 0), np.std(rows, 0), strict=True)]
        print(row(kind, *cells))


def _fisher_on_ranks(
    reference: dict[str, np.ndarray], judged: dict[str, np.ndarray], members: tuple[str, ...]
) -> np.ndarray:
    """What the fitted tails replace."""
    total = 0.0
    for member in members:
        name = member.removesuffix("_two_sided")
        p = p_values(judged[name], reference[name])
        if name != member:
            p = np.minimum(1, 2 * np.minimum(p, p_values(-judged[name], -reference[name])))
        total = total - np.log(p)
    return np.asarray(total)


if __name__ == "__main__":
    at_size()
    as_files()
    joined()
