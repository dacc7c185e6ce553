"""Folders of data files with the checksum of each: bundles, and engines made of them."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

CHECKSUMS = "checksums.json"


class BundleError(ValueError):
    """A bundle, or an engine made of one, is damaged, incomplete, or of an unknown version."""


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files and their checksums to a new folder, and make sure that they are on the disk."""
    folder.mkdir(parents=True)
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    for name, content in {**files, CHECKSUMS: as_json(checksums)}.items():
        with (folder / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def read_files(folder: Path, names: Iterable[str], what: str, remedy: str) -> dict[str, bytes]:
    """The contents of files, each checked against its checksum.

    Args:
        what: a noun for the folder.
        remedy: a sentence that says what to do if it is not whole.

    Raises:
        BundleError: a file is missing, or not what was written.
    """
    try:
        checksums = json.loads((folder / CHECKSUMS).read_bytes())
        files = {name: (folder / name).read_bytes() for name in names}
    except OSError as error:
        raise BundleError(f"{folder} is not a whole {what}: {error}. {remedy}") from error
    except ValueError as error:
        raise BundleError(f"{folder / CHECKSUMS} is not JSON: the {what} is damaged. {remedy}") from error
    expected_sums = checksums if isinstance(checksums, dict) else {}
    for name, content in files.items():
        found, expected = hashlib.sha256(content).hexdigest(), expected_sums.get(name)
        if found != expected:
            raise BundleError(
                f"{folder / name} has SHA-256 {found[:12]}…, {CHECKSUMS} says {str(expected)[:12]}…: "
                f"the {what} is damaged. {remedy}"
            )
    return files


def as_json(content: Mapping[str, Any]) -> bytes:
    """Content as JSON; the same content always gives the same bytes."""
    return (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
