"""Ids of calibrations: hashes of everything that decides verdicts, so that a changed or moved one is noticed."""

import hashlib
import json
import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

import pyarrow as pa

from nelbo.data import Place, read_as_written, rows_digest
from nelbo.flows.workspace.errors import UsageError

log = logging.getLogger(__name__)

#: What may differ when the same calibration is made twice, and the id itself.
_MADE = ("made_at_utc", "code_version", "format_version", "calibration_id")
_HASHED_ROWS = 65_536


def calibration_id(content: Mapping[str, Any], rows: pa.Table) -> str:
    """The id of a calibration.

    Args:
        content: the content of ``calibration.json``.
        rows: the rows of ``scores.parquet``, with the columns that are written there.
    """
    said = {name: value for name, value in content.items() if name not in _MADE}
    return "c" + hashlib.sha256(json.dumps([said, rows_digest(rows)], sort_keys=True).encode()).hexdigest()[:16]


def check_calibration_id(folder: Place, content: Mapping[str, Any], remedy: str) -> None:
    """Check that a calibration is, in every number, the one that its folder's name says.

    Raises:
        UsageError: it is another one, or was changed.
    """
    rows, written_by = read_as_written(folder / "scores.parquet")
    of_0_1 = content["format_version"] == 2
    found = _id_of_0_1(content, rows) if of_0_1 else calibration_id(content, rows)
    if found == folder.name == content["calibration_id"]:
        return
    if of_0_1 and folder.name == content["calibration_id"] and pa.__version__ not in written_by:
        _warn_unchecked(folder.name, written_by)
        return
    raise UsageError(
        f"{folder} holds calibration {found} and says that it is {content['calibration_id']}: it was changed or moved "
        f"after it was made. {remedy}"
    )


def _id_of_0_1(content: Mapping[str, Any], rows: pa.Table) -> str:
    """The id as version 0.1 made it: from the rows as the installed version of Arrow serialises them."""
    said = {name: value for name, value in content.items() if name not in _MADE}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    # Pieces of one size make the id independent of the table's chunks.
    for piece in rows.combine_chunks().to_batches(_HASHED_ROWS):
        digest.update(piece.serialize())
    return "c" + digest.hexdigest()[:16]


@cache
def _warn_unchecked(name: str, written_by: str) -> None:
    log.warning(
        "calibration %s was made by nelbo 0.1 with %s, and another version is installed: whether it was changed "
        "since cannot be told. Calibrate again for an id that can be checked",
        name,
        written_by,
    )
