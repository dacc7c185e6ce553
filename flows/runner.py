"""How the steps of a composition are carried out: here and now, or as Prefect tasks."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from nelbo.flows.inference.progress import piece, progress

Item = TypeVar("Item")
Result = TypeVar("Result")


#: What people see of a step while it runs; others are called as their functions.
_TITLES = {
    "freeze_batch": "listing images",
    "freeze_new": "listing new images",
    "unfinished_batch": "looking for an unfinished batch",
    "freeze_normals": "listing normal images",
    "freeze_gate": "listing held-out images",
    "freeze_calibration_images": "listing images",
    "settle": "looking at the images",
    "fit": "learning",
    "calibrate_model": "calibrating",
    "calibrate_from_reviews": "calibrating",
    "paint_and_score": "looking for simulated defects",
    "export_engine": "exporting",
    "judge_candidate": "judging at the gate",
    "clean_up": "tidying up",
    "score_shards": "scoring images",
    "publish": "publishing",
    "write_report": "writing the page",
}


def title_of(step: Callable[..., Any]) -> str:
    """What a step is called in front of people."""
    return _TITLES.get(step.__name__, step.__name__.replace("_", " "))


class Runner(Protocol):
    """Runs plain functions. What passes through it is small: paths, ids, options, dataclasses."""

    def call(self, step: Callable[..., Result], *args: Any) -> Result:
        """One step."""

    def map(self, step: Callable[[Item], Result], items: Sequence[Item], sizes: Sequence[int]) -> list[Result]:
        """One step for each item, in any order; results in the items' order. Sizes are for the progress bar."""

    def show(self, key: str, content: str | list[dict[str, Any]]) -> None:
        """Markdown or a table for people to look at; the key has lower-case letters and dashes."""

    def rename(self, name: str) -> None:
        """What the run works on, once that is known."""

    def announce(self, event: str, subject: str, **facts: Any) -> None:
        """Tell whoever listens that something has happened to a batch or a model; facts are what JSON holds."""


class Direct:
    """Steps in this process, one after the other; results are shown nowhere, as whoever runs directly has the files."""

    def call(self, step: Callable[..., Result], *args: Any) -> Result:
        with progress(title_of(step)):
            return step(*args)

    def map(self, step: Callable[[Item], Result], items: Sequence[Item], sizes: Sequence[int]) -> list[Result]:
        results = []
        with progress(title_of(step), sum(sizes)) as advance:
            for item, size in zip(items, sizes, strict=True):
                with piece(advance, size):
                    results.append(step(item))
        return results

    def show(self, key: str, content: str | list[dict[str, Any]]) -> None: ...

    def rename(self, name: str) -> None: ...

    def announce(self, event: str, subject: str, **facts: Any) -> None: ...
