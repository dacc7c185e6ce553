"""How the steps of a composition are carried out: here and now, or as Prefect tasks."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from nelbo.flows.inference.progress import progress

Item = TypeVar("Item")
Result = TypeVar("Result")


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
        return step(*args)

    def map(self, step: Callable[[Item], Result], items: Sequence[Item], sizes: Sequence[int]) -> list[Result]:
        results = []
        with progress(step.__name__.replace("_", " "), sum(sizes)) as advance:
            for item, size in zip(items, sizes, strict=True):
                results.append(step(item))
                advance(size)
        return results

    def show(self, key: str, content: str | list[dict[str, Any]]) -> None: ...

    def rename(self, name: str) -> None: ...

    def announce(self, event: str, subject: str, **facts: Any) -> None: ...
