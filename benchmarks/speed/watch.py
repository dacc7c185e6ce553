"""How long a file that has arrived waits for its verdict from `nelbo watch`.

    python -m benchmarks.speed.watch [--workspace W] [--per-s 5] [--seconds 60] [--batch-images 1000] [--smoke]

Solar cells are renamed into the folder, or written into it. Latency counts from the renaming, or from `settle_ms` after
the last byte, until the line of the file is read here. The latest model of the workspace scores; without a workspace
one is trained.
"""

import argparse
import json
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.datasets import repeated_elpv
from benchmarks.rates import circumstances
from benchmarks.table import heads, row
from benchmarks.workspace import NELBO, with_model

SETTLE_S = 0.5


def latencies_ms(
    folder: Path, images: list[Path], workspace: Path, pause_s: float, how: str, more: list[str]
) -> list[float]:
    """(n,) latencies of files that are put into an empty folder one by one.

    Args:
        how: "renamed" or "written".
        more: options of the command.
    """
    folder.mkdir()
    command = [
        *NELBO,
        "watch",
        str(folder),
        "--workspace",
        str(workspace),
        "--json",
        "--set",
        f"settle_ms={1000 * SETTLE_S:.0f}",
        *more,
    ]
    complete: dict[str, float] = {}
    found: list[float] = []

    def read(lines: Iterable[str]) -> None:
        found.extend(1000 * (time.perf_counter() - complete[json.loads(line)["relative_path"]]) for line in lines)

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # The first line says that the process is ready.
        process.stderr.readline()
        reader = threading.Thread(target=read, args=[process.stdout])
        reader.start()
        next_s = time.perf_counter()
        for image in images:
            next_s += pause_s
            time.sleep(max(0.0, next_s - time.perf_counter()))
            target = folder / image.name
            if how == "renamed":
                aside = Path(shutil.copy(image, folder / f".{image.name}"))
                complete[image.name] = time.perf_counter()
                aside.rename(target)
            else:
                complete[image.name] = time.perf_counter() + SETTLE_S
                shutil.copy(image, target)
        while len(found) < len(images) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate()
        reader.join()
    if process.returncode:
        raise RuntimeError(said)
    return found


def main() -> None:
    made = argparse.ArgumentParser()
    made.add_argument("--workspace", type=Path, help="with the model that scores; it is left as it is")
    made.add_argument("--per-s", type=float, default=5.0)
    made.add_argument("--seconds", type=float, default=60.0)
    made.add_argument("--batch-images", type=int, default=1000)
    made.add_argument("--smoke", action="store_true", help="a few small images, to see that it runs")
    asked = made.parse_args()
    seconds = 1.0 if asked.smoke else asked.seconds
    print(circumstances())
    with tempfile.TemporaryDirectory() as name:
        aside = Path(name)
        workspace = with_model(asked.workspace, aside, small=asked.smoke)
        n = round(asked.per_s * seconds)
        images = sorted(repeated_elpv(n, aside / "images").rglob("*.png"))[:n]
        print("\n".join(heads("files are", "files", "a second", "p50, ms", "p90, ms", "p99, ms", "longest, ms")))
        more = ["--batch-images", str(asked.batch_images)]
        for i, how in enumerate(("renamed", "written")):
            found = latencies_ms(aside / f"in{i}", images, workspace, 1 / asked.per_s, how, more)
            quantiles = (f"{value:.0f}" for value in np.quantile(found, [0.5, 0.9, 0.99, 1]))
            print(row(how, f"{len(found):,}", f"{asked.per_s:g}", *quantiles))


if __name__ == "__main__":
    main()
