"""A local folder into which files keep coming: what the system reports of it at once, and what a listing finds."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from inotify_simple import Event, INotify, flags

from nelbo.data.sources.files import Entry, Folder
from nelbo.data.sources.listing import is_mask
from nelbo.data.sources.names import is_hidden, path_of, shown, text_of

log = logging.getLogger(__name__)

#: A change to a file ends when it is closed: while it is being written, there is nothing to report.
_WANTED = flags.CREATE | flags.CLOSE_WRITE | flags.MOVED_TO | flags.MOVED_FROM | flags.DELETE

_What = Literal["written", "moved_here", "moved_away", "deleted"]


class Notice(NamedTuple):
    """Something has happened to a file.

    path: below the folder.
    what: "written", it was made or written to; "moved_here", it was renamed into place, so nobody writes to it any
        more; "moved_away", it was renamed; or "deleted".
    """

    path: str
    what: _What


_HAPPENED: dict[int, _What] = {flags.MOVED_TO: "moved_here", flags.MOVED_FROM: "moved_away", flags.DELETE: "deleted"}


class Notices:
    """What happens to the files of a folder and of the folders below it, as the system reports it; and their listing.

    The system does not report what other machines do on a network drive, and drops notices when too much happens at
    once: to miss nothing, list the folder from time to time.

    Args:
        root: the folder.
        skip: a folder below it that is passed over.

    Attributes:
        incomplete: whether it has missed something since this was last set to False.
    """

    def __init__(self, root: str, skip: Path | None = None) -> None:
        self._root, self._folder = path_of(root), Folder(path_of(root), skip)
        self._watched: dict[int, str] = {}
        self.incomplete = False
        try:
            self._system: INotify | None = INotify()
        except (OSError, AttributeError) as error:
            # Only Linux has them.
            log.warning("the system gives no notices (%s): %s is listed instead", error, root)
            self._system = None
        self.follow()

    def close(self) -> None:
        """Stop watching."""
        if self._system is not None:
            self._system.close()

    def read(self, timeout_s: float) -> list[Notice]:
        """What has happened since the last call; waits `timeout_s` seconds at most."""
        if self._system is None:
            time.sleep(timeout_s)
            return []
        events = self._system.read(timeout=max(1, round(1000 * timeout_s)))
        return [notice for event in events for notice in self._notices(event)]

    def entries(self) -> Iterator[Entry]:
        """All files that have a row, and folders that cannot be listed, in the order of their paths.

        Raises:
            OSError: it cannot be listed itself.
        """
        return (entry for entry in self._folder.walk() if not _is_skipped(entry))

    def look(self, path: str) -> Entry | None:
        """The file at `path`, below the folder, as it is now; None where it has gone, or has no row."""
        folder, _, name = path.rpartition("/")
        with suppress(OSError):
            if not (is_hidden(name) or self._folder.passes_over(folder)):
                entry = self._folder.look(path)
                return None if _is_skipped(entry) else entry
        return None

    def _notices(self, event: Event) -> Iterator[Notice]:
        if event.mask & flags.Q_OVERFLOW:
            self.incomplete = True
        folder = self._watched.get(event.wd)
        if event.mask & flags.IGNORED:
            self._watched.pop(event.wd, None)
            # When another folder is made anew, its parent reports it; nothing reports it for the root.
            self.incomplete = self.incomplete or folder == ""
        if folder is None or not event.name:
            return
        path = _joined(folder, text_of(event.name))
        what: _What = next((what for flag, what in _HAPPENED.items() if event.mask & flag), "written")
        if not event.mask & flags.ISDIR:
            yield Notice(path, what)
        elif what in ("written", "moved_here") and not self._folder.passes_over(path):
            self.follow(path)
            # Files that came into it before it was followed.
            with suppress(OSError):
                for entry in self._folder.walk(path):
                    if not _is_skipped(entry) and entry.unlisted is None:
                        yield Notice(entry.path, what)

    def follow(self, folder: str = "") -> None:
        """Watch a folder and all below it, including those that have been missed.

        Args:
            folder: its path below the root, with ``/``; by default the root itself.
        """
        if self._system is None:
            return
        pending = [folder]
        while pending:
            folder = pending.pop()
            place = bytes(self._root / path_of(folder))
            try:
                self._watched[self._system.add_watch(place, _WANTED | flags.ONLYDIR | flags.DONT_FOLLOW)] = folder
                with os.scandir(place) as found:
                    inside = [text_of(os.fsdecode(x.name)) for x in found if x.is_dir(follow_symlinks=False)]
            except OSError as error:
                # The folder may just have gone, or there are more than the system can watch.
                log.info("%s is listed only: %s", shown(folder), error)
                self.incomplete = True
                continue
            pending += [path for name in inside if not self._folder.passes_over(path := _joined(folder, name))]


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_skipped(entry: Entry) -> bool:
    return entry.skipped or is_mask(entry.path)
