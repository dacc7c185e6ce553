"""Finds what an older version left in a workspace, and gives its tables the columns of today.

Models, calibrations and engines are named by their contents and never change; nelbo reads tables of any version and
needs no upgrade. It serves other readers, who then find the same columns in every file.
"""

import json
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from nelbo.data import (
    FLAGGED_SCHEMA,
    MANIFEST_SCHEMA,
    REGIONS_SCHEMA,
    REVIEWS_SCHEMA,
    RUNS_SCHEMA,
    SCHEMA_VERSION,
    SCORES_SCHEMA,
    InputError,
    MissingError,
    Place,
    VersionError,
    iter_rows,
    read_metadata,
    table_writer,
)
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.calibrations.calibration import WITH_LEVELS
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.vae_core.bundle import FORMAT_VERSION as MODEL_FORMAT
from nelbo.vae_core.engines.folder import FORMAT_VERSION as ENGINE_FORMAT

log = logging.getLogger(__name__)

_SCHEMAS = {
    "manifests": MANIFEST_SCHEMA,
    "ledgers": MANIFEST_SCHEMA,
    "scores": SCORES_SCHEMA,
    "flagged": FLAGGED_SCHEMA,
    "audit": FLAGGED_SCHEMA,
    "near": FLAGGED_SCHEMA,
    "regions": REGIONS_SCHEMA,
    "runs": RUNS_SCHEMA,
    "reviews": REVIEWS_SCHEMA,
}

#: The description in each folder that never changes, and its newest version.
_FORMATS = {
    "models": ("model.json", MODEL_FORMAT),
    "calibrations": ("calibration.json", WITH_LEVELS),
    "engines": ("engine.json", ENGINE_FORMAT),
}

#: Rows in memory at a time; flagged ones have pictures.
_ROWS = 1024


class OldTable(NamedTuple):
    """A table of an older schema version: its path below the workspace, its kind by `PATHS`, and the version."""

    kind: str
    path: str
    version: int


def old_tables(workspace: Workspace) -> list[OldTable]:
    """The tables that lack columns of today; a table that cannot be read causes a warning.

    Raises:
        UsageError: something in the workspace is of a version that this nelbo does not know.
    """
    _refuse_newer_folders(workspace)
    found = []
    for kind in _SCHEMAS:
        for path in catalog.find(workspace, kind)["path"].to_pylist():
            try:
                version = int(read_metadata(workspace.root / path)["nelbo.schema_version"])
            except VersionError as error:
                raise UsageError(f"{error} Nothing is changed.") from error
            except MissingError:
                continue
            except InputError as error:
                log.warning("%s", error)
                continue
            if version < SCHEMA_VERSION:
                found.append(OldTable(kind, path, version))
    return found


def _refuse_newer_folders(workspace: Workspace) -> None:
    for kind, (name, newest) in _FORMATS.items():
        for place in catalog.places(workspace, kind):
            version = _format_version(place.parent / name)
            if version is not None and version > newest:
                raise UsageError(
                    f"{place.parent} has format version {version}, this nelbo knows {newest}. Update nelbo. "
                    "Nothing is changed."
                )


def old_engines(workspace: Workspace) -> list[tuple[str, str]]:
    """Model and name of each engine of version 0.1, which has no id to check it against."""
    found = catalog.find(workspace, "engines").to_pylist()
    versions = {
        (row["model_id"], row["engine"]): _format_version((workspace.root / row["path"]).parent / "engine.json")
        for row in found
    }
    return [names for names, version in versions.items() if version is not None and version < ENGINE_FORMAT]


def _format_version(place: Place) -> int | None:
    """The version in a description; None if the description is damaged, which ``verify`` reports."""
    try:
        version = json.loads(place.read_text(encoding="utf-8"))["format_version"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return version if isinstance(version, int) else None


def upgrade_table(workspace: Workspace, old: OldTable) -> bool:
    """Rewrite a table with the columns of today, keeping its place and modification time; False if it is in use.

    The new file is read back before it replaces the old one, which stays whole until then.
    """
    place = Path(str(workspace.root)) / old.path
    aside = workspace.local_staging / f".upgrade.{uuid.uuid4().hex}.parquet"
    with ExitStack() as ending:
        if not ending.enter_context(_held(workspace, old)):
            return False
        ending.callback(aside.unlink, missing_ok=True)
        before = place.stat()
        said = read_metadata(place)
        del said["nelbo.schema_version"]
        with table_writer(aside, _SCHEMAS[old.kind], said) as writer:
            for rows in iter_rows(place, _ROWS):
                writer.write(rows)
        for kept, meant in zip_longest(iter_rows(aside, _ROWS), iter_rows(place, _ROWS)):
            if kept is None or meant is None or not _are_equal(kept, meant):
                raise OSError(f"{aside} does not hold what was written to it; {place} is as it was")
        # Times say what is old to `prune`, and which batch is the last.
        os.utime(aside, ns=(before.st_atime_ns, before.st_mtime_ns))
        if place.stat().st_ino != before.st_ino:
            return False
        aside.replace(place)
    return True


def _are_equal(one: pa.Table, other: pa.Table) -> bool:
    # The second, slower comparison treats NaN as equal to NaN.
    return bool(one.equals(other)) or repr(one.to_pylist()) == repr(other.to_pylist())


@contextmanager
def _held(workspace: Workspace, old: OldTable) -> Iterator[bool]:
    """Keep others from replacing a table; yields False if somebody is at work on it."""
    if old.kind == "manifests":
        batch_id = Path(old.path).parent.name.removeprefix("batch_id=")
        with workspace.unused(batch_id) as is_free:
            yield is_free
    elif old.kind == "ledgers":
        with workspace.lock(str(Path(old.path).with_suffix(".lock"))):
            yield True
    else:
        with workspace.lock():
            yield True
