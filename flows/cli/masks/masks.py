"""``masks``: writes the unusual regions of a batch's flagged images to files that other tools read."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from nelbo.data import MissingError, read_metadata, read_unchanged, remove_folder
from nelbo.flows.cli.masks.formats import WRITERS
from nelbo.flows.options.options import MasksOptions
from nelbo.flows.steps.report import asked
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.flagged import NO_REGIONS, iter_flagged, read_regions
from nelbo.flows.workspace.journal import opened
from nelbo.flows.workspace.layout import Workspace

_IMAGE = ("relative_path", "image_id", "upright_width_px", "upright_height_px")


class _Found(NamedTuple):
    """Flagged images and their regions; or why there can be no regions."""

    images: pa.Table
    regions: pa.Table
    why_none: str | None


def write_masks(options: MasksOptions) -> dict[str, Any]:
    """Write the regions of a batch into a new folder; returns what the command prints."""
    workspace = opened(options.workspace)
    batch_id, model_id = asked(workspace, options)
    found = read_unchanged(lambda: _found(workspace, model_id, batch_id))
    if found.why_none is not None:
        raise UsageError(
            f"batch {batch_id!r} has no regions: {found.why_none.rstrip('.')}. "
            "Mend that, and score it again with a calibration on normal images: nelbo calibrate --normal DIR, "
            "nelbo score DIR"
        )
    target = _target(options.out or f"masks-{batch_id}", workspace)
    about = {"batch_id": batch_id, "model_id": model_id}
    with _whole(target) as folder:
        WRITERS[options.format](folder, found.images, found.regions, about)
    n_with = len(set(found.regions["relative_path"].to_pylist()))
    return {
        **about,
        "format": options.format,
        "n_flagged": found.images.num_rows,
        "n_without_region": found.images.num_rows - n_with,
        "n_regions": found.regions.num_rows,
        "masks": str(target),
    }


def _found(workspace: Workspace, model_id: str, batch_id: str) -> _Found:
    try:
        said = read_metadata(workspace.regions(model_id, batch_id))
    except MissingError:
        said = {NO_REGIONS: "it was scored by a version without regions"}
    none = pa.table({name: pa.nulls(0) for name in _IMAGE})
    images = pa.concat_tables(
        [none, *iter_flagged(workspace, model_id, batch_id, _IMAGE)], promote_options="permissive"
    )
    return _Found(images, read_regions(workspace, model_id, batch_id), said.get(NO_REGIONS))


def _target(name: str, workspace: Workspace) -> Path:
    """The folder to write; it must neither exist nor lie in the workspace.

    Raises:
        UsageError: what is wrong with it, and another way.
    """
    target = Path(name).absolute()
    if "://" in name:
        raise UsageError(f"--out {name}: expected a folder on this machine.")
    if isinstance(workspace.root, Path) and target.resolve().is_relative_to(workspace.root.resolve()):
        raise UsageError(f"--out {name} lies in the workspace ({workspace.root}). Choose a place outside.")
    if os.path.lexists(target):
        raise UsageError(f"--out {name} already exists, and is not replaced. Remove it, or give another name.")
    return target


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` when the block ends well, and vanishes when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name[:40]}.{uuid.uuid4().hex}.tmp")
    unfinished.mkdir()
    try:
        yield unfinished
        unfinished.rename(target)
    finally:
        remove_folder(unfinished)
