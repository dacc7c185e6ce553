"""What a new process costs: one image from nothing, and the command line's help.

    python -m benchmarks.cold [--workspace W] [--engine openvino] [--runs 5] [--smoke]

Wall time is what somebody waits for, and means something only on a quiet machine; CPU time, of the process and of its
decoders, varies less. The script prints the median and the range of each. The commands run in turn. The latest model of
the workspace scores; without a workspace one is trained.
"""

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.datasets import repeated_elpv
from benchmarks.rates import circumstances
from benchmarks.table import heads, row
from benchmarks.workspace import NELBO, with_model


def spent(command: Sequence[str]) -> tuple[float, float]:
    """Seconds until a process has ended, and seconds of CPU time of it and its child processes.

    Raises:
        RuntimeError: the process failed; the message is its output.
    """
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read().decode(errors="replace"))
    return wall_s, usage.ru_utime + usage.ru_stime


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--workspace", type=Path, help="with the model that scores; it is left as it is")
    made.add_argument("--engine", default="openvino")
    made.add_argument("--runs", type=int, default=5)
    made.add_argument("--smoke", action="store_true", help="one run of a small model, to see that it runs")
    asked = made.parse_args()
    runs = 1 if asked.smoke else asked.runs
    print(circumstances())
    with tempfile.TemporaryDirectory() as name:
        aside = Path(name)
        workspace = with_model(asked.workspace, aside, small=asked.smoke)
        if asked.workspace is None:
            export = ["export", "--engine", asked.engine, "--workspace", str(workspace)]
            subprocess.run([*NELBO, *export], check=True, stdout=subprocess.DEVNULL)
        image = repeated_elpv(1, aside / "images")
        commands = {
            "nelbo --help": ["--help"],
            f"nelbo score, {asked.engine}": [
                *("score", str(image), "--workspace", str(workspace), "--engine", asked.engine)
            ],
        }
        # The first run finds no compiled modules, and files that are not in memory yet; it does not count.
        found = [[spent([*NELBO, *command]) for command in commands.values()] for _ in range(runs + 1)][1:]
    print("\n".join(heads("command", "runs", "s", "s of CPU time")))
    for name, times in zip(commands, np.array(found).transpose(1, 2, 0), strict=True):
        print(row(name, f"{runs}", *(f"{np.median(of):.2f} ({of.min():.2f}-{of.max():.2f})" for of in times)))


if __name__ == "__main__":
    main()
