"""Steps and composition of ``ingest``: freeze the list of files of a batch."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import MANIFEST_SCHEMA, Manifest, ingest, write_table
from flows.run import Run
from flows.runner import Runner
from flows.settings import CalibrateOptions, IngestOptions, TrainOptions
from flows.workspace import Workspace, check_id


@dataclass(frozen=True)
class Batch:
    """A frozen batch: its manifest is written and does not change under the steps that follow."""

    batch_id: str
    n_images: int
    n_unusable: int
    n_skipped: int


def ingest_batch(options: IngestOptions, runner: Runner) -> dict[str, Any]:
    """Write the manifest of a folder, without scoring; what the command prints."""
    run = Run("ingest", options)
    batch = runner.call(freeze_batch, options, run)
    workspace = Workspace.at(options.workspace)
    run.record(workspace, batch_id=batch.batch_id, n_images=batch.n_images)
    return {
        "batch_id": batch.batch_id,
        "run_id": run.run_id,
        "n_images": batch.n_images,
        "n_unusable": batch.n_unusable,
        "n_skipped": batch.n_skipped,
        "manifest": str(workspace.manifest(batch.batch_id)),
        "seconds": round(run.seconds, 3),
    }


def freeze_batch(options: IngestOptions, run: Run) -> Batch:
    """Ingest ``options.images`` and publish the manifest; the batch's id comes from its contents unless given."""
    if options.batch_id is not None:
        check_id(options.batch_id)
    manifest = read_source(options.images, options)
    workspace = Workspace.at(options.workspace).prepare()
    batch_id = options.batch_id or content_id("b", manifest)
    publish_manifest(manifest, workspace, batch_id, run)
    return Batch(batch_id, len(manifest), manifest.n_unusable, manifest.n_skipped)


def read_source(source: str, options: IngestOptions | TrainOptions | CalibrateOptions) -> Manifest:
    """Ingest what an option names. A workspace that lies in the folder is no part of it."""
    workspace = Workspace.at(options.workspace).root
    return ingest(
        source,
        root=options.root,
        skip=workspace if isinstance(workspace, Path) else None,
        limits=options.limits,
        workers=options.workers,
    )


def content_id(letter: str, manifest: Manifest, *settings: object) -> str:
    """An id that the same files with the same settings always get; the letter tells kinds of batches apart."""
    content = "\0".join([manifest.content_hash(), *map(str, settings)])
    return letter + hashlib.sha256(content.encode()).hexdigest()[:16]


def publish_manifest(manifest: Manifest, workspace: Workspace, batch_id: str, run: Run) -> None:
    """Write a manifest to its place."""
    metadata = {**run.metadata, "nelbo.root": manifest.root}
    write_table(manifest.table, workspace.manifest(batch_id), MANIFEST_SCHEMA, metadata, workspace.staging)
