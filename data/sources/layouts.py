"""Folders whose names label their images: good/ beside kinds of defects, and the layouts of MVTec and VisA."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from nelbo.data.errors import InputError
from nelbo.data.sources.listing import Listed, Listing
from nelbo.data.sources.names import is_hidden, is_mask_folder, is_url, path_of, shown, text_of

#: Where images lie below a folder: directly, in a category of MVTec, and in an object of VisA or in its ``Data``.
_TO_JUDGE, _TO_TRAIN_ON = (("", part, "Data/Images", "Images") for part in ("test", "train"))

#: Names of splits: such a folder is not a kind of defect.
PART_FOLDERS = {"train", "test", "validation", "val", "calibration"}

#: Names of folders that may hold normal images.
_NORMAL = {"good", "normal", "ok"}

_PICTURE = re.compile(r"\.(avif|bmp|gif|jpe?g|p[bgnp]m|png|tiff?|webp)", re.IGNORECASE)


class AmbiguousError(InputError):
    """The names of folders may mean one thing or another."""


class Layout(NamedTuple):
    """Where the images of a source lie, and what the folders there say of them.

    folder: below the source, with ``/``; empty for the source itself.
    labels: 0 or 1 for each folder in it, by name.
    """

    folder: str
    labels: Mapping[str, int]

    @property
    def normal(self) -> str:
        """The folder of normal images, below the source."""
        return "/".join(filter(None, (self.folder, next(name for name, label in self.labels.items() if not label))))

    def label(self, path: str) -> int:
        """The label of a file by its `path` below ``folder``; -1 where no folder says it.

        >>> layout = Layout("test", {"good": 0, "crack": 1})
        >>> [layout.label(path) for path in ("good/1.png", "crack/deep/2.png", "3.png")]
        [0, 1, -1]
        """
        return self.labels.get(path.partition("/")[0], -1) if "/" in path else -1

    def labelled(self, listing: Listing) -> Listing:
        """The files of a `listing` of ``folder`` with their labels, and without the masks that lie beside them."""
        return replace(listing, entries=map(self._labelled, listing.entries))

    def _labelled(self, listed: Listed) -> Listed:
        folder, _, below = listed.entry.path.partition("/")
        is_mask = bool(below) and is_mask_folder(folder)
        entry = listed.entry._replace(skipped=listed.entry.skipped or is_mask)
        return listed._replace(entry=entry, label=self.label(entry.path))

    def __str__(self) -> str:
        """Its folders in words.

        >>> str(Layout("", {"good": 0, "crack": 1, "scratch": 1}))
        'good/ normal; crack/, scratch/ anomalous'
        """
        of = {0: "normal", 1: "anomalous"}
        named = {
            word: [f"{shown(name)}/" for name, label in self.labels.items() if label == n] for n, word in of.items()
        }
        return "; ".join(f"{', '.join(names)} {word}" for word, names in named.items() if names)


def labels_in(source: str, skip: Path | None = None) -> Layout | None:
    """Where a local folder has images to judge, with labels: good/ beside others, or Normal/ and Anomaly/.

    Args:
        source: the folder, or one of MVTec's or VisA's that holds them further below.
        skip: a folder to leave out, such as the one that results are written to.

    Returns:
        None where no folder says what is normal, or the source is not a local folder.

    Raises:
        AmbiguousError: several folders may say it.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> for name in ("train/good", "test/good", "test/crack", "ground_truth/crack"):
    ...     (root / name).mkdir(parents=True)
    >>> labels_in(str(root))
    Layout(folder='test', labels={'crack': 1, 'good': 0})
    """
    found = []
    for folder in _TO_JUDGE:
        names = [name for name in _folders(source, folder, skip) if not is_mask_folder(name)]
        normal = _normal(names)
        if normal is None or len(names) < 2:
            continue
        if parts := [name for name in names if name.casefold() in PART_FOLDERS]:
            raise AmbiguousError(f"{_shown(folder, normal)} lies beside {_shown(folder, *parts)}")
        found.append(Layout(folder, {name: int(name != normal) for name in names}))
    return _only(found)


def normal_in(source: str, skip: Path | None = None) -> Layout | None:
    """Where a local folder has a folder of normal images to train on: good/, train/good/, or VisA's Normal/.

    See `labels_in`; the only label is that of the normal images.

    Args:
        source: a local folder.
        skip: a folder below it that is passed over.

    Raises:
        AmbiguousError: images lie beside that folder, or there are several.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> for name in ("train/good", "test/good", "test/crack"):
    ...     (root / name).mkdir(parents=True)
    >>> normal_in(str(root)).normal
    'train/good'
    """
    found = []
    for folder in _TO_TRAIN_ON:
        normal = _normal(_folders(source, folder, skip))
        if normal is None:
            continue
        if _has_pictures(source, folder):
            raise AmbiguousError(f"images lie beside {_shown(folder, normal)}")
        found.append(Layout(folder, {normal: 0}))
    return _only(found)


def _normal(names: Sequence[str]) -> str | None:
    """The folder of normal images among its neighbours."""
    good = [name for name in names if name.casefold() == "good"]
    if good and len(alike := [name for name in names if name.casefold() in _NORMAL]) > 1:
        raise AmbiguousError(f"{_shown('', *alike)} may each hold normal images")
    if not good and sorted(name.casefold() for name in names) == ["anomaly", "normal"]:
        good = [name for name in names if name.casefold() == "normal"]
    return good[0] if good else None


def _only(found: list[Layout]) -> Layout | None:
    if len(found) > 1:
        raise AmbiguousError(f"{' and '.join(f'{shown(layout.normal)}/' for layout in found)} may hold normal images")
    return found[0] if found else None


def _folders(source: str, folder: str, skip: Path | None) -> list[str]:
    """Sorted names of the folders in a folder below a source; none where it does not exist, or is a link."""
    if is_url(source):
        return []
    here = path_of(text_of(source))
    for name in filter(None, folder.split("/")):
        if name not in _folders_in(here, skip):
            return []
        here /= name
    return _folders_in(here, skip)


def _folders_in(here: Path, skip: Path | None) -> list[str]:
    passed = None if skip is None else skip.resolve()
    try:
        with os.scandir(here) as found:
            names = [entry.name for entry in found if entry.is_dir(follow_symlinks=False) and not is_hidden(entry.name)]
    except (OSError, ValueError):
        # Not a folder, not a path, or one that may not be listed: listing its files reports that.
        return []
    return sorted(text_of(name) for name in names if passed is None or (here / name).resolve() != passed)


def _has_pictures(source: str, folder: str) -> bool:
    with os.scandir(path_of(text_of(source)) / folder) as found:
        return any(_PICTURE.fullmatch(Path(entry.name).suffix) for entry in found if entry.is_file())


def _shown(folder: str, *names: str) -> str:
    return " and ".join(f"{shown('/'.join(filter(None, (folder, name))))}/" for name in names)
