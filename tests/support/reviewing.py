"""Synthetic reviews; as a program, run by ``test_reviews.py``, it records and joins them in forks of itself.

A fork is killed with SIGKILL the n-th time that it opens, links, moves or removes a file of the workspace.
"""

import json
import multiprocessing
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import killed

from nelbo.data import read_table
from nelbo.flows.options.options import CompactOptions
from nelbo.flows.runner import Direct
from nelbo.flows.steps.compact import compact_workspace
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.reviews import Review, record_review


def review(number: int, **changes: Any) -> Review:
    """A review that rejects a flag; the number determines the image and the form."""
    fields = {
        "image_id": f"{number:064x}",
        "relative_path": f"a/{number}.png",
        "model_id": "m1",
        "batch_id": "b1",
        "calibration_id": "c1",
        "verdict": "anomalous",
        "anomaly_score": 2.5,
        "decision": "normal",
        "reviewer": "Ann",
        "note": "",
        "review_id": f"v{number}",
    }
    return Review(**{**fields, **changes})


def visible(workspace: Workspace) -> list[str]:
    """The reviews that a reader finds; half a file is an error."""
    return sorted(name for path in workspace.reviews.glob("*") for name in read_table(path)["review_id"].to_pylist())


def record(workspace: Workspace) -> None:
    record_review(workspace, review(9))


def compact(workspace: Workspace) -> None:
    compact_workspace(CompactOptions(workspace=str(workspace.root)), Direct())


def killed_everywhere(scratch: Path, work: Callable[[Workspace], None]) -> list[dict[str, Any]]:
    """What is visible after a kill at each event of the work, and after a repeat; the last run is not killed."""
    found: list[dict[str, Any]] = []
    for n in count(1):
        workspace = Workspace(scratch / f"{work.__name__}{n}")
        for number in range(3):
            record_review(workspace, review(number))

        def die(workspace: Workspace = workspace, n: int = n) -> None:
            killed.die_at(n, Path(workspace.root))
            work(workspace)

        code = killed.in_fork(die)
        seen = visible(workspace)
        work(workspace)
        found.append(
            {
                "code": code,
                "seen": seen,
                "again": visible(workspace),
                "read": sorted(catalog.all_rows(workspace, "reviews")["review_id"].to_pylist()),
            }
        )
        if code == 0:
            return found
    raise AssertionError


def race(scratch: Path) -> dict[str, Any]:
    """Two processes send the same forms: how many reviews each was told that it wrote."""
    workspace = Workspace(scratch / "race")
    told = scratch / "told.txt"
    start = multiprocessing.get_context("fork").Barrier(2)

    def work() -> None:
        start.wait()
        n = sum(record_review(workspace, review(number)) for number in range(40))
        with told.open("a") as file:
            file.write(f"{n}\n")

    codes = killed.two_at_once(work)
    return {"codes": codes, "told": [int(n) for n in told.read_text().split()], "seen": visible(workspace)}


def main() -> None:
    scratch = Path(sys.argv[1])
    found = {
        "record": killed_everywhere(scratch, record),
        "compact": killed_everywhere(scratch, compact),
        "race": race(scratch),
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
