"""The true labels of a batch's images: from a table, the batch's own labels, their folders, or masks."""

import logging
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nelbo.data import InputError, list_source
from nelbo.data.sources.layouts import PART_FOLDERS
from nelbo.flows.workspace.layout import some

log = logging.getLogger(__name__)

#: Names of folders of normal images.
_NORMAL = {"good", "normal"}


class Truth(NamedTuple):
    """labels: (n,) 0 normal, 1 anomalous, -1 unknown; said_by: their source, in words."""

    labels: NDArray[np.int8]
    said_by: str


def truth_of(
    paths: Sequence[str],
    root: str,
    own: NDArray[np.int8],
    has_mask: Sequence[bool],
    table: str | None,
    start: str | None,
) -> Truth:
    """The true labels of images, from `table`, else `own`, else their folders.

    An image that this source does not label is anomalous if it has a mask.

    Args:
        paths: below `root`, where the batch's images lie.
        own: the batch's own labels.
        has_mask: whether each image has a mask.
        table: a manifest with labels; None uses the other sources.
        start: the folder that the table's paths start from; by default its own folder.

    Raises:
        InputError: the table cannot be read, or has no label for any of the images.
    """
    if table is not None:
        labels, said_by = _labels_in(table, start, paths, root), "the labels given"
    elif (own >= 0).any():
        labels, said_by = own, "the batch's labels"
    else:
        labels, said_by = labels_by_folder(paths), "folders"
    by_mask = (labels < 0) & np.array(has_mask, bool)
    if by_mask.any():
        said_by = f"{said_by} and masks" if (labels >= 0).any() else "masks"
    return Truth(np.where(by_mask, 1, labels).astype(np.int8), said_by)


def _labels_in(table: str, start: str | None, paths: Sequence[str], root: str) -> NDArray[np.int8]:
    listing = list_source(table, start)
    listed = {entry.entry.path: entry.label for entry in listing.entries}
    whole = {f"{listing.root}/{path}": label for path, label in listed.items()}
    # The table may have been moved; then its relative paths are compared with those of the batch.
    by_path = any(f"{root}/{path}" in whole for path in paths)
    labels = [whole.get(f"{root}/{path}", -1) if by_path else listed.get(path, -1) for path in paths]
    if max(labels, default=-1) < 0:
        raise InputError(
            f"{table} has no label for any of the batch's {len(paths)} images (first: {root}/{paths[0]}). "
            "Its paths start from its own folder; name another with --root."
        )
    here = {f"{root}/{path}" if by_path else path for path in paths}
    start = f"{listing.root}/" if by_path else ""
    others = [path for path, label in listed.items() if label >= 0 and f"{start}{path}" not in here]
    if others:
        log.warning("%s labels files that are not in the batch: %d (%s).", table, len(others), some(others))
    return np.array(labels, np.int8)


def labels_by_folder(paths: Sequence[str]) -> NDArray[np.int8]:
    """(n,) labels: 0 for images in a folder ``good`` or ``normal``, 1 for those in other folders; else -1.

    >>> labels_by_folder(["test/good/1.png", "test/crack/1.png", "2.png"]).tolist()
    [0, 1, -1]
    >>> labels_by_folder(["monday/1.png", "tuesday/1.png"]).tolist()
    [-1, -1]
    """
    folders = [_folders(path) for path in paths]
    is_normal = np.array([bool(_NORMAL & {name.casefold() for name in own}) for own in folders], bool)
    if not is_normal.any():
        return np.full(len(paths), -1, np.int8)
    return np.where(is_normal, 0, np.where([bool(own) for own in folders], 1, -1)).astype(np.int8)


def kinds_of(paths: Sequence[str]) -> list[str | None]:
    """The kind of each anomalous image: its first folder that is not common to all; None for an image in no folder.

    >>> kinds_of(["test/crack/1.png", "test/hole/deep/1.png", "2.png"])
    ['crack', 'hole', None]
    >>> kinds_of(["defect/crack/1.png", "defect/hole/1.png"]), kinds_of(["Data/Images/Anomaly/1.JPG"])
    (['crack', 'hole'], ['Anomaly'])
    """
    folders = [_folders(path) for path in paths]
    shared = takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False))
    n_shared = len(list(shared))
    return [own[min(n_shared, len(own) - 1)] if own else None for own in folders]


def _folders(path: str) -> list[str]:
    return [name for name in path.split("/")[:-1] if name.casefold() not in PART_FOLDERS]
