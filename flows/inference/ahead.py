"""Work that is done one step ahead of its use, on a thread of its own."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar, cast

Item = TypeVar("Item")

_END = object()


def ahead(items: Generator[Item, None, None]) -> Generator[Item, None, None]:
    """The same items; the next one is made on another thread while one is used, and no more than that.

    An error of the maker is raised where its item would be taken. However it ends, the maker is closed once it has
    ended what it is at.

    >>> list(ahead(n * n for n in range(4)))
    [0, 1, 4, 9]
    """
    # A generator cannot be closed while a thread is in it. The executor's own wait is not enough: told to end while
    # its thread starts, it has not noted the thread yet.
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
