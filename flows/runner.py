"""How the steps of a command run: directly in this process, or as Prefect tasks."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from nelbo.flows.inference.progress import piece, progress

Item = TypeVar("Item")
Result = TypeVar("Result")


#: What people see while a step runs; other steps show the name of their function.
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
    """The name of a step that people see."""
    return _TITLES.get(step.__name__, step.__name__.replace("_", " "))


class Runner(Protocol):
    """Runs plain functions. Their arguments and results are small: paths, ids, options, dataclasses."""

    def call(self, step: Callable[..., Result], *args: Any) -> Result:
        """Run one step and return its result."""

    def map(self, step: Callable[[Item], Result], items: Sequence[Item], sizes: Sequence[int]) -> list[Result]:
        """Run the step on each item, in any order; results keep the items' order. Sizes are for the progress bar."""

    def show(self, key: str, content: str | list[dict[str, Any]]) -> None:
        """Show Markdown or a table to people; the key has lower-case letters and dashes."""

    def rename(self, name: str) -> None:
        """Name the run after what it works on, once that is known."""

    def announce(self, event: str, subject: str, **facts: Any) -> None:
        """Tell listeners that something has happened to a batch or a model; facts are values that JSON can hold."""


class Direct:
    """Runs steps in this process, one after the other; shows nothing, because whoever runs directly has the files."""

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
