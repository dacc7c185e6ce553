"""Two commits side by side: a benchmark of each in turn on this machine, and how every figure has changed.

    python -m benchmarks.compare A B [--benchmark speed.end_to_end] [--rounds 5] [--side 256 --images 1000]

prints B / A of each number in the benchmark's tables: the median of rounds in which A and B ran one after the other,
with the range. So whatever else the machine does slows both. A commit is any name that Git knows, or ``.`` for the
files as they are here. Each commit gets its own folder, and runs its own code with this Python's libraries. Further
options are passed to the benchmark, in place of ``--smoke``.
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.rates import circumstances
from benchmarks.table import heads, row

ROOT = Path(__file__).parents[1]
HERE = "."
#: A cell's first number; its spread or its unit follows.
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")

#: Rows of tables: the words at the start of each, and its numbers by column.
Figures = list[tuple[str, dict[str, float]]]


def main() -> None:
    asked, arguments = parser().parse_known_args()
    # Ends by an exception, so that no worktree is left for Git to list.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    line = [asked.benchmark, *(arguments or ["--smoke"])]
    print(f"{circumstances()}; {' '.join(line)}, {asked.rounds} rounds: {asked.b} / {asked.a}\n")
    rounds: list[tuple[Figures, Figures]] = []
    with ExitStack() as ending:
        trees = [ending.enter_context(tree(name)) for name in (asked.a, asked.b)]
        for i in range(asked.rounds):
            # The first one finds colder caches.
            found = {place: figures(place, line) for place in (trees if i % 2 == 0 else trees[::-1])}
            rounds.append((found[trees[0]], found[trees[1]]))
    print("\n".join(heads("", "", asked.a, asked.b, "ratio")))
    for cells in compared(rounds):
        print(row(*cells))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("a", help="the commit to compare with")
    made.add_argument("b", help="the other commit")
    made.add_argument("--benchmark", default="speed.end_to_end", help="a module in the folder benchmarks")
    made.add_argument("--rounds", type=int, default=5)
    return made


@contextmanager
def tree(name: str) -> Iterator[Path]:
    """A folder with the files of a commit.

    Raises:
        CalledProcessError: Git does not know the commit, and has said so.
    """
    if name == HERE:
        yield ROOT
        return
    with tempfile.TemporaryDirectory() as aside:
        place = Path(aside) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", place, name], check=True)
        try:
            yield place
        finally:
            subprocess.run([*git, "remove", "--force", place], check=True)


def figures(place: Path, line: Sequence[str]) -> Figures:
    """The figures that a benchmark of the code in `place` prints.

    Raises:
        SystemExit: the benchmark fails, or does not exist.
    """
    command = [sys.executable, "-m", f"benchmarks.{line[0]}", *line[1:]]
    environment = {**os.environ, "PYTHONPATH": str(place)}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} in {place} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    return parsed(done.stdout)


def parsed(printed: str) -> Figures:
    """The numbers in Markdown tables. A row is identified by its leading words, or else by its first number.

    >>> parsed("| images | s |\\n|---|---|\\n| 1,000 | 2.5 (2.1-3.0) |\\n| 2,000 | - |")
    [('1,000', {'s': 2.5}), ('2,000', {})]
    """
    found: Figures = []
    names: list[str] = []
    before: list[str] = []
    for line in printed.splitlines():
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if set("".join(cells)) == {"-"}:
            names = before
        elif len(cells) == len(names):
            n_words = next((i for i, cell in enumerate(cells) if i and _NUMBER.match(cell)), 1)
            numbers = zip(names[n_words:], map(_NUMBER.match, cells[n_words:]), strict=True)
            values = {name: float(number[0].replace(",", "")) for name, number in numbers if number}
            found.append((", ".join(cells[:n_words]), values))
        before = cells
    return found


def compared(rounds: Sequence[tuple[Figures, Figures]]) -> Iterator[list[str]]:
    """Each figure that all rounds have: row, column, both medians, and the median ratio with the range.

    >>> list(compared([([("a", {"s": 2.0})], [("a", {"s": 1.0})]), ([("a", {"s": 4.0})], [("a", {"s": 3.0})])]))
    [['a', 's', '3', '2', '0.62 (0.50-0.75)']]
    """
    for lines in zip(*(found for pair in rounds for found in pair), strict=True):
        values = [numbers for _, numbers in lines]
        for name in filter(lambda name: all(name in numbers for numbers in values), values[0]):
            ones, others = ([numbers[name] for numbers in values[start::2]] for start in (0, 1))
            if 0 in ones:
                # A small number, rounded to 0.
                continue
            ratios = [other / one for one, other in zip(ones, others, strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            yield [lines[0][0], name, *(f"{statistics.median(of):,.4g}" for of in (ones, others)), spread]


if __name__ == "__main__":
    main()
