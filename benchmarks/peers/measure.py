"""Trains and scores one detector in a separate process, and prints one JSON line.

    python measure.py MODULE CLASS FOLDER ROUNDS

MODULE is beside this file, or in ``detection``. FOLDER has ``train.npy`` and ``test.npy``, (n, side, side, 1) float32
in [0, 1], and gets ``scores.npy``. The script runs in any environment that has NumPy.

CLASS takes the side of the images and has two methods: ``fit(train)`` returns the number of epochs, and of images that
it learnt from in all of them; ``score(test)`` returns (n,) scores, higher = more anomalous. Importing and constructing
it is not timed.
"""

import importlib
import json
import re
import sys
import time
from pathlib import Path

import numpy as np


def main() -> None:
    module, name, folder, rounds = sys.argv[1:]
    # The classical methods.
    sys.path.append(str(Path(__file__).parents[1] / "detection"))
    train, test = (np.load(Path(folder, f"{part}.npy"), allow_pickle=False) for part in ("train", "test"))
    detector = getattr(importlib.import_module(module), name)(side=train.shape[1])
    started = time.perf_counter()
    epochs, n_learnt = detector.fit(train)
    fit_s = time.perf_counter() - started
    # The first round, which compiles, is not timed.
    scores = np.asarray(detector.score(test), np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("scores that are NaN or infinite")
    score_s = []
    for _ in range(int(rounds)):
        started = time.perf_counter()
        detector.score(test)
        score_s.append(time.perf_counter() - started)
    np.save(Path(folder, "scores.npy"), scores, allow_pickle=False)
    print(
        json.dumps({"epochs": epochs, "n_learnt": n_learnt, "fit_s": fit_s, "score_s": score_s, "peak_mib": peak_mib()})
    )


def peak_mib() -> float:
    """Peak memory of this process in MiB; ``ru_maxrss`` would start at that of the parent process."""
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(kib) / 1024


if __name__ == "__main__":
    main()
