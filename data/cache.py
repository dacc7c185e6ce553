"""Decoded images in one memory-mapped file, for training sets that are larger than memory."""

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nelbo.data.decoder.decoding import part_of, read_images
from nelbo.data.decoder.limits import Limits
from nelbo.data.decoder.preprocessing import Preprocessing
from nelbo.data.part.frame import Part
from nelbo.data.sources.files import File
from nelbo.data.store import write_json

#: Pixel values decoded at a time, which bounds the memory that building a cache takes.
CHUNK_VALUES = 16_000_000

_FORMAT = 2
_PIXELS, _SIDECAR = "pixels.bin", "cache.json"
_DTYPES: dict[str, type[np.uint8] | type[np.uint16]] = {"uint8": np.uint8, "uint16": np.uint16}

Levels: TypeAlias = NDArray[np.uint8 | np.uint16]


@dataclass(frozen=True, eq=False)
class CachedPixels:
    """Images on disk, read on demand from any number of threads.

    stored: (n_stored, h, w, c) uint8 or uint16, mapped into memory; the type's whole range means [0, 1].
    rows: (n,) which of the stored images these are, in this order.

    >>> pixels = CachedPixels(np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1), np.arange(4)).take([3, 1, 0])
    >>> pixels.shape, pixels[1:].ravel().tolist()
    ((3, 1, 1, 1), [1, 0])
    """

    stored: Levels
    rows: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, h, w, c)."""
        _, height, width, channels = self.stored.shape
        return len(self), height, width, channels

    @property
    def dtype(self) -> np.dtype[np.uint8 | np.uint16]:
        """``uint8`` or ``uint16``; ``np.iinfo(dtype).max`` is white."""
        return self.stored.dtype

    def __getitem__(self, index: slice | Sequence[int] | NDArray[np.integer]) -> Levels:
        """Read rows into memory: (k, h, w, c) of the stored type; IndexError beyond the last."""
        # Not stored[rows]: for one row alone that would be a view of the file.
        return self.stored.take(self.rows[index], axis=0)

    def take(self, rows: slice | Sequence[int] | NDArray[np.integer]) -> "CachedPixels":
        """These rows only, in the order given; nothing is read.

        Args:
            rows: (k,) numbers of rows, or a slice; they may repeat.
        """
        return CachedPixels(self.stored, self.rows[rows])


class Cache(NamedTuple):
    """Cached images.

    pixels: (n_readable, h, w, c), of those that could be read, in the order given.
    reasons: for each file given, None or why it has no pixels.
    parts: (n_readable,) what was found of the part in each image; None where no part is looked for.
    """

    pixels: CachedPixels
    reasons: list[str | None]
    parts: list[Part | None]


def cache_images(
    files: Sequence[File | Path],
    preprocessing: Preprocessing,
    folder: Path,
    *,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    workers: int | None = None,
    staging: Path | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Cache:
    """Decode and preprocess files once, into a folder that appears whole or not at all, and map it into memory.

    Images are stored as uint8 where that loses nothing (8-bit sources), or else all as uint16, rounded to the
    nearest of 65,536 levels. A sound cache at `folder` is opened instead, and a damaged one made anew.

    Args:
        files: paths, or files of a batch.
        preprocessing: size, channels, fit, threshold and range.
        folder: where the cache goes. Name it after the files' contents and all of `preprocessing` and `limits`: if a
            cache is there already, only the number of files and the image size are checked.
        limits: on each image.
        workers: decoder processes; by default one for each CPU that may be used.
        staging: a folder on the same file system for the unfinished cache; by default the one that holds `folder`.
        advance: called with the number of files done since the last call.

    Returns:
        Pixels of the files that could be read, and reasons for the others.

    Raises:
        OSError: the disk is too full (``errno.ENOSPC``; checked before anything is decoded), or `folder` is
            taken by something that is not a cache.
        RuntimeError: another process deleted or changed the cache.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("L", (20, 10), 7).save(folder / "a.png")
    >>> cache = cache_images([folder / "a.png", folder / "b.png"], Preprocessing(2, 2), folder / "cache")
    >>> cache.pixels[:].ravel().tolist(), cache.reasons
    ([7, 7, 7, 7], [None, 'unreadable'])
    """
    if folder.exists():
        try:
            cache = _open(folder, len(files), preprocessing)
        except ValueError:
            _delete(folder)
        else:
            advance(len(files))
            return cache
    staging = staging or folder.parent
    for parent in (staging, folder.parent):
        parent.mkdir(parents=True, exist_ok=True)
    _check_space(len(files) * preprocessing.n_values, staging)
    # A folder within, because the outer one is closed to other users.
    with TemporaryDirectory(prefix=f".{folder.name}.", suffix=".tmp", dir=staging) as temporary:
        unfinished = Path(temporary) / folder.name
        unfinished.mkdir()
        _write(unfinished, files, preprocessing, limits, workers, advance)
        try:
            unfinished.rename(folder)
        except OSError:
            # Another process was first, and its cache is as good.
            if not folder.exists():
                raise
    try:
        return _open(folder, len(files), preprocessing)
    except ValueError as error:
        raise RuntimeError(f"{folder} was deleted or changed by another process") from error


def _open(folder: Path, n_files: int, preprocessing: Preprocessing) -> Cache:
    try:
        content = json.loads((folder / _SIDECAR).read_text(encoding="utf-8"))
        reasons, dtype = content["reasons"], np.dtype(_DTYPES[content["dtype"]])
        parts = [part_of(fields) for fields in content["parts"]]
        shape = (reasons.count(None), preprocessing.height, preprocessing.width, preprocessing.channels)
        found = (content["format"], len(reasons), content["shape"], (folder / _PIXELS).stat().st_size)
    except (AttributeError, FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} is not a readable pixel cache ({error!r}). Delete it and run again.") from error
    expected = (_FORMAT, n_files, list(shape), math.prod(shape) * dtype.itemsize)
    if found != expected:
        raise ValueError(
            f"{folder}: format, files, shape and bytes are {found}, expected {expected}. Delete it and run again."
        )
    # An empty file cannot be mapped. A plain array, so that what is taken from it is a plain array, too.
    mapped = np.memmap(folder / _PIXELS, dtype, "r", shape=shape) if shape[0] else np.empty(shape, dtype)
    return Cache(CachedPixels(np.asarray(mapped), np.arange(shape[0])), reasons, parts)


def _delete(folder: Path) -> None:
    # File by file: a folder that holds anything else is not ours to delete.
    for name in (_SIDECAR, _PIXELS):
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()


def _check_space(needed: int, staging: Path) -> None:
    free = shutil.disk_usage(staging).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"the pixel cache needs at least {needed / 1e6:,.0f} MB, and {staging} has {free / 1e6:,.0f} MB free. "
            "Free some, put the workspace on another disk, or use a smaller image_size",
        )


def _write(
    unfinished: Path,
    files: Sequence[File | Path],
    preprocessing: Preprocessing,
    limits: Limits,
    workers: int | None,
    advance: Callable[[int], None],
) -> None:
    stored = unfinished / _PIXELS
    stored.touch()
    dtype = "uint8"
    reasons: list[str | None] = []
    parts: list[Part | None] = []
    size = max(1, CHUNK_VALUES // preprocessing.n_values)
    for start in range(0, len(files), size):
        images = read_images(files[start : start + size], preprocessing, limits=limits, workers=workers)
        dtype = _append(images.pixels, stored, dtype)
        reasons += images.reasons
        parts += images.parts
        advance(len(images.reasons))
    with stored.open("rb") as file:
        os.fsync(file.fileno())
    shape = (reasons.count(None), preprocessing.height, preprocessing.width, preprocessing.channels)
    facts = {"format": _FORMAT, "dtype": dtype, "shape": shape, "reasons": reasons, "parts": parts}
    write_json(facts, unfinished / _SIDECAR)


def _append(pixels: NDArray[np.float32], stored: Path, dtype: str) -> str:
    """Append images to a file of `dtype`; the type that the file has afterwards."""
    levels: Levels = np.rint(pixels * np.float32(255)).astype(np.uint8)
    if dtype == "uint8" and not np.array_equal(levels / np.float32(255), pixels):
        _deepen(stored)
        dtype = "uint16"
    if dtype == "uint16":
        levels = np.rint(pixels * np.float32(65_535)).astype(np.uint16)
    with stored.open("ab") as file:
        file.write(levels.data)
    return dtype


def _deepen(stored: Path) -> None:
    deep = stored.with_suffix(".deep")
    with stored.open("rb") as source, deep.open("wb") as target:
        while block := source.read(CHUNK_VALUES):
            # The same number: 65,535 = 257 x 255.
            target.write((np.frombuffer(block, np.uint8) * np.uint16(257)).data)
    deep.replace(stored)
