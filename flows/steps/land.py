"""A folder that images keep landing in: its ledger says which of them have been taken into a batch.

Each file is taken once. A batch is taken when the ledger names it, and from then on the next run finishes it, whatever
happens to this one: its manifest is written before the ledger, and killed between the two nothing is taken yet.
"""

import hashlib
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import (
    MANIFEST_SCHEMA,
    SCORES_SCHEMA,
    TIMEOUT,
    Contents,
    InputError,
    Known,
    MissingError,
    Place,
    Scan,
    iter_rows,
    list_source,
    read_metadata,
    read_table,
    remove_folder,
    table_writer,
)
from nelbo.data.sources.names import text_of
from nelbo.flows.options.options import ScoreOptions
from nelbo.flows.steps.ingest import LISTED, ROWS, Batch, folders_unlisted, keep_batch, manifest_metadata, scan_source
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run
from nelbo.flows.workspace.tables import with_column

log = logging.getLogger(__name__)

#: Metadata: the batch that is frozen and not published; empty if there is none.
UNFINISHED = "nelbo.unfinished"

#: How often a file whose decoding took too long is tried again.
RETRIES = 3


def unfinished_batch(options: ScoreOptions) -> Batch | None:
    """The batch of the folder that an earlier run has frozen and not finished.

    Raises:
        InputError: there is no such folder.
    """
    ledger = _ledger(options)
    batch_id = ledger.said().get(UNFINISHED)
    return ledger.frozen(batch_id) if batch_id else None


def freeze_new(options: ScoreOptions, run: Run) -> Batch:
    """Take what no earlier batch of the folder holds as a batch; without images, and an id, where that is nothing.

    One job at a time; object stores have no locks, so let there be one job for a folder where the workspace is in one.

    Raises:
        InputError: there is no such folder.
    """
    ledger = _ledger(options)
    with ledger.lock(), tempfile.TemporaryDirectory(prefix="nelbo-") as aside:
        said = ledger.said()
        if said.get(UNFINISHED):
            # Another job has taken it just now; the two share the work.
            return ledger.frozen(said[UNFINISHED])
        known = Known(ledger.rows(), int(said[LISTED])) if said else None
        scan = scan_source(options.images, options, known, options.min_age_s)
        present, new = (Path(aside) / name for name in ("present.parquet", "new.parquet"))
        contents = _sorted_out(scan, ledger, present, new)
        if not contents:
            return Batch("", 0, 0, scan.n_skipped, scan.n_waiting, scan.n_known, 0, scan.n_folders_unlisted)
        batch = keep_batch(scan, contents, contents.with_duplicates(iter_rows(new, ROWS)), options, run)
        about = manifest_metadata(ledger.root, run, scan.started_ns, scan.n_folders_unlisted)
        ledger.write(_merged(iter_rows(present, ROWS), ledger.unseen(scan)), about | {UNFINISHED: batch.batch_id})
    return batch


def finish_batch(options: ScoreOptions, batch_id: str, model_id: str) -> None:
    """Note that a batch is published.

    What of it has no row among the scores, as it changed or went, is new again; what took too long is tried again.
    """
    scores = Workspace.at(options.workspace).scores(model_id, batch_id)
    _close(options, batch_id, read_table(scores, ["relative_path", "reason"]))


def drop_batch(options: ScoreOptions, batch_id: str, model_id: str) -> None:
    """Give up a batch of which every file has changed or gone: what is there of it is new again."""
    log.warning("batch %s is given up: all of its files have changed or gone since they were listed", batch_id)
    _close(options, batch_id, SCORES_SCHEMA.empty_table())
    remove_folder(Workspace.at(options.workspace).unfinished(model_id, batch_id))


def unfinished_batches(workspace: Workspace) -> Iterator[str]:
    """Batches of all landing folders whose manifests are still needed."""
    for path in catalog.places(workspace, "ledgers"):
        try:
            yield read_metadata(path).get(UNFINISHED, "")
        except InputError:
            log.warning("%s cannot be read: the next run on that folder will say so", path)


@dataclass(frozen=True)
class Ledger:
    """The files that are in a folder and have been taken into a batch, as they were then; in the order of their paths.

    root: absolute; the ledger's name comes from it.
    """

    workspace: Workspace
    root: str

    @property
    def path(self) -> Place:
        """Where it is."""
        return self.workspace.ledger(self.root)

    def lock(self) -> AbstractContextManager[None]:
        """Held by whoever replaces it."""
        return self.workspace.lock(f"landing/{self.path.stem}.lock")

    def said(self) -> dict[str, str]:
        """Its metadata; empty where nothing has been taken yet."""
        with self._readable(), suppress(MissingError):
            return read_metadata(self.path)
        return {}

    def rows(self) -> Iterator[pa.Table]:
        """All of it, some rows at a time."""
        with self._readable(), suppress(MissingError):
            yield from iter_rows(self.path, ROWS)

    def unseen(self, scan: Scan) -> pa.Table:
        """Rows of files that a listing says nothing of: they wait, touched or being changed, or their folder is shut.

        They stay taken. But their contents are of an earlier look, so that one they are read again at the next one.
        """
        waiting, folders = set(scan.waiting), set(scan.unlisted)
        found = [MANIFEST_SCHEMA.empty_table()]
        for table in self.rows():
            paths = table["relative_path"].to_pylist()
            found.append(table.filter(pa.array([x in waiting or _lies_in(x, folders) for x in paths], pa.bool_())))
        rows = pa.concat_tables(found)
        times = pc.if_else(pc.is_valid(rows["image_id"]), None, rows["modified_ns"])
        return with_column(rows, "modified_ns", times)

    def write(self, tables: Iterable[pa.Table], about: dict[str, str]) -> None:
        """Replace it."""
        with table_writer(self.path, MANIFEST_SCHEMA, about, self.workspace.staging) as writer:
            for table in tables:
                writer.write(table)

    def frozen(self, batch_id: str) -> Batch:
        """A batch of the folder that is not finished."""
        with self._readable():
            table = read_table(self.workspace.manifest(batch_id), ["reason", "duplicate_of"])
        n_unusable, n_duplicates = (len(table) - column.null_count for column in table.columns)
        return Batch(
            batch_id, len(table), n_unusable, 0, 0, 0, n_duplicates, folders_unlisted(self.workspace, batch_id)
        )

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            raise UsageError(
                f"what has been scored of {self.root} cannot be told ({error}). Restore that file from a copy, or "
                f"delete {self.path}: then every file in the folder is new."
            ) from error


