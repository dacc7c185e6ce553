"""Kinds of defects, and what is normal, by the folders that images lie in: MVTec's and VisA's as they are."""

from collections.abc import Sequence
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

#: Folders of normal images, and of parts of a set: neither are kinds of defects.
_NORMAL = {"good", "normal"}
_PARTS = {"train", "test", "validation", "val", "calibration"}


def labels_by_folder(paths: Sequence[str]) -> NDArray[np.int8]:
    """(n,) 0 of images in a folder ``good`` or ``normal``, 1 of those in others beside it; -1 where nothing says it.

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
    """The kind of each anomalous image: its first folder that not all of them lie in; None of one in no folder.

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
    return [name for name in path.split("/")[:-1] if name.casefold() not in _PARTS]
