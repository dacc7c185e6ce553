"""From files to pixels or headers: decoded in separate processes, because a file may crash its decoder."""

import json
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from joblib import cpu_count
from numpy.typing import NDArray

from nelbo.data.decoder.images import Header
from nelbo.data.decoder.limits import Limits
from nelbo.data.decoder.preprocessing import Levels, Preprocessing, fit, look, picture_of, to_pixels, whole
from nelbo.data.decoder.samples import Picture, Range
from nelbo.data.decoder.workers import Answer, Request, Worker, borrowed
from nelbo.data.errors import ImageError
from nelbo.data.part.frame import Part
from nelbo.data.sources.files import File, Folder, Root, Stamp
from nelbo.data.sources.reading import read_checked
from nelbo.data.sources.roots import open_root

if TYPE_CHECKING:
    from nelbo.data.part.part import Seen

#: Files that one thread gives to one decoder at a time.
CHUNK = 16

#: Enough to see whether an image has colour; a large JPEG is decoded at an eighth of its size.
_SMALL = Preprocessing(16, 16)


class Images(NamedTuple):
    """Decoded images.

    pixels: (n_readable, h, w, c) float32 in [0, 1], of those that could be read, in the order given.
    reasons: for each file given, None or why it has no pixels.
    drops_colour: (n_readable,) bool, whether an image has colour that one channel does not hold.
    parts: (n_readable,) what was found of the part in each image; None where no part is looked for.
    aspects: (n_readable,) width of what is seen over its height, see `nelbo.data.decoder.preprocessing.Fitted`.
    overviews: (n_readable, h, w, c) each image as a whole, for people; differs from `pixels` where the model looks at
        an area only.
    sizes: (n_readable,) width and height of the upright originals in pixels.
    wholes: (n_readable,) the images at their own resolution, where these were requested, see
        `nelbo.data.decoder.preprocessing.whole`.
    """

    pixels: NDArray[np.float32]
    reasons: list[str | None]
    drops_colour: NDArray[np.bool_]
    parts: list[Part | None]
    aspects: NDArray[np.float64]
    overviews: NDArray[np.float32]
    sizes: list[tuple[int, int]]
    wholes: Sequence[Levels] = ()


class Look(NamedTuple):
    """What a file is, without its pixels; None where it could not be found out.

    image_id: hex SHA-256 of the contents.
    size_bytes, modified_ns, changed_ns, inode, etag: of the file, see `nelbo.data.sources.files.Stamp`.
    format, mode: in Pillow's words.
    width_px, height_px: of the stored array, before it is turned upright.
    reason: None, or why it cannot be decoded.
    """

    image_id: str | None = None
    size_bytes: int | None = None
    modified_ns: int | None = None
    changed_ns: int | None = None
    inode: int | None = None
    etag: str | None = None
    format: str | None = None
    mode: str | None = None
    width_px: int | None = None
    height_px: int | None = None
    reason: str | None = None


def read_images(
    files: Sequence[File | Path],
    preprocessing: Preprocessing,
    *,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    workers: int | None = None,
) -> Images:
    """Decode and preprocess files in separate processes.

    A file that cannot be read, or crashes its decoder, costs its own row only: it gets a reason instead of pixels.

    Args:
        files: paths, or files of a batch, whose contents must still match their `image_id`.
        preprocessing: size, channels, fit, threshold and range.
        limits: on each image.
        workers: decoder processes; by default one for each CPU that may be used.

    Returns:
        Pixels of the files that could be read, and for each file None or why it could not be read.

    >>> read_images([Path("missing.png")], Preprocessing(16, 16)).reasons
    ['unreadable']
    """
    return _images(list(_rows(files, preprocessing, limits, workers)), preprocessing)


def iter_images(
    files: Iterable[File | Path],
    preprocessing: Preprocessing,
    size: int,
    *,
    limits: Limits = Limits(),  # noqa: B008
    workers: int | None = None,
) -> Generator[Images, None, None]:
    """Yields the images of any number of files, `size` files at a time; the next files are decoded meanwhile.

    Args:
        files: paths, or files of a batch.
        preprocessing: size, channels, fit, threshold and range.
        size: files at a time; the last ones may be fewer.
        limits: on each image.
        workers: decoder processes; by default one for each CPU that may be used.

    >>> [images.reasons for images in iter_images(map(Path, ["a.png", "b.png", "c.png"]), Preprocessing(16, 16), 2)]
    [['unreadable', 'unreadable'], ['unreadable']]
    """
    rows = _rows(files, preprocessing, limits, workers)
    while chunk := list(islice(rows, size)):
        yield _images(chunk, preprocessing)