class Taken:
    """Which contents under which paths a ledger holds, and will not be tried again: 16 bytes a file."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self._timeouts: dict[bytes, int] = {}
        taken = [np.empty(0, "S16")]
        for table in tables:
            keys, timeouts = _keys(table), np.asarray(pc.fill_null(table["n_timeouts"], 0))
            late = timeouts > 0
            self._timeouts |= zip(keys[late].tolist(), timeouts[late].tolist(), strict=True)
            taken.append(keys[~late | (timeouts > RETRIES)])
        self._keys = np.sort(np.concatenate(taken))

    def lacks(self, table: pa.Table) -> pa.Array:
        """For each row whether it is not among them."""
        keys = _keys(table)
        return pa.array(np.searchsorted(self._keys, keys) == np.searchsorted(self._keys, keys, "right"))

    def noted(self, table: pa.Table) -> pa.Table:
        """The same rows, with how often decoding has taken too long."""
        timeouts = [self._timeouts.get(key) for key in _keys(table).tolist()] if self._timeouts else [None] * len(table)
        return with_column(table, "n_timeouts", timeouts)


def _keys(table: pa.Table) -> np.ndarray:
    """The beginning of a hash of each row's path and contents; of a file that was not read, of its size and time."""
    columns = (table[name].to_pylist() for name in ("relative_path", "image_id", "size_bytes", "modified_ns"))
    contents = (
        f"{path}\0{image_id or (size, modified_ns)}" for path, image_id, size, modified_ns in zip(*columns, strict=True)
    )
    return np.array([hashlib.sha256(text.encode()).digest()[:16] for text in contents], "S16")


def _lies_in(path: str, folders: set[str]) -> bool:
    """Whether a file is in one of some folders, however deep."""
    while folders and (path := path.rpartition("/")[0]):
        if path in folders:
            return True
    return False


def _ledger(options: ScoreOptions) -> Ledger:
    listing = list_source(options.images, options.root)
    if listing.root not in (listing.source.rstrip("/"), text_of(str(Path(listing.source).resolve()))):
        raise UsageError(
            f"new=True goes with a folder that images land in, and {listing.source} is none. "
            "Give the folder, or leave --new out."
        )
    return Ledger(Workspace.at(options.workspace), listing.root)


def _sorted_out(scan: Scan, ledger: Ledger, present: Path, new: Path) -> Contents:
    """Write the rows of all files of the folder to one table, and those of new ones to another."""
    contents, taken = Contents(), Taken(ledger.rows())
    with table_writer(present, MANIFEST_SCHEMA) as everything, table_writer(new, MANIFEST_SCHEMA) as some:
        for table in scan:
            table = taken.noted(table)
            everything.write(table)
            table = table.filter(taken.lacks(table))
            contents.add(table)
            some.write(table)
    return contents


def _merged(tables: Iterable[pa.Table], others: pa.Table) -> Iterator[pa.Table]:
    """The rows of both, in the order of their paths."""
    for table in tables:
        before = pc.less(others["relative_path"], table["relative_path"][-1])
        if pc.any(before).as_py():
            table = pa.concat_tables([table, others.filter(before)]).sort_by("relative_path")
            others = others.filter(pc.invert(before))
        yield table
    yield others


def _close(options: ScoreOptions, batch_id: str, published: pa.Table) -> None:
    """Take a batch's mark out of the ledger, and the rows of what was not published; count what took too long.

    Args:
        published: ``relative_path`` and ``reason`` of its rows.
    """
    workspace = Workspace.at(options.workspace)
    manifest = workspace.manifest(batch_id)
    # Not from the options: the folder may have gone meanwhile.
    ledger = Ledger(workspace, read_metadata(manifest)["nelbo.root"])
    with ledger.lock():
        said = ledger.said()
        if said.pop(UNFINISHED, None) != batch_id:
            # Another job on the same batch was faster.
            return
        # Of the writer's version from now on.
        said.pop("nelbo.schema_version")
        reasons: dict[str, str | None] = dict(
            zip(published["relative_path"].to_pylist(), published["reason"].to_pylist(), strict=True)
        )
        frozen = set(read_table(manifest, ["relative_path"])["relative_path"].to_pylist())
        ledger.write((_closed(table, frozen, reasons) for table in ledger.rows()), {**said, UNFINISHED: ""})


def _closed(table: pa.Table, frozen: set[str], reasons: Mapping[str, str | None]) -> pa.Table:
    """Rows of a ledger when a batch is over: without what was frozen and not published, and timeouts counted."""
    paths, timeouts = table["relative_path"].to_pylist(), table["n_timeouts"].to_pylist()
    counted = [
        n if path not in frozen else (n or 0) + 1 if reasons.get(path) == TIMEOUT else None
        for path, n in zip(paths, timeouts, strict=True)
    ]
    kept = pa.array([path not in frozen or path in reasons for path in paths], pa.bool_())
    return with_column(table, "n_timeouts", counted).filter(kept)
