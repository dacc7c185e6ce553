"""The watched folder: which files are complete and not yet dealt with, from notices and from regular listings."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import NamedTuple

from nelbo.data import Entry, Known, Listed, Notice, Notices
from nelbo.data.sources.names import shown
from nelbo.flows.watching.arrivals import Arrival, Arrivals

log = logging.getLogger(__name__)

#: Seconds of listing at a time: files that arrive meanwhile must not wait for the whole listing.
_SLICE_S = 0.02
#: Largest share of the time that listings take.
_SHARE = 0.1
#: Longest wait for notices in seconds, and therefore the longest delay when somebody ends the command.
_PATIENCE_S = 0.1


class Complete(NamedTuple):
    """A complete file as it is now, and when it became complete by the watcher's clock."""

    entry: Entry
    since_s: float


class WatchedFolder:
    """A folder that files land in.

    Args:
        root: the folder.
        skip: a folder below it that is passed over.
        known: rows of files that were dealt with before; those that have not changed are not looked at again.
        settle_s: see `Arrivals`.
        list_s: seconds between two listings.
        clock: time in seconds, from any starting point.

    Attributes:
        is_listed: whether it has been listed to the end.

    Raises:
        OSError: the folder is not there.
    """

    def __init__(
        self,
        root: str,
        skip: Path | None,
        known: Known,
        *,
        settle_s: float,
        list_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self._root, self._list_s = root, list_s
        self._disk = self._identity()
        self._notices = Notices(root, skip)
        self._arrivals = Arrivals(settle_s)
        self.is_listed, self._is_lost, self._shut = False, False, tuple[str, ...]()
        self._listings = self._list_for_ever(known)

    def open(self) -> AbstractContextManager[Notices]:
        """Follow the folder until the block ends."""
        return closing(self._notices)

    @property
    def waits(self) -> bool:
        """Whether a file was seen that is not yet complete."""
        return self._arrivals.wait_s(self.clock()) < float("inf")

    def may_hold(self, path: str) -> bool:
        """Whether a file may be there now; True where the folder has not been listed."""
        return path in self._arrivals or not self.is_listed or path.startswith(self._shut)

    def complete(self, n: int) -> list[Complete]:
        """At most n files that are complete; waits a moment for one."""
        pause_s = min(next(self._listings), self._arrivals.wait_s(self.clock()), _PATIENCE_S)
        for notice in self._notices.read(max(0.0, pause_s)):
            self._notice(notice)
        found = map(self._looked_at, self._arrivals.due(self.clock(), n))
        return [one for one in found if one is not None]

    def take(self, entry: Entry) -> None:
        """Note that a file is dealt with until it changes."""
        self._arrivals.take(entry.path, entry.stamp)

    def look_again(self, path: str) -> None:
        """Look again at a file that has changed since it was complete, or is gone."""
        if entry := self._notices.look(path):
            self._arrivals.see(path, entry.stamp, self.clock(), noticed=True)
        else:
            self._arrivals.lose(path)
            log.warning("%s was gone before it was scored", shown(path))

    def _looked_at(self, arrival: Arrival) -> Complete | None:
        entry = self._notices.look(arrival.path)
        if entry is not None and entry.stamp[:2] == arrival.stamp[:2]:
            return Complete(entry, arrival.when_s)
        self.look_again(arrival.path)
        return None

    def _notice(self, notice: Notice) -> None:
        path = notice.path
        if notice.what in ("deleted", "moved_away"):
            if self._arrivals.lose(path) and notice.what == "deleted":
                log.warning("%s was gone before it was scored", shown(path))
        elif entry := self._notices.look(path):
            self._arrivals.see(path, entry.stamp, self.clock(), moved=notice.what == "moved_here", noticed=True)

    def _list_for_ever(self, known: Known) -> Iterator[float]:
        """List the folder again and again, a slice at a time; yields the seconds until the next slice."""
        while True:
            self._notices.incomplete = False
            busy_s = 0.0
            for took_s in self._list(known):
                busy_s += took_s
                yield 0.0
            known = Known([], 0)
            next_s = self.clock() + max(self._list_s, busy_s / _SHARE)
            while not self._notices.incomplete and (left_s := next_s - self.clock()) > 0:
                yield left_s
            if self._notices.incomplete:
                self._notices.follow()

    def _list(self, known: Known) -> Iterator[float]:
        """List the folder once; yields the seconds that each slice but the last took."""
        found, shut, started = set(), list[str](), self.clock()
        try:
            self._settle_on_disk()
            for entry in self._notices.entries():
                if entry.unlisted is not None:
                    shut.append(f"{entry.path}/")
                    continue
                found.add(entry.path)
                if known.row(Listed(entry)) is not None:
                    self.take(entry)
                else:
                    self._arrivals.see(entry.path, entry.stamp, self.clock())
                if (now_s := self.clock()) - started > _SLICE_S:
                    yield now_s - started
                    started = self.clock()
        except OSError as error:
            # A drive may be unmounted for a while: its files are not gone.
            if not self._is_lost:
                log.warning("%s cannot be listed (%s). Trying again every %g s", self._root, error, self._list_s)
            self._is_lost = True
            return
        self._is_lost = False
        self.is_listed, self._shut = True, tuple(shut)
        for path in [path for path in self._arrivals if path not in found and not path.startswith(self._shut)]:
            # The file may have come after its folder was listed.
            if self._notices.look(path) is None and self._arrivals.lose(path):
                log.warning("%s was gone before it was scored", shown(path))

    def _settle_on_disk(self) -> None:
        """If another folder is now in its place, follow that one, once it holds something.

        Raises:
            OSError: it is empty, like the mount point of a drive that is not mounted.
        """
        if (identity := self._identity()) != self._disk:
            if all(entry.unlisted is not None for entry in self._notices.entries()):
                raise OSError("another folder is in its place, and is empty")
            log.warning("another folder is in the place of %s, and is watched from now on", self._root)
            self._disk = identity
        elif not self._is_lost:
            return
        self._notices.follow()

    def _identity(self) -> tuple[int, int]:
        status = Path(self._root).stat()
        return status.st_dev, status.st_ino