def iter_wholes(
    files: Iterable[File | Path],
    preprocessing: Preprocessing,
    *,
    limits: Limits = Limits(),  # noqa: B008
    workers: int | None = None,
) -> Generator[Images, None, None]:
    """Yields images one by one, each also at its own resolution; none is decoded ahead, since one may fill the memory.

    Args:
        files: paths, or files of a batch.
        preprocessing: size, channels, fit, threshold and range.
        limits: on each image.
        workers: decoder processes; by default one for each CPU that may be used.

    >>> [images.reasons for images in iter_wholes([Path("a.png")], Preprocessing(64, 64, tile_scale=1.0))]
    [['unreadable']]
    """
    for row in _rows(files, preprocessing, limits, workers, is_whole=True):
        yield _images([row], preprocessing)


def image_of(values: NDArray[Any], preprocessing: Preprocessing) -> Images:
    """An image in memory, decoded as a lossless file with the same samples would be.

    Args:
        values: (rows, columns), or with a last axis of 1 or 3 channels; whole numbers or floats.
        preprocessing: size, channels, fit, threshold and ranges.

    Raises:
        ValueError: the array has a shape or a type that is not supported.

    >>> image_of(np.full((4, 4), 255, np.uint8), Preprocessing(1, 2)).pixels.tolist()
    [[[[1.0], [1.0]]]]
    """
    try:
        looked = look(picture_of(values, preprocessing.ranges), preprocessing)
        fitted = fit(looked, preprocessing)
    except ImageError as error:
        return _images([error], preprocessing)
    pixels = to_pixels(Picture(fitted.bands).values, preprocessing)
    shown = to_pixels(Picture(fitted.overview).values, preprocessing) if fitted.overview else None
    levels = None if preprocessing.tile_scale is None else whole(looked.picture, preprocessing)
    row = _Row(pixels, fitted.drops_colour, fitted.part, fitted.aspect, shown, fitted.size, levels)
    return _images([row], preprocessing)


