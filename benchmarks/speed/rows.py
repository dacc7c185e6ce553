"""Commands that read tables, at a million rows: seconds, CPU seconds and memory of each, in a separate process and
including start-up.

    python -m benchmarks.speed.rows [--rows 1000000] [--smoke]

prints the table of ``docs/evidence/performance.md``. nelbo's own writers fill the workspace with random numbers: two
batches of so many labelled rows, three calibrations on a hundredth of that, a review of each row of the second batch,
and a thousand runs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.rates import circumstances, peak_mib
from benchmarks.table import heads, row

if TYPE_CHECKING:
    import pyarrow as pa

    from nelbo.flows.workspace.layout import Workspace

ROWS, RUNS, REVIEW_FILES = 1_000_000, 1_000, 20
MODEL = "m5c0fed000000000"
BATCHES = ("b0", LAST := "b1")


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rows", type=int, default=ROWS)
    made.add_argument("--smoke", action="store_true", help="a few rows, to see that it runs")
    made.add_argument("--one", choices=["workspace", *COMMANDS], help=argparse.SUPPRESS)
    made.add_argument("--workspace", help=argparse.SUPPRESS)
    asked = made.parse_args()
    if asked.one == "workspace":
        make_workspace(asked.workspace, asked.rows)
    elif asked.one is not None:
        COMMANDS[asked.one](asked.workspace)
        print(json.dumps([time.process_time(), peak_mib()]))
    else:
        measure(3_000 if asked.smoke else asked.rows)


def measure(n: int) -> None:
    print(f"{circumstances()}; {n:,} rows\n")
    print("\n".join(heads("command", "s", "CPU, s", "peak MiB")))
    with tempfile.TemporaryDirectory() as workspace:
        in_process("workspace", workspace, n)
        for name in COMMANDS:
            started = time.perf_counter()
            cpu, peak = json.loads(in_process(name, workspace, n).splitlines()[-1])
            print(row(name, f"{time.perf_counter() - started:.1f}", f"{cpu:.1f}", f"{peak:,.0f}"), flush=True)


def in_process(name: str, workspace: str, n: int) -> str:
    command = [sys.executable, "-m", "benchmarks.speed.rows", "--one", name, "--workspace", workspace]
    return subprocess.run([*command, "--rows", str(n)], check=True, stdout=subprocess.PIPE, text=True).stdout


def make_workspace(place: str, n: int) -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
    from scored import START, add_batch, add_calibration

    from nelbo.data import COMMIT, Preprocessing, write_json
    from nelbo.flows.options.options import CompactOptions
    from nelbo.flows.workspace.layout import Workspace
    from nelbo.flows.workspace.runs import Run

    workspace = Workspace.at(place)
    described = {"config": {}, "preprocessing": Preprocessing(64, 64).to_dict(), "training": {"seen": []}}
    write_json(described, workspace.models / MODEL / "model.json")
    # The model counts as committed, whatever is in it: these commands read its description, not its weights.
    write_json({}, workspace.models / MODEL / COMMIT)
    for i, fpr in enumerate((0.01, 0.002, 0.001)):
        calibration = add_calibration(workspace, n=max(1_999, n // 100), fpr=fpr, review_fpr=None, seed=i)
    paths = [f"line-{i % 4}/{i:07d}.png" for i in range(n)]
    for i, name in enumerate(BATCHES):
        at = START + i * timedelta(hours=3)
        table = add_batch(workspace, name, paths, calibration, anomalous=0.001, labelled=True, at=at, seed=i)
    add_reviews(workspace, table)
    for i in range(min(RUNS, n // 100)):
        at = START + timedelta(days=1, seconds=i)
        Run("ingest", CompactOptions(), f"r{at:%Y%m%dT%H%M%S}-{i:08x}", at).record(workspace, batch_id=LAST)


def add_reviews(workspace: "Workspace", table: "pa.Table") -> None:
    """Write a decision on each scored row, in a few files."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from nelbo.data import REVIEWS_SCHEMA, write_table

    table = table.filter(pc.is_valid(table["anomaly_score"]))
    n = len(table)
    constants = {"reviewer": "Ann", "note": "", "model_id": MODEL, "batch_id": LAST}
    columns = {name: table[name] for name in table.column_names if name in REVIEWS_SCHEMA.names}
    columns |= {name: pa.repeat(value, n) for name, value in constants.items()}
    columns |= {name: pa.nulls(n, pa.string()) for name in ("withdraws", "kind")}
    columns["review_id"] = pc.binary_join_element_wise("v", pc.cast(pa.array(np.arange(n)), pa.string()), "")
    columns["reviewed_at_utc"] = table["scored_at_utc"]
    columns["decision"] = pc.if_else(pc.equal(table["label"], 1), "anomalous", "normal")
    rows = pa.table(columns).select(REVIEWS_SCHEMA.names).cast(REVIEWS_SCHEMA)
    size = -(-n // REVIEW_FILES)
    for i in range(REVIEW_FILES):
        write_table(rows.slice(i * size, size), workspace.reviews / f"all-{i:016x}.parquet", REVIEWS_SCHEMA)


def by_command_line(*line: str) -> Callable[[str], None]:
    def command(workspace: str) -> None:
        from nelbo.flows.cli.main import main

        sys.argv = ["nelbo", *line, "--workspace", workspace]
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise

    return command


def drift(workspace: str) -> None:
    """Drift detection as in publishing, with the other batch as an earlier one."""
    import numpy as np

    from nelbo.data import QUALITY
    from nelbo.flows.evaluation.drift import find_drift
    from nelbo.flows.options.options import ScoreOptions
    from nelbo.flows.workspace.calibrations.calibration import calibration_of, scored_rows
    from nelbo.flows.workspace.layout import Workspace

    place = Workspace.at(workspace)
    calibration = calibration_of(place, MODEL, None)
    assert calibration is not None
    rows, random = scored_rows(place.scores(MODEL, LAST)), np.random.default_rng(0)
    for name in (*QUALITY, "width_px", "height_px"):
        rows = rows.append_column(name, [random.random(len(rows))])
    assert find_drift(rows, calibration, place, LAST, ScoreOptions(images="images"))["tests"]


COMMANDS: dict[str, Callable[[str], None]] = {
    "calibrate --compare": by_command_line("calibrate", "--compare", "--model", MODEL, "--batch", LAST),
    "drift": drift,
    "report": by_command_line("report", "--model", MODEL, "--batch", LAST, "--no-prefect"),
    "compact": by_command_line("compact", "--no-prefect"),
}

if __name__ == "__main__":
    main()
