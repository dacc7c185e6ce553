"""A landing folder: its ledger says which images have been taken into a batch.

Each file is taken once. A batch is taken when the ledger names it; from then on the next run finishes it, whatever
happens to this one. Its manifest is written before the ledger: after a kill between the two, nothing is taken yet.
"""

import hashlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
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
from nelbo.flows.steps.ingest import (
    LISTED,
    ROWS,
    Batch,
    folders_unlisted,
    keep_batch,
    manifest_metadata,
    scan_source,
    write_manifest,
)
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.errors import NotYetError, UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run
from nelbo.flows.workspace.tables import with_column

log = logging.getLogger(__name__)

#: Metadata key: the batch that is frozen and not published; empty if there is none.
UNFINISHED = "nelbo.unfinished"

#: Retries of a file whose decoding took too long.
RETRIES = 3


def unfinished_batch(options: ScoreOptions) -> Batch | None:
    """The batch of the folder that an earlier run has frozen and not finished.

    Raises:
        InputError: there is no such folder.
    """
    ledger = ledger_of(options)
    batch_id = ledger.said().get(UNFINISHED)
    return ledger.frozen(batch_id) if batch_id else None


def freeze_new(options: ScoreOptions, run: Run) -> Batch:
    """Take the files that no earlier batch of the folder holds as a batch; it has no id if there are none.

    One job does so at a time. Object stores have no locks: with a workspace in one, run only one job per folder.

    Raises:
        InputError: there is no such folder.
    """
    ledger = ledger_of(options)
    with ledger.lock(), tempfile.TemporaryDirectory(prefix="nelbo-") as aside:
        said = ledger.said()
        if said.get(UNFINISHED):
            # Another job has just taken a batch; the two jobs share the work.
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


def take_rows(
    ledger: "Ledger", rows: pa.Table, batch_id: str, run: Run, is_there: Callable[[str], bool], *, beside: bool = False
) -> None:
    """Take files that were listed and scored as they came, and make them a batch.

    Args:
        rows: rows of its manifest, in the order of their paths.
        is_there: whether a file is in the folder now, by its path; the ledger forgets the others.
        beside: whether the ledger keeps other contents that have been taken under the same paths: they may be newer.

    Raises:
        RuntimeError: another batch is unfinished, and the ledger would forget it.
    """
    contents, now = Contents(), time.time_ns()
    contents.add(rows)
    about = manifest_metadata(ledger.root, run, now, 0)
    write_manifest(ledger.workspace, batch_id, contents.with_duplicates([rows]), about)
    taken = set(rows["relative_path"].to_pylist())

    def stays(path: str) -> bool:
        return (beside or path not in taken) and is_there(path)

    with ledger.lock():
        unfinished = ledger.said().get(UNFINISHED)
        if unfinished == batch_id:
            # An earlier attempt has entered it.
            return
        if unfinished:
            raise RuntimeError(f"batch {unfinished} of {ledger.root} has to be published before batch {batch_id}")
        left = (_only(table, stays) for table in ledger.rows())
        ledger.write(_merged(filter(len, left), rows), about | {UNFINISHED: batch_id})


def finish_batch(options: ScoreOptions, batch_id: str, model_id: str) -> None:
    """Note that a batch is published.

    A file without a row among the scores has changed or gone and counts as new; one that took too long is tried again.
    """
    scores = Workspace.at(options.workspace).scores(model_id, batch_id)
    _close(options, batch_id, read_table(scores, ["relative_path", "reason"]))


def drop_batch(options: ScoreOptions, batch_id: str, model_id: str) -> None:
    """Give up a batch whose files have all changed or gone; those that still exist count as new."""
    log.warning("batch %s is given up: all its files have changed or gone since they were listed", batch_id)
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
    """The files of a folder that have been taken into a batch, as they were then; in the order of their paths.

    root: the folder's absolute path, from which the ledger's name comes.
    """

    workspace: Workspace
    root: str

    @property
    def path(self) -> Place:
        """The ledger's file."""
        return self.workspace.ledger(self.root)

    def lock(self) -> AbstractContextManager[None]:
        """The lock that whoever replaces the ledger holds."""
        return self.workspace.lock(f"landing/{self.path.stem}.lock")

    @contextmanager
    def following(self, alone: bool = False) -> Iterator[None]:
        """Hold a lock while this process scores what lands: a watcher has it alone, other commands share it.

        Raises:
            NotYetError: another process follows the folder, and the lock cannot be shared.
        """
        with ExitStack() as held:
            try:
                held.enter_context(self.workspace.lock(f"landing/{self.path.stem}.watch.lock", not alone, wait=False))
            except BlockingIOError as error:
                raise NotYetError(
                    f"{self.root} is scored by another process as images land in it (nelbo watch, or nelbo score "
                    f"--new), with the same workspace. Wait until that ends, or stop it."
                ) from error
            yield

    def said(self) -> dict[str, str]:
        """Its metadata; empty if nothing has been taken yet."""
        with self._readable(), suppress(MissingError):
            return read_metadata(self.path)
        return {}

    def rows(self) -> Iterator[pa.Table]:
        """All rows, some at a time."""
        with self._readable(), suppress(MissingError):
            yield from iter_rows(self.path, ROWS)

    def unseen(self, scan: Scan) -> pa.Table:
        """Rows of files that a listing does not cover: they wait because they are changing, or their folder is closed.

        They stay taken. But their contents were read earlier, and the next listing reads them again.
        """
        waiting, folders = set(scan.waiting), set(scan.unlisted)
        found = (_only(table, lambda path: path in waiting or _lies_in(path, folders)) for table in self.rows())
        rows = pa.concat_tables([MANIFEST_SCHEMA.empty_table(), *found])
        times = pc.if_else(pc.is_valid(rows["image_id"]), None, rows["modified_ns"])
        return with_column(rows, "modified_ns", times)

    def write(self, tables: Iterable[pa.Table], about: dict[str, str]) -> None:
        """Replace the ledger."""
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
                f"which files of {self.root} have been scored is unknown ({error}). Restore that file from a copy, or "
                f"delete {self.path}: then every file in the folder is new."
            ) from error


