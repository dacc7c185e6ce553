"""Work done one step ahead of its use, on a thread of its own."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar, cast

Item = TypeVar("Item")

_END = object()


def ahead(items: Generator[Item, None, None]) -> Generator[Item, None, None]:
    """Yield the same items; while one is used, another thread makes the next one, but none beyond it.

    An error in the generator `items` is raised where its item would be taken. However the iteration ends, `items` is
    closed once it has finished the item it is working on.

    >>> list(ahead(n * n for n in range(4)))
    [0, 1, 4, 9]
    """
    # A generator cannot be closed while a thread runs it. The executor's own wait is not enough: if it is shut down
    # while its thread starts, it has not registered the thread yet.
    in_use = Lock()

    def make() -> object:
        with in_use:
            return next(items, _END)

    with ThreadPoolExecutor(1, "ahead") as thread:
        try:
            upcoming = thread.submit(make)
            while (item := upcoming.result()) is not _END:
                upcoming = thread.submit(make)
                yield cast(Item, item)
        finally:
            with in_use:
                items.close()
