"""When a file that landed is complete: at once if it was renamed into place, otherwise when it stops changing."""

import heapq
from collections.abc import Iterator
from typing import NamedTuple

from nelbo.data import Stamp


class Arrival(NamedTuple):
    """A file, and when it is complete unless it changes, in seconds of its watcher's clock."""

    when_s: float
    path: str
    stamp: Stamp


class Arrivals:
    """Files that were seen in a folder: each waits until it is complete, and is taken once until it changes.

    It reads neither the clock nor the disk: the caller says what was seen, and when.

    Args:
        settle_s: a file is complete when its size and time have not changed for so many seconds.

    >>> arrivals, stamp = Arrivals(settle_s=0.5), Stamp(size_bytes=10, modified_ns=1)
    >>> arrivals.see("a.png", stamp, now_s=7.0)
    >>> [[arrival.path for arrival in arrivals.due(now_s, 10)] for now_s in (7.4, 7.5)]
    [[], ['a.png']]
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._waiting: dict[str, Arrival] = {}
        # The arrivals of `_waiting` in order of time, and some that no longer wait.
        self._queue: list[Arrival] = []
        self._handed_out: set[str] = set()
        self._taken: dict[str, Stamp] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._taken or path in self._waiting or path in self._handed_out

    def __iter__(self) -> Iterator[str]:
        """The files that are known to be there."""
        yield from [*self._taken, *self._waiting]

    def see(self, path: str, stamp: Stamp, now_s: float, *, moved: bool = False, noticed: bool = False) -> None:
        """Note that a file is there.

        Args:
            moved: whether it was just renamed into place.
            noticed: whether the system reported a change; otherwise a new stamp shows one.
        """
        if self._taken.get(path) == stamp and not noticed:
            return
        before = self._waiting.get(path)
        if moved or before is None or before.stamp[:2] != stamp[:2]:
            arrival = Arrival(now_s if moved else now_s + self._settle_s, path, stamp)
            self._waiting[path] = arrival
            heapq.heappush(self._queue, arrival)
            self._handed_out.discard(path)

    def due(self, now_s: float, n: int) -> list[Arrival]:
        """The first n files that are complete by now, unless they have changed since they were seen.

        They no longer wait: the caller must `take`, `see` or `lose` each of them.
        """
        found: list[Arrival] = []
        while len(found) < n and self.wait_s(now_s) <= 0:
            arrival = heapq.heappop(self._queue)
            # Add before removing, because another thread may ask whether the file is there.
            self._handed_out.add(arrival.path)
            found.append(self._waiting.pop(arrival.path))
        return found

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next file is complete; infinite if none waits."""
        while self._queue and self._waiting.get(self._queue[0].path) is not self._queue[0]:
            heapq.heappop(self._queue)
        return self._queue[0].when_s - now_s if self._queue else float("inf")

    def take(self, path: str, stamp: Stamp) -> None:
        """Note that a file is dealt with as it is."""
        self._taken[path] = stamp
        self._handed_out.discard(path)

    def lose(self, path: str) -> bool:
        """Note that a file is gone; returns whether it was waiting."""
        self._taken.pop(path, None)
        self._handed_out.discard(path)
        return self._waiting.pop(path, None) is not None