def first_coloured(
    files: Sequence[File | Path],
    *,
    limits: Limits = Limits(),  # noqa: B008
    workers: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> File | Path | None:
    """The first file with colour, as `is_coloured` defines it; None where there is none.

    Args:
        files: paths, or files of a batch; those that cannot be read are skipped.
        limits: on each image.
        workers: decoder processes; by default one for each CPU that may be used.
        advance: called with the number of files done since the last call.

    >>> first_coloured([Path("missing.png")]) is None
    True
    """
    with closing(iter_images(files, _SMALL, CHUNK, limits=limits, workers=workers)) as chunks:
        done = 0
        for images in chunks:
            chunk = files[done : done + len(images.reasons)]
            done += len(chunk)
            advance(len(chunk))
            readable = (file for file, reason in zip(chunk, images.reasons, strict=True) if reason is None)
            for file, coloured in zip(readable, images.drops_colour, strict=True):
                if coloured:
                    return file
    return None


def read_image(file: File | Path, preprocessing: Preprocessing, limits: Limits = Limits()) -> NDArray[np.float32]:  # noqa: B008
    """One image as (h, w, c) float32 in [0, 1].

    Args:
        file: a path, or a file of a batch.
        preprocessing: size, channels, fit, threshold and range.
        limits: on the image.

    Raises:
        ImageError: it cannot be read; the error's ``reason`` says why.

    >>> import tempfile
    >>> from PIL import Image
    >>> file = Path(tempfile.mkdtemp()) / "a.png"
    >>> Image.new("L", (200, 100), 255).save(file)
    >>> pixels = read_image(file, Preprocessing(16, 32))
    >>> pixels.shape, float(pixels.min())
    ((16, 32, 1), 1.0)
    """
    row = next(_rows([file], preprocessing, limits, 1))
    if isinstance(row, ImageError):
        raise row
    return row.pixels


def read_thumbnail(
    file: File | Path,
    side_px: int,
    limits: Limits = Limits(),  # noqa: B008
    value_range: Range | None = None,
) -> bytes:
    """An upright JPEG of an image, for people to look at.

    Args:
        file: a path, or a file of a batch.
        side_px: the most pixels of its longer side.
        limits: on the image.
        value_range: values shown as black and white in an image of more than 8 bits; by default the range of its type.

    Raises:
        ImageError: it cannot be read; the error's ``reason`` says why.

    >>> import tempfile
    >>> from PIL import Image
    >>> file = Path(tempfile.mkdtemp()) / "a.png"
    >>> Image.new("L", (200, 100)).save(file)
    >>> read_thumbnail(file, 64)[:3]  # how a JPEG begins
    b'\xff\xd8\xff'
    """
    found, answer = next(_answers([file], {"shown": [side_px, value_range]}, limits, 1))
    error = _error(found, answer)
    if error is not None:
        raise error
    return answer.content


def iter_masks(
    files: Iterable[File | Path],
    *,
    limits: Limits = Limits(),  # noqa: B008
    workers: int | None = None,
) -> Iterator[NDArray[np.bool_] | ImageError]:
    """(h, w) where each mask marks a defect, or the error if it cannot be read; see `defect_mask`.

    Args:
        files: any number of them; taken as they are needed.
        limits: on each mask.
        workers: decoder processes; by default one for each CPU that may be used.

    >>> [mask.reason for mask in iter_masks([Path("missing.png")])]
    ['unreadable']
    """
    for file, answer in _answers(files, {"mask": True}, limits, workers):
        if (error := _error(file, answer)) is not None:
            yield error
        else:
            height, width = answer.fields["shape"]
            bits = np.unpackbits(np.frombuffer(answer.content, np.uint8), count=height * width)
            yield bits.reshape(height, width).astype(bool)


def float_range(
    files: Iterable[File | Path],
    *,
    limits: Limits = Limits(),  # noqa: B008
    workers: int | None = None,
) -> Range | None:
    """The range that maps all floating-point images among some files to [0, 1]; for `Preprocessing.float_range`.

    It is [0, 1] if all their values lie in that range, else from the lowest to the highest value. Files that cannot be
    read, and those whose type says what white is, do not count.

    Args:
        files: paths, or files of a batch.
        limits: on each image.
        workers: decoder processes; by default one for each CPU that may be used.

    Returns:
        None without floating-point images.

    >>> float_range([Path("missing.tif")]) is None
    True
    """
    answers = (answer.fields for _, answer in _answers(files, {"extent": True}, limits, workers))
    extents = [fields["extent"] for fields in answers if fields.get("extent")]
    if not extents:
        return None
    low, high = min(low for low, _ in extents), max(high for _, high in extents)
    if low >= 0 and high <= 1:
        return (0.0, 1.0)
    # A single value has no range; it becomes black.
    return (low, high) if low < high else (low, low + 1.0)


def look_for_parts(
    files: Iterable[File | Path],
    *,
    value_range: Range | None = None,
    limits: Limits = Limits(),  # noqa: B008
    workers: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> "list[Seen]":
    """Small copies of images, each with the place of its part; files that cannot be read are left out.

    Args:
        files: paths, or files of a batch.
        value_range: of images of more than 8 bits, see `Preprocessing`.
        limits: on each image.
        workers: decoder processes; by default one for each CPU that may be used.
        advance: called with the number of files done since the last call.

    >>> look_for_parts([Path("missing.png")])
    []
    """
    from nelbo.data.part.part import LOOKED_AT_PX, look

    found = []
    for _, answer in _answers(files, {"small": [LOOKED_AT_PX, value_range]}, limits, workers):
        advance(1)
        if "reason" not in answer.fields:
            found.append(look(np.frombuffer(answer.content, np.float32).reshape(answer.fields["shape"])))
    return found


def look_into(
    files: Iterable[File],
    *,
    limits: Limits = Limits(),  # noqa: B008
    workers: int | None = None,
) -> Iterator[Look]:
    """Hash files and read their headers, in order, with no more than a few chunks of files in memory.

    Args:
        files: any number of them; taken as they are needed.
        limits: on each image.
        workers: decoder processes; by default one for each CPU that may be used.

    Returns:
        For each file, what its header says, or why it cannot be used.

    >>> [look.reason for look in look_into([File.at("missing.png")])]
    ['unreadable']
    """
    for _, answer in _answers(files, {}, limits, workers):
        found = answer.fields
        look = Look(**{name: found.get(name) for name in ("image_id", *Stamp._fields, "reason")})
        yield look._replace(**Header(*found["header"])._asdict()) if "header" in found else look


class _Row(NamedTuple):
    """One image."""

    pixels: NDArray[np.float32]
    drops_colour: bool
    part: Part | None
    aspect: float
    overview: NDArray[np.float32] | None
    size: tuple[int, int]
    whole: Levels | None = None


def _images(rows: Sequence[_Row | ImageError], preprocessing: Preprocessing) -> Images:
    readable = [row for row in rows if not isinstance(row, ImageError)]
    shape = (len(readable), preprocessing.height, preprocessing.width, preprocessing.channels)
    pixels = np.stack([row.pixels for row in readable]) if readable else np.empty(shape, np.float32)
    return Images(
        pixels,
        [row.reason if isinstance(row, ImageError) else None for row in rows],
        np.array([row.drops_colour for row in readable], bool),
        [row.part for row in readable],
        np.array([row.aspect for row in readable], np.float64),
        np.stack(overviews)
        if (overviews := [row.overview for row in readable if row.overview is not None])
        else pixels,
        [row.size for row in readable],
        [row.whole for row in readable if row.whole is not None],
    )


def _rows(
    files: Iterable[File | Path],
    preprocessing: Preprocessing,
    limits: Limits,
    workers: int | None,
    is_whole: bool = False,
) -> Iterator[_Row | ImageError]:
    fields = {"preprocessing": preprocessing.to_dict(), "whole": is_whole}
    for file, answer in _answers(files, fields, limits, workers):
        yield _error(file, answer) or _Row(
            _pixels(answer, preprocessing),
            answer.fields["drops_colour"],
            part_of(answer.fields["part"]),
            answer.fields["aspect"],
            None if preprocessing.area is None else _pixels(answer, preprocessing, number=1),
            tuple(answer.fields["size"]),
            _whole(answer),
        )


def _whole(answer: Answer) -> Levels | None:
    """The picture at its own resolution, which follows the one of the model's size; a view of the bytes."""
    if "whole" not in answer.fields:
        return None
    shape, name = answer.fields["whole"]
    dtype = np.dtype(name)
    start = len(answer.content) - math.prod(shape) * dtype.itemsize
    return np.frombuffer(answer.content, dtype, offset=start).reshape(shape)


def part_of(fields: Sequence[Any] | None) -> Part | None:
    """The part that a decoder's answer, or a JSON file, describes."""
    return None if fields is None else Part(*fields)


def _pixels(answer: Answer, preprocessing: Preprocessing, number: int = 0) -> NDArray[np.float32]:
    """The picture of this number among those of the model's size, which follow one another in the answer."""
    modes = answer.fields["modes"]
    size = (preprocessing.height, preprocessing.width)
    n_values = math.prod(size) * (3 if modes == ["RGB"] else len(modes))
    dtype = np.dtype(np.float32 if modes[0] == "F" else np.uint8)
    values = np.frombuffer(answer.content, dtype, n_values, number * n_values * dtype.itemsize)
    if len(modes) > 1:
        return to_pixels(np.moveaxis(values.reshape(len(modes), *size), 0, -1), preprocessing)
    return to_pixels(values.reshape(*size, *((3,) if modes == ["RGB"] else ())), preprocessing)


def _error(file: File, answer: Answer) -> ImageError | None:
    fields = answer.fields
    if "reason" not in fields:
        return None
    return ImageError(fields["reason"], f"{file.root}/{file.path}: {fields['detail']}")


def _answers(
    files: Iterable[File | Path], fields: dict[str, Any], limits: Limits, workers: int | None
) -> Iterator[tuple[File, Answer]]:
    """The answer for each file, in order; a bounded number of files is worked on ahead."""
    n_threads = workers or cpu_count()
    at_once, n_ahead = (1, 1) if fields.get("whole") else (CHUNK, 2 * n_threads)
    left = (file if isinstance(file, File) else File.at(file) for file in files)
    pending: deque[tuple[list[File], Future[list[Answer]]]] = deque()
    fields = fields | {"limits": asdict(limits)}
    threads = ThreadPoolExecutor(n_threads)
    try:
        while True:
            while len(pending) < n_ahead and (chunk := list(islice(left, at_once))):
                pending.append((chunk, threads.submit(_work_through, chunk, fields, limits)))
            if not pending:
                return
            chunk, answers = pending.popleft()
            yield from zip(chunk, answers.result(), strict=True)
    finally:
        threads.shutdown(cancel_futures=True)


def _work_through(files: Sequence[File], fields: dict[str, Any], limits: Limits) -> list[Answer]:
    answers: list[Answer] = []
    with borrowed() as worker:
        for name, group in groupby(files, lambda file: file.root):
            root = open_root(name)
            if isinstance(root, Folder):
                # The decoder reads these files itself: their bytes do not pass through this process.
                head = json.dumps(fields | {"root": name}).encode()
                answers += worker.ask([Request(head, json.dumps(file[1:]).encode()) for file in group])
            else:
                head = json.dumps(fields).encode()
                answers += [_sent(worker, root, file, head, limits) for file in group]
    return answers


def _sent(worker: Worker, root: Root, file: File, head: bytes, limits: Limits) -> Answer:
    """The answer for a file that is read here: this process alone opens connections and archives."""
    facts, content = read_checked(root, file.path, file.image_id, limits.size_bytes)
    if "reason" in facts:
        return Answer(facts)
    (answer,) = worker.ask([Request(head, content)])
    return Answer(facts | answer.fields, answer.content)
