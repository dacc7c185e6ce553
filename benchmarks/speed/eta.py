"""The remaining time that a command shows on a terminal, compared with the time that it took.

    python -m benchmarks.speed.eta [--normal 150] [--images 2600] [--smoke]

runs `train` and `score` on solar cells, each in a pseudo-terminal, and reads what they draw: the first sign, and from
the tenth second on each "about 12 s left".
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.datasets import repeated_elpv
from benchmarks.table import heads, row

#: Readings count from so many seconds on, and until so few seconds before the end.
FROM_S, LAST_S = 10.0, 3.0

_SAID = re.compile(r"nelbo \w+ .*?about (?:(\d+) h )?(\d+) (s|min) left")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Watched(NamedTuple):
    """A command that was watched.

    first_s: until it drew anything; seconds: until its last line.
    said: the time of each reading, and how many seconds it said were left.
    """

    first_s: float
    seconds: float
    said: list[tuple[float, float]]

    def ratios(self, from_s: float = FROM_S) -> list[float]:
        """The time left by each reading from `from_s` on, divided by the true time left; below 1 it was too short."""
        real = [(said, self.seconds - at) for at, said in self.said if at >= from_s]
        return [said / left for said, left in real if left >= LAST_S]


def watch(*line: object) -> Watched:
    """Run a command in a pseudo-terminal; raises an error if it fails."""
    ours, theirs = os.openpty()
    program = [sys.executable, "-c", "from nelbo.flows.cli.main import main; main()", *map(str, line)]
    started = time.perf_counter()
    with subprocess.Popen(program, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        first, said, text, now = None, [], "", 0.0
        while True:
            try:
                drawn = os.read(ours, 1 << 16)
            except OSError:
                # Linux reports in this way that the other end is closed.
                break
            now = time.perf_counter() - started
            first = now if first is None else first
            text = text[-1000:] + _ESCAPES.sub("", drawn.decode(errors="replace"))
            for hours, number, unit in _SAID.findall(text)[-1:]:
                said.append((now, 3600 * int(hours or 0) + int(number) * (1 if unit == "s" else 60)))
    os.close(ours)
    if process.returncode:
        raise RuntimeError(f"nelbo {' '.join(map(str, line))} failed: {text[-500:]}")
    return Watched(first or 0.0, now, said)


def main() -> None:
    made = argparse.ArgumentParser()
    made.add_argument("--normal", type=int, default=150)
    made.add_argument("--images", type=int, default=2600)
    made.add_argument("--smoke", action="store_true", help="a few small images, to see that it runs")
    asked = made.parse_args()
    n_normal, n, small = (
        (60, 30, ("--set", "image_size=32", "--set", "epochs=2")) if asked.smoke else (asked.normal, asked.images, ())
    )
    from_s = 0.0 if asked.smoke else FROM_S
    with tempfile.TemporaryDirectory() as aside:
        at = ("--workspace", Path(aside) / "w", "--no-prefect")
        normal, images = (repeated_elpv(k, Path(aside) / name) for k, name in ((n_normal, "normal"), (n, "images")))
        lines = (
            ("train", n_normal, ("train", "--normal", normal, *small, *at)),
            ("score", n, ("score", images, *at)),
        )
        print(
            "\n".join(heads("command", "images", "first sign, s", "took, s", "within 2x", "said / real, least", "most"))
        )
        for name, count, line in lines:
            found = watch(*line)
            ratios = found.ratios(from_s) or [float("nan")]
            within = sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios)
            ends = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
            print(row(name, f"{count:,}", f"{found.first_s:.2f}", f"{found.seconds:.0f}", f"{within:.0%}", *ends))


if __name__ == "__main__":
    main()
