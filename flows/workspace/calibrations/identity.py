"""Ids of calibrations: hashes of all that verdicts are made with, so that a changed or moved one is noticed."""

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

#: What the same calibration made twice may differ in, and the id itself.
_MADE = ("made_at_utc", "code_version", "format_version", "calibration_id")
_HASHED_ROWS = 65_536


def calibration_id(content: Mapping[str, Any], rows: pa.Table) -> str:
    """The id of a calibration.

    Args:
        content: what ``calibration.json`` says.
        rows: of ``scores.parquet``, with the columns that are written there.
    """
    said = {name: value for name, value in content.items() if name not in _MADE}
    return "c" + hashlib.sha256(json.dumps([said, rows_digest(rows)], sort_keys=True).encode()).hexdigest()[:16]


def check_calibration_id(folder: Place, content: Mapping[str, Any], remedy: str) -> None:
    """See that a calibration is the one that its folder's name says, in every number.

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
    """As version 0.1 had it: of the rows as this version of Arrow would send them."""
    said = {name: value for name, value in content.items() if name not in _MADE}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    # In pieces of one size: how the table is chunked is no difference.
    for piece in rows.combine_chunks().to_batches(_HASHED_ROWS):
        digest.update(piece.serialize())
    return "c" + digest.hexdigest()[:16]


@cache
def _warn_unchecked(name: str, written_by: str) -> None:
    log.warning(
        "calibration %s was made by nelbo 0.1 with %s, and another is installed: whether it was changed since cannot "
        "be told. Calibrate again for an id that can be checked",
        name,
        written_by,
    )
