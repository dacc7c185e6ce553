"""What a benchmark prints on a small task."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def rows(script: str, *arguments: object) -> list[list[str]]:
    """The cells of all rows that a small run prints, headings left out."""
    command = [sys.executable, BENCHMARKS / script, "--smoke", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    headings = {i + below for i, line in enumerate(lines) if line.startswith("|---") for below in (-1, 0)}
    kept = [line for i, line in enumerate(lines) if i not in headings]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in kept]
