"""What a benchmark prints on a small task."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def rows(module: str, *arguments: object) -> list[list[str]]:
    """The cells of all rows that a small run of a module of benchmarks prints, headings left out."""
    command = [sys.executable, "-m", f"benchmarks.{module}", "--smoke", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    headings = {i + below for i, line in enumerate(lines) if line.startswith("|---") for below in (-1, 0)}
    kept = [line for i, line in enumerate(lines) if i not in headings]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in kept]
