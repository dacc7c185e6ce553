"""What flagged images cost: the same batch is scored, published and reported with few images flagged and with many.

    python -m benchmarks.speed.flagged [--images 1000] [--engine openvino] [--side 256] [--smoke]

Calibrations of one model at different rates decide how many images are flagged; the runs take turns in one process that
has loaded the model.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.datasets import repeated_elpv
from benchmarks.speed.end_to_end import trained
from benchmarks.table import heads, row
from nelbo.flows.options.options import CalibrateOptions, ScoreOptions
from nelbo.flows.orchestration.execution import execute

#: Promised rates: about such shares of other normal images are flagged.
RATES = (0.005, 0.05, 0.4)
ROUNDS = 3


def main() -> None:
    made = argparse.ArgumentParser()
    made.add_argument("--images", type=int, default=1000)
    made.add_argument("--engine", default="openvino")
    made.add_argument("--side", type=int, default=256)
    made.add_argument("--smoke", action="store_true", help="a few images, to see that it runs")
    asked = made.parse_args()
    n, engine, side, rounds = (60, "keras", 32, 1) if asked.smoke else (asked.images, asked.engine, asked.side, ROUNDS)
    # The lowest rate needs at least 199 images.
    n_train, n_calibration = (60, 250) if asked.smoke else (300, max(n, 1000))
    with tempfile.TemporaryDirectory() as aside:
        place = {"workspace": trained(Path(aside), engine, n_train, side)}
        folder = repeated_elpv(n, Path(aside) / "batch")
        # Each content counts once, so the rates are of some 700 images, which the batch repeats.
        normal = str(repeated_elpv(n_calibration, Path(aside) / "calibration"))
        ids = [
            execute("calibrate", CalibrateOptions(normal=normal, fpr=rate, **place), prefect=False)["calibration_id"]
            for rate in RATES
        ]
        seconds: dict[str, list[float]] = {name: [] for name in ids}
        shares: dict[str, float] = {}
        for _ in range(1 + rounds):
            for name in ids:
                started = time.perf_counter()
                scored = execute(
                    "score", ScoreOptions(images=str(folder), calibration=name, engine=engine, **place), prefect=False
                )
                seconds[name].append(time.perf_counter() - started)
                shares[name] = scored["n_anomalous"] / scored["n_scored"]
    print("\n".join(heads("flagged", "s", "of the first")))
    # The first round loads the model.
    medians = {name: statistics.median(found[1:]) for name, found in seconds.items()}
    for name in ids:
        print(row(f"{shares[name]:.1%}", f"{medians[name]:.1f}", f"{medians[name] / medians[ids[0]]:.2f}"))


if __name__ == "__main__":
    main()
