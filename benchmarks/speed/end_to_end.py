"""From images on disk to published Parquet, beside its bounds: decoding alone and the model alone.

    python -m benchmarks.speed.end_to_end [--engine keras] [--side 64] [--images 1000 5000 20000] [--smoke]

prints the table of ``docs/evidence/benchmarks.md``. The images are the solar cells of ELPV, repeated; the model is
trained briefly on some of them, whatever they show, so that about as many are flagged as its calibration promises.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.datasets import repeated_elpv
from benchmarks.table import heads, row
from nelbo.data import File, Preprocessing, iter_images
from nelbo.flows.options.options import ScoreOptions
from nelbo.flows.runner import Direct

#: Images in a batch, and how often it is run.
RUNS = {1_000: 5, 5_000: 5, 20_000: 1}
#: Images for decoding alone and for the model alone, before the run and after it.
ALONE = 1_000
SMOKE = {40: 1}
#: Columns of the table and their formats: seconds of steps; images a second; shares; ms an image; MiB.
COLUMNS = {
    "listing": ".1f",
    "scoring": ".1f",
    "publishing": ".1f",
    "decoding": ",.0f",
    "model": ",.0f",
    "scoring rate": ",.0f",
    "of both": ".2f",
    "rate": ",.0f",
    "share": ".2f",
    "ms": ".2f",
    "peak": ",.0f",
    "flagged": ".1%",
    "load": ".1f",
}


class Stopwatch(Direct):
    """Runs steps directly and counts the seconds of each."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def call(self, step: Callable[..., Any], *args: Any) -> Any:
        return self._timed(step, super().call, *args)

    def map(self, step: Callable[[Any], Any], items: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
        return self._timed(step, super().map, items, sizes)

    def _timed(self, step: Callable[..., Any], way: Callable[..., Any], *args: Any) -> Any:
        started = time.perf_counter()
        try:
            return way(step, *args)
        finally:
            self.seconds[step.__name__] += time.perf_counter() - started


def main() -> None:
    arguments = parser().parse_args()
    if arguments.one is not None:
        print(json.dumps(one(arguments.one, arguments.workspace, arguments.engine)))
        return
    runs = SMOKE if arguments.smoke else {n: RUNS.get(n, 1) for n in arguments.images}
    with tempfile.TemporaryDirectory() as aside:
        workspace = trained(Path(aside), arguments.engine, 60 if arguments.smoke else 300, arguments.side)
        print("\n".join(heads("images", *COLUMNS)))
        for n, rounds in runs.items():
            folder = repeated_elpv(n, Path(aside) / f"images{n}")
            found = [measured(folder, workspace, arguments.engine) for _ in range(rounds)]
            print(line(n, found), flush=True)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    made.add_argument("--engine", default="keras", help="keras, openvino, onnx, or int8")
    made.add_argument("--side", type=int, default=64, help="of the model's input; 256 is the default of nelbo")
    made.add_argument("--images", type=int, nargs="+", default=list(RUNS), help="in a batch each")
    made.add_argument("--smoke", action="store_true", help="a few images, to see that it runs")
    made.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    made.add_argument("--workspace", help=argparse.SUPPRESS)
    return made


def trained(aside: Path, engine: str, n: int, side: int) -> str:
    """A workspace with a model, exported if needed; other processes train it, so they hold no memory in scoring."""
    workspace, nelbo = str(aside / "workspace"), [sys.executable, "-c", "from nelbo.flows.cli.main import main; main()"]
    train = ["train", "--normal", str(repeated_elpv(n, aside / "normal")), "--set", "epochs=3"]
    train += ["--set", f"image_size={side}"]
    # The second fit is made by training itself.
    train += ["--precision", "int8"] if engine == "int8" else []
    export = ["export", "--model", "latest", "--engine", engine]
    for command in [train, export] if engine in ("openvino", "onnx") else [train]:
        subprocess.run([*nelbo, *command, "--workspace", workspace], check=True, capture_output=True)
    return workspace


def measured(folder: Path, workspace: str, engine: str) -> dict[str, float]:
    """What a separate process measured, and the peak memory of it and its decoders in MiB."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.speed.end_to_end",
        "--one",
        str(folder),
        "--workspace",
        workspace,
        "--engine",
        engine,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peak = Peak(process.pid)
        answer, _ = process.communicate()
    assert process.returncode == 0
    return {**json.loads(answer), "peak": peak.stop(), "load": os.getloadavg()[0]}


class Peak:
    """The peak memory of a process and its children, sampled twice a second.

    Shared pages count only once (PSS): decoders share their libraries.
    """

    def __init__(self, pid: int) -> None:
        self._process, self._ended, self._most = psutil.Process(pid), threading.Event(), 0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> float:
        self._ended.set()
        self._thread.join()
        return self._most / 2**20

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            # A process may end meanwhile.
            with suppress(psutil.NoSuchProcess, OSError):
                tree = [self._process, *self._process.children(recursive=True)]
                self._most = max(self._most, sum(pss(process.pid) for process in tree))


def pss(pid: int) -> int:
    """Proportional set size of a process, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def one(folder: Path, workspace: str, engine: str) -> dict[str, float]:
    """One run with everything loaded: seconds of its steps, and the images a second of its bounds."""
    from nelbo.flows.inference.models import load_model
    from nelbo.flows.steps.score import score_batch
    from nelbo.flows.workspace import catalog
    from nelbo.flows.workspace.layout import Workspace

    place = Workspace.at(workspace)
    model = load_model(place, catalog.find_model(place, "latest"), engine)
    paths = sorted(folder.rglob("*.png"))
    # This starts the decoders, too.
    pixels = next(iter_images(paths, Preprocessing(**model.preprocessing), 256)).pixels
    before = alone(paths, pixels, model)
    watch = Stopwatch()
    result = score_batch(ScoreOptions(images=str(folder), workspace=workspace, engine=engine), watch)
    assert result["n_scored"] == len(paths)
    bounds = {name: statistics.mean(values) for name, values in pair(before, alone(paths, pixels, model)).items()}
    steps = {
        "listing": watch.seconds["freeze_batch"],
        "scoring": watch.seconds["score_shards"],
        "publishing": watch.seconds["publish"],
    }
    return {**steps, **bounds, "flagged": result["n_anomalous"] / len(paths)}


def alone(paths: list[Path], pixels: np.ndarray, model: Any) -> dict[str, float]:
    """Images a second of decoding without a model, and of the model without decoding."""
    from nelbo import vae_core

    some = [File.at(path) for path in islice(paths, ALONE)]
    started = time.perf_counter()
    n_decoded = sum(len(images.reasons) for images in iter_images(some, Preprocessing(**model.preprocessing), 64))
    decoded = time.perf_counter()
    n_scored = 0
    while n_scored < len(some):
        n_scored += len(vae_core.score(model, pixels, maps=False).nelbo)
    return {"decoding": n_decoded / (decoded - started), "model": n_scored / (time.perf_counter() - decoded)}


def pair(one: dict[str, float], other: dict[str, float]) -> dict[str, tuple[float, float]]:
    return {name: (one[name], other[name]) for name in one}


def line(n: int, found: list[dict[str, float]]) -> str:
    """A row of medians with ranges; shares are computed within each run."""
    for run in found:
        run["rate"] = n / (run["listing"] + run["scoring"] + run["publishing"])
        run["scoring rate"] = n / run["scoring"]
        run["ms"] = 1000 / run["rate"]
        run["share"] = run["rate"] / min(run["decoding"], run["model"])
        # Where both need the same cores, an image takes the time of both.
        run["of both"] = run["scoring rate"] * (1 / run["decoding"] + 1 / run["model"])

    def cell(name: str, form: str) -> str:
        values = [run[name] for run in found]
        spread = f" ({min(values):{form}}-{max(values):{form}})" if len(values) > 1 else ""
        return f"{statistics.median(values):{form}}{spread}"

    return row(f"{n:,}", *(cell(name, form) for name, form in COLUMNS.items()))


if __name__ == "__main__":
    main()
