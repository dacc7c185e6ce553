"""Steps and composition of ``ingest``: freeze the list of files of a batch."""

import hashlib
import logging
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import (
    CHANGED,
    MANIFEST_SCHEMA,
    AmbiguousError,
    Contents,
    InputError,
    Known,
    Layout,
    Manifest,
    Preprocessing,
    Scan,
    image_quality,
    iter_rows,
    labels_in,
    list_source,
    normal_in,
    read_images,
    read_metadata,
    read_table,
    table_writer,
    write_table,
)
from nelbo.data.sources.names import local_path
from nelbo.flows.evaluation.normals import Finding, of_files, unusable
from nelbo.flows.options.options import IngestOptions, ScoreOptions, SourceOptions
from nelbo.flows.runner import Runner
from nelbo.flows.steps.parts import count_groups
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace, check_id
from nelbo.flows.workspace.runs import Run
from nelbo.flows.workspace.tables import with_column

log = logging.getLogger(__name__)

#: Rows of a manifest in memory at a time.
ROWS = 4096

#: Number of newest manifests among which one of the same root is sought.
_EARLIER = 100

LISTED = "nelbo.listed_ns"
_UNLISTED = "nelbo.n_folders_unlisted"


@dataclass(frozen=True)
class Batch:
    """A frozen batch: its manifest is written and does not change during the following steps.

    n_known: files that have not changed since an earlier manifest, and were not read again.
    n_duplicates: files with the contents of another.
    n_folders_unlisted: folders that could not be listed; their files are not in the batch.
    """

    batch_id: str
    n_images: int
    n_unusable: int
    n_skipped: int
    n_waiting: int
    n_known: int
    n_duplicates: int
    n_folders_unlisted: int = 0


def ingest_batch(options: IngestOptions, runner: Runner) -> dict[str, Any]:
    """Write the manifest of a folder, without scoring; returns what the command prints."""
    run = Run("ingest", options)
    batch = runner.call(freeze_batch, options, run, True)
    workspace = Workspace.at(options.workspace)
    counts = {"n_images": batch.n_images, "n_waiting": batch.n_waiting, "n_folders_unlisted": batch.n_folders_unlisted}
    run.record(workspace, batch_id=batch.batch_id, **counts)
    runner.rename(batch.batch_id)
    manifest = workspace.manifest(batch.batch_id)
    findings = said([*unusable(iter_rows(manifest, ROWS)), *of_files(iter_rows(manifest, ROWS))])
    about = {"images": options.images, "workspace": options.workspace}
    runner.announce(
        "nelbo.batch.landed", f"batch.{batch.batch_id}", batch_id=batch.batch_id, n_images=batch.n_images, **about
    )
    return {
        **asdict(batch),
        "run_id": run.run_id,
        "manifest": str(manifest),
        "data": [finding.to_dict() for finding in findings],
        "seconds": round(run.seconds, 3),
    }


def freeze_batch(options: IngestOptions | ScoreOptions, run: Run, decode: bool = False) -> Batch:
    """Ingest ``options.images`` and publish the manifest; the batch's id comes from its contents unless given.

    Args:
        decode: whether to read the pixels, too, for their quality and for damage that the header does not show;
            scoring reads them later anyway.
    """
    if options.batch_id is not None:
        check_id(options.batch_id)
    scan = scan_source(options.images, options, find=labels_in)
    with tempfile.TemporaryDirectory(prefix="nelbo-") as aside:
        # Duplicates, and the batch's id, are known only when all files are.
        rough = Path(aside) / "manifest.parquet"
        with table_writer(rough, MANIFEST_SCHEMA) as writer:
            for table in scan:
                writer.write(table)
        scan.check()
        tables = scan.contents.with_duplicates(iter_rows(rough, ROWS))
        if decode:
            tables = (_looked_at(table, scan.listing.root, options) for table in tables)
        return keep_batch(scan, scan.contents, tables, options, run)


def keep_batch(
    scan: Scan, contents: Contents, tables: Iterable[pa.Table], options: IngestOptions | ScoreOptions, run: Run
) -> Batch:
    """Publish the manifest of all or some of the files that were listed.

    Args:
        scan: a scan that is completed.
        contents: contents of the rows, from which the batch's id comes unless one is given.
        tables: the rows, with duplicates marked.
    """
    batch_id = options.batch_id or content_id("b", contents.hash)
    metadata = manifest_metadata(scan.listing.root, run, scan.started_ns, scan.n_folders_unlisted)
    n_unusable, n_duplicates = write_manifest(Workspace.at(options.workspace).prepare(), batch_id, tables, metadata)
    counts = (n_unusable, scan.n_skipped, scan.n_waiting, scan.n_known, n_duplicates, scan.n_folders_unlisted)
    return Batch(batch_id, len(contents), *counts)


def write_manifest(
    workspace: Workspace, batch_id: str, tables: Iterable[pa.Table], metadata: dict[str, str]
) -> tuple[int, int]:
    """Publish a manifest whose rows come some at a time; returns how many are unusable, and how many are copies."""
    n_unusable = n_duplicates = 0
    place = workspace.manifest(batch_id)
    with workspace.using(batch_id), table_writer(place, MANIFEST_SCHEMA, metadata, workspace.staging) as writer:
        for table in tables:
            n_unusable += len(table) - table["reason"].null_count
            n_duplicates += len(table) - table["duplicate_of"].null_count
            writer.write(table)
    return n_unusable, n_duplicates


def said(findings: list[Finding]) -> list[Finding]:
    """Log each finding in a line; returns the findings."""
    for finding in findings:
        log.warning("%s", finding.sentence)
    return findings


