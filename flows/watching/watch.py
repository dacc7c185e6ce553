"""``watch``: scores files as they arrive, a row for each, and publishes a batch of them from time to time."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from nelbo.data import MANIFEST_SCHEMA, Known, Listed, Listing, Scan
from nelbo.data.sources.names import local_path, shown
from nelbo.flows.inference.signals import asked_to_end
from nelbo.flows.options.options import WatchOptions
from nelbo.flows.steps.ingest import LISTED
from nelbo.flows.steps.land import Ledger, ledger_of
from nelbo.flows.watching.batches import Batches
from nelbo.flows.watching.folder import Complete, WatchedFolder
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.journal import opened

#: Files that are scored at a time: with more, the next ones would wait too long.
AT_ONCE = 32


def watch(options: WatchOptions) -> Iterator[dict[str, Any]]:
    """Score what is in a folder, and what lands in it, until Ctrl-C or SIGTERM; then publish what is scored.

    Yields:
        First what it works with (the folder is ``watching``); then a row for each file; at the end a summary (the
        folder is ``watched``).

    Raises:
        UsageError: there is no such folder, another process follows it, or there is no model to score with.
    """
    if not Path(local_path(options.images)).is_dir():
        raise UsageError(
            f"{options.images} is not a folder on this machine. Give the one that images land in; an object store is "
            "scored by: nelbo score DIR --new."
        )
    workspace = opened(options.workspace).prepare()
    ledger = ledger_of(options.scoring)
    with asked_to_end() as end, ledger.following(alone=True), ThreadPoolExecutor(1, "publishing") as publisher:
        said = ledger.said()
        folder = WatchedFolder(
            ledger.root,
            workspace.root if isinstance(workspace.root, Path) else None,
            Known(ledger.rows(), int(said[LISTED])) if said else Known([], 0),
            settle_s=options.settle_ms / 1000,
            list_s=options.list_s,
        )
        with folder.open():
            batches = Batches(options, ledger, folder.may_hold, publisher)
            yield {"watching": ledger.root, **batches.scored_with}
            while not end.is_set():
                yield from _score(folder.complete(AT_ONCE), folder, batches, options, ledger)
                batches.move_on()
            yield {"watched": ledger.root, **batches.ended()}


def _score(
    complete: Sequence[Complete], folder: WatchedFolder, batches: Batches, options: WatchOptions, ledger: Ledger
) -> Iterator[dict[str, Any]]:
    """Yield a row for each new file."""
    if not complete:
        return
    by_path = {shown(one.entry.path): one for one in sorted(complete, key=lambda one: one.entry.path)}
    entries = (Listed(one.entry) for one in by_path.values())
    scan = Scan(Listing(options.images, ledger.root, entries), limits=options.limits, workers=options.workers)
    rows = {
        row["relative_path"]: row for row in batches.score(pa.concat_tables([MANIFEST_SCHEMA.empty_table(), *scan]))
    }
    changed = batches.changed.union(scan.waiting)
    for path, one in by_path.items():
        if path in changed:
            folder.look_again(one.entry.path)
            continue
        folder.take(one.entry)
        if path in rows:
            yield {**rows[path], "latency_ms": round(1000 * (folder.clock() - one.since_s), 1)}
