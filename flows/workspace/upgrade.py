"""What an older version left in a workspace, and how its tables get the columns that they have now.

Models, calibrations and engines are named by what is in them and never change; tables are read in any version. So none
of this must be done for nelbo. It is done for other readers, who find the same columns in every file then.
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
    "runs": RUNS_SCHEMA,
    "reviews": REVIEWS_SCHEMA,
}

#: What describes each folder that never changes, and the newest version of it.
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
    """The tables that lack columns of today; what cannot be read is left to whoever needs it.

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
    """Model and name of each engine of version 0.1, which has no id to be checked by."""
    found = catalog.find(workspace, "engines").to_pylist()
    versions = {
        (row["model_id"], row["engine"]): _format_version((workspace.root / row["path"]).parent / "engine.json")
        for row in found
    }
    return [names for names, version in versions.items() if version is not None and version < ENGINE_FORMAT]


def _format_version(place: Place) -> int | None:
    """As a description says; None where it is damaged, which is for ``verify`` to report."""
    try:
        version = json.loads(place.read_text(encoding="utf-8"))["format_version"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return version if isinstance(version, int) else None


def upgrade_table(workspace: Workspace, old: OldTable) -> bool:
    """Write a table anew with the columns of today, in its place and with its time of change; false if it is in use.

    The new file is read back before it takes the place of the old one, which is whole until then.
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
    # The second, slower look takes NaN for NaN.
    return bool(one.equals(other)) or repr(one.to_pylist()) == repr(other.to_pylist())


@contextmanager
def _held(workspace: Workspace, old: OldTable) -> Iterator[bool]:
    """Let nobody else replace a table; false if somebody is at work on it."""
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