def scan_source(
    source: str,
    options: SourceOptions,
    known: Known | None = None,
    min_age_s: float = 0,
    find: Callable[[str, Path | None], Layout | None] | None = None,
) -> Scan:
    """A scan of what an option names, ready to be iterated. It skips a workspace that lies in the folder.

    Args:
        known: files that are not read again if unchanged; by default those of the newest manifest of the same root.
        min_age_s: files changed more recently wait.
        find: reads the names of folders, `data.labels_in` or `data.normal_in`; None gives them no meaning.
    """
    workspace = Workspace.at(options.workspace)
    skip = workspace.root if isinstance(workspace.root, Path) else None
    source = local_path(source)
    layout = _layout(source, skip, find) if find is not None and options.folder_labels else None
    if layout is None:
        listing = list_source(source, options.root, skip)
    elif find is normal_in:
        listing = list_source(f"{source}/{layout.normal}", options.root, skip)
    else:
        listing = layout.labelled(list_source(f"{source}/{layout.folder}", options.root, skip))
    known = known or _known(workspace, listing.root)
    return Scan(listing, known=known, limits=options.limits, workers=options.workers, min_age_s=min_age_s)


def _layout(source: str, skip: Path | None, find: Callable[[str, Path | None], Layout | None]) -> Layout | None:
    """What the names of a source's folders mean, which is also logged; None if nothing, or nothing clear."""
    try:
        layout = find(source, skip)
    except AmbiguousError as error:
        log.warning(
            "%s: %s. Folders are therefore not taken as labels, and all images below are read. Name the folder you "
            "mean.",
            source,
            error,
        )
        return None
    if layout is None:
        return None
    if find is normal_in:
        log.info("Took %s/ alone as the normal images of %s (all below: folder_labels=false).", layout.normal, source)
    else:
        alone = f" Nothing outside {layout.folder}/ is read." if layout.folder else ""
        log.info("Took folders as labels: %s (none: folder_labels=false).%s", layout, alone)
    return layout


def content_id(letter: str, *content: object) -> str:
    """An id that is always the same for the same content, such as files and settings; the letter tells kinds apart."""
    return letter + hashlib.sha256("\0".join(map(str, content)).encode()).hexdigest()[:16]


def read_manifest(workspace: Workspace, batch_id: str) -> Manifest:
    """The frozen manifest of a batch."""
    path = workspace.manifest(batch_id)
    if not path.exists():
        raise UsageError(f"batch {batch_id!r} is not in workspace {workspace.root}. List them with: nelbo batches")
    said = read_metadata(path)
    numbers = {"listed_ns": int(said.get(LISTED, 0)), "n_folders_unlisted": int(said.get(_UNLISTED, 0))}
    return Manifest(read_table(path), said["nelbo.root"], **numbers)


def publish_manifest(manifest: Manifest, workspace: Workspace, batch_id: str, run: Run) -> None:
    """Write a manifest to its place; its metadata has the number of groups, if there are any."""
    metadata = manifest_metadata(manifest.root, run, manifest.listed_ns, manifest.n_folders_unlisted)
    if (n_groups := count_groups(manifest.table)) is not None:
        metadata["nelbo.n_groups"] = str(n_groups)
    with workspace.using(batch_id):
        write_table(manifest.table, workspace.manifest(batch_id), MANIFEST_SCHEMA, metadata, workspace.staging)


def manifest_metadata(root: str, run: Run, listed_ns: int, n_folders_unlisted: int) -> dict[str, str]:
    """The metadata of a manifest or a ledger."""
    return {**run.metadata, "nelbo.root": root, LISTED: str(listed_ns), _UNLISTED: str(n_folders_unlisted)}


def folders_unlisted(workspace: Workspace, batch_id: str) -> int:
    """How many folders could not be listed when a batch was frozen."""
    return int(read_metadata(workspace.manifest(batch_id)).get(_UNLISTED, 0))


def _known(workspace: Workspace, root: str) -> Known | None:
    """The newest manifest or ledger of the same root, whatever it was made for."""
    # The ledger knows all files of a landing folder; each manifest of its batches, which are older, knows only a few.
    ledger = catalog.find(workspace, "ledgers", ledger=workspace.ledger(root).stem)
    found = pa.concat_tables(table.select(["path"]) for table in (ledger, catalog.find(workspace, "manifests")))
    newest = catalog.with_times(workspace, found).sort_by([("modified", "descending")])
    for path in newest["path"][:_EARLIER].to_pylist():
        try:
            said = read_metadata(workspace.root / path)
        except InputError:
            # The manifest is damaged, or of a later version: its files are read again.
            continue
        if said.get("nelbo.root") == root and said.get(LISTED, "").isdigit():
            return Known(iter_rows(workspace.root / path, ROWS), int(said[LISTED]))
    return None


def _looked_at(table: pa.Table, root: str, options: IngestOptions | ScoreOptions) -> pa.Table:
    """The rows, with the result of decoding the images that were usable so far."""
    rows = np.flatnonzero(np.asarray(pc.is_null(table["reason"])))
    files = Manifest(table, root).files
    images = read_images([files[row] for row in rows], Preprocessing(), limits=options.limits, workers=options.workers)
    reasons = table["reason"].to_pylist()
    for row, reason in zip(rows, images.reasons, strict=True):
        # A file that has changed gets another row in the next batch; here, its old contents are only known to be gone.
        reasons[row] = "unreadable" if reason == CHANGED else reason
    sound = rows[[reason is None for reason in images.reasons]]
    table = with_column(table, "reason", reasons)
    for name, values in image_quality(images.pixels).items():
        filled = np.full(len(table), np.nan)
        filled[sound] = values
        table = with_column(table, name, filled)
    return table
