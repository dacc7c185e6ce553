"""From files to Parquet: decoding beside bare Pillow and OpenCV, listing and hashing, memory, writing verdicts.

    python -m benchmarks.speed.ingest [MTD]

prints the tables of ``docs/evidence/benchmarks.md``. pip installs OpenCV into a separate environment, from its
configured registry. MTD is a folder of JPEGs (magnetic tiles, Huang et al. 2020); without it that row is missing.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.datasets import elpv_files, repeated_elpv
from benchmarks.rates import peak_mib
from benchmarks.table import row
from nelbo.data import Preprocessing, read_images
from nelbo.data.sources.files import Folder
from nelbo.data.sources.listing import list_source
from nelbo.data.sources.manifest import Scan

SIDE, THREADS, ROUNDS = 64, 2, 7
SIZES = (10_000, 100_000)

OPENCV = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
import cv2
cv2.setNumThreads(1)
side, threads = int(sys.argv[1]), int(sys.argv[2])
paths = sys.stdin.read().splitlines()

def read(path):
    return cv2.resize(cv2.imread(path, cv2.IMREAD_GRAYSCALE), (side, side), interpolation=cv2.INTER_AREA)

started = time.perf_counter()
with ThreadPoolExecutor(threads) as pool:
    n = sum(1 for _ in pool.map(read, paths))
print(n / (time.perf_counter() - started))
"""


def main() -> None:
    if sys.argv[1:2] == ["--memory"]:
        print(json.dumps(memory(int(sys.argv[2]), Path(sys.argv[3]))))
        return
    sets = {"ELPV, PNG": elpv_files()}
    if len(sys.argv) > 1:
        sets["MTD, JPEG"] = sorted(Path(sys.argv[1]).rglob("*.jpg"))
    with tempfile.TemporaryDirectory() as aside:
        python = opencv(Path(aside))
        rates = {name: decoding(name, paths, python) for name, paths in sets.items()}
        for name, paths in sets.items():
            listing(name, paths)
        at_size(Path(aside), rates["ELPV, PNG"])


def opencv(aside: Path) -> Path:
    venv.create(aside / "opencv", with_pip=True)
    python = aside / "opencv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "opencv-python-headless"], check=True)
    return python


def decoding(name: str, paths: list[Path], python: Path) -> float:
    """Print images a second of each library, measured in turn in every round, and return nelbo's median."""
    preprocessing = Preprocessing(SIDE, SIDE)

    def bare(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32) / 255

    def pillow() -> float:
        with ThreadPoolExecutor(THREADS) as pool:
            return rate(lambda: list(pool.map(bare, paths)), len(paths))

    def cv2() -> float:
        command = [python, "-c", OPENCV, str(SIDE), str(THREADS)]
        done = subprocess.run(command, input="\n".join(map(str, paths)), capture_output=True, text=True, check=True)
        return float(done.stdout)

    def ours() -> float:
        return rate(lambda: read_images(paths, preprocessing, workers=THREADS), len(paths))

    ways = {"nelbo": ours, "Pillow": pillow, "OpenCV": cv2}
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS + 1):
        for way, measure in ways.items():
            found[way].append(measure())
    # The first round fills the page cache and starts the decoders.
    found = {way: rates[1:] for way, rates in found.items()}
    medians = {way: statistics.median(rates) for way, rates in found.items()}
    ratios = [own / max(rest) for own, *rest in zip(*found.values(), strict=True)]
    cells = (f"{medians[way]:,.0f} ({min(found[way]):,.0f}-{max(found[way]):,.0f})" for way in ways)
    print(row(name, *cells, f"{statistics.median(ratios):.2f}"))
    return medians["nelbo"]


def rate(work: Callable[[], Any], n: int) -> float:
    started = time.perf_counter()
    work()
    return n / (time.perf_counter() - started)


def listing(name: str, paths: list[Path]) -> None:
    """Print the time of walking and hashing, and of ingest (with headers), as shares of decoding on as many threads."""
    folder = Path(os.path.commonpath(paths))

    def walk_and_hash() -> int:
        root = Folder(folder)
        entries = [entry.path for entry in root.walk() if not entry.skipped]
        return len([hashlib.sha256(root.read(path, 1 << 30).data).hexdigest() for path in entries])

    def ingest() -> int:
        return sum(map(len, Scan(list_source(str(folder)), workers=1)))

    def decode() -> int:
        return len(read_images(paths, Preprocessing(SIDE, SIDE), workers=1).reasons)

    found: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for work in (walk_and_hash, ingest, decode):
            started = time.perf_counter()
            n = work()
            found.setdefault(work.__name__, []).append((time.perf_counter() - started) / n)
    hashing, ingesting, decoded = (statistics.median(times) for times in found.values())
    print(f"| {name} | {1e6 * hashing:.0f} | {hashing / decoded:.1%} | {ingesting / decoded:.1%} |")


def at_size(aside: Path, decoded: float) -> None:
    """Print the peak memory of a whole scoring run without the network, and the time to write its verdicts."""
    workspace = calibrated(aside)
    for n in SIZES:
        folder = repeated_elpv(n, aside / f"images{n}")
        command = [sys.executable, "-m", "benchmarks.speed.ingest", "--memory", str(n), str(workspace)]
        done = subprocess.run(
            [*command], capture_output=True, text=True, check=True, env={**os.environ, "IMAGES": str(folder)}
        )
        one = json.loads(done.stdout)
        share = one["publish_s"] / (n / decoded)
        print(f"| {n:,} | {one['peak_mib']:,.0f} | {one['seconds']:.0f} | {one['publish_s']:.1f} | {share:.1%} |")


def calibrated(aside: Path) -> Path:
    from nelbo.flows.options.options import TrainOptions
    from nelbo.flows.orchestration.execution import execute

    normal = repeated_elpv(200, aside / "normal")
    options = TrainOptions(normal=str(normal), workspace=str(aside / "w"), image_size=(16, 16), epochs=1)
    execute("train", options, prefect=False)
    return aside / "w"


def memory(n: int, workspace: Path) -> dict[str, float]:
    """One scoring run without a network."""
    import nelbo.flows.steps.score
    from benchmarks.speed import stand_in
    from nelbo.flows.options.options import ScoreOptions
    from nelbo.flows.runner import Direct

    stand_in.use()
    publish, took = nelbo.flows.steps.score.publish, []

    def timed(*arguments: Any) -> Any:
        started = time.perf_counter()
        result = publish(*arguments)
        took.append(time.perf_counter() - started)
        return result

    nelbo.flows.steps.score.publish = timed
    started = time.perf_counter()
    options = ScoreOptions(images=os.environ["IMAGES"], workspace=str(workspace), batch_id=f"n{n}", workers=THREADS)
    result = nelbo.flows.steps.score.score_batch(options, Direct())
    assert result["n_images"] == n
    return {
        "peak_mib": peak_mib(),
        "seconds": time.perf_counter() - started,
        "publish_s": took[0],
    }


if __name__ == "__main__":
    main()