class Taken:
    """The contents and paths that a ledger holds and that will not be tried again, in 16 bytes per file."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self._timeouts: dict[bytes, int] = {}
        taken = [np.empty(0, "S16")]
        for table in tables:
            keys, timeouts = _keys(table), np.asarray(pc.fill_null(table["n_timeouts"], 0))
            late = timeouts > 0
            self._timeouts |= zip(keys[late].tolist(), timeouts[late].tolist(), strict=True)
            taken.append(keys[~late | (timeouts > RETRIES)])
        self._keys = np.sort(np.concatenate(taken))
        self._added: set[bytes] = set()

    def add(self, table: pa.Table) -> None:
        """Note rows that are taken from now on."""
        self._added.update(_keys(table).tolist())

    def lacks(self, table: pa.Table) -> pa.Array:
        """For each row, whether it is not taken."""
        keys = _keys(table)
        lacked = np.searchsorted(self._keys, keys) == np.searchsorted(self._keys, keys, "right")
        return pa.array(lacked & [key not in self._added for key in keys.tolist()])

    def noted(self, table: pa.Table) -> pa.Table:
        """The rows, with how often decoding has taken too long."""
        timeouts = [self._timeouts.get(key) for key in _keys(table).tolist()] if self._timeouts else [None] * len(table)
        return with_column(table, "n_timeouts", timeouts)


def _keys(table: pa.Table) -> np.ndarray:
    """The beginning of a hash of each row's path and contents; if a file was not read, of its path, size and time."""
    columns = (table[name].to_pylist() for name in ("relative_path", "image_id", "size_bytes", "modified_ns"))
    contents = (
        f"{path}\0{image_id or (size, modified_ns)}" for path, image_id, size, modified_ns in zip(*columns, strict=True)
    )
    return np.array([hashlib.sha256(text.encode()).digest()[:16] for text in contents], "S16")


def _only(table: pa.Table, stays: Callable[[str], bool]) -> pa.Table:
    """The rows whose paths stay."""
    return table.filter(pa.array([stays(path) for path in table["relative_path"].to_pylist()], pa.bool_()))


def _lies_in(path: str, folders: set[str]) -> bool:
    """Whether a file is in one of the folders, however deep."""
    while folders and (path := path.rpartition("/")[0]):
        if path in folders:
            return True
    return False


def ledger_of(options: ScoreOptions) -> Ledger:
    """The ledger of the folder that the options name.

    Raises:
        InputError: there is no such folder.
        UsageError: it is not a folder.
    """
    listing = list_source(options.images, options.root)
    if listing.root not in (listing.source.rstrip("/"), text_of(str(Path(listing.source).resolve()))):
        raise UsageError(
            f"new=True goes with a folder that images land in, and {listing.source} is not a folder. "
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
    """The rows of both, in the order of their paths; no given table is empty."""
    for table in tables:
        before = pc.less(others["relative_path"], table["relative_path"][-1])
        if pc.any(before).as_py():
            table = pa.concat_tables([table, others.filter(before)]).sort_by("relative_path")
            others = others.filter(pc.invert(before))
        yield table
    yield others


def _close(options: ScoreOptions, batch_id: str, published: pa.Table) -> None:
    """Remove a batch's mark and its unpublished rows from the ledger; count the files that took too long.

    Args:
        published: ``relative_path`` and ``reason`` of the batch's published rows.
    """
    workspace = Workspace.at(options.workspace)
    manifest = workspace.manifest(batch_id)
    # The root comes from the manifest, because the folder may be gone by now.
    ledger = Ledger(workspace, read_metadata(manifest)["nelbo.root"])
    with ledger.lock():
        said = ledger.said()
        if said.pop(UNFINISHED, None) != batch_id:
            # Another job on the same batch was faster.
            return
        # The writer sets its own version.
        said.pop("nelbo.schema_version")
        reasons: dict[str, str | None] = dict(
            zip(published["relative_path"].to_pylist(), published["reason"].to_pylist(), strict=True)
        )
        frozen = set(read_table(manifest, ["relative_path"])["relative_path"].to_pylist())
        ledger.write((_closed(table, frozen, reasons) for table in ledger.rows()), {**said, UNFINISHED: ""})


def _closed(table: pa.Table, frozen: set[str], reasons: Mapping[str, str | None]) -> pa.Table:
    """A ledger's rows after a batch: without files that were frozen and not published, and with timeouts counted."""
    paths, timeouts = table["relative_path"].to_pylist(), table["n_timeouts"].to_pylist()
    counted = [
        n if path not in frozen else (n or 0) + 1 if reasons.get(path) == TIMEOUT else None
        for path, n in zip(paths, timeouts, strict=True)
    ]
    kept = pa.array([path not in frozen or path in reasons for path in paths], pa.bool_())
    return with_column(table, "n_timeouts", counted).filter(kept)
