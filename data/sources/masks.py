"""Which mask belongs to which image, by their names: in the layout of MVTec or VisA, or in that of the images."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nelbo.data.errors import InputError
from nelbo.data.sources.files import File
from nelbo.data.sources.names import is_mask_folder, is_url, local_path, path_of, shown, text_of
from nelbo.data.sources.roots import open_root
from nelbo.data.sources.urls import check_urls

#: How the name of a mask beside its image ends.
_SUFFIX = "_mask"

#: The folders of a file, and its name without the ending.
_Name = tuple[str, ...]


class Masks(NamedTuple):
    """Masks of images.

    files: the mask of each image, in the order given; None where there is none.
    unused: paths of masks that belong to none of the images.
    """

    files: list[File | None]
    unused: list[str]


def find_masks(source: str, paths: Sequence[str]) -> Masks:
    """The masks of images in a folder, an archive or a URL.

    A mask has its image's name, with or without ``_mask`` after it, and any ending. It lies in folders with the names
    of all, or of the last, of the image's folders: the mask of ``test/crack/7.png`` is ``crack/7_mask.png`` or
    ``7.png``. In a folder that also holds other images, the masks are the files in ``ground_truth/`` or ``Masks/``, or
    those whose names end in ``_mask``.

    Args:
        source: a folder, an archive or a URL.
        paths: of the images, with ``/``.

    Raises:
        InputError: there is no such folder, it holds no masks, or several masks fit an image, or several images a mask.

    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "ground_truth/crack").mkdir(parents=True)
    >>> _ = (folder / "ground_truth/crack/7_mask.png").write_bytes(b""), (folder / "7.png").write_bytes(b"")
    >>> found = find_masks(str(folder), ["test/good/7.png", "test/crack/7.png"])
    >>> [file and file.path for file in found.files]
    [None, 'ground_truth/crack/7_mask.png']
    """
    root = _root(source)
    try:
        by_name = _named(
            source, [entry.path for entry in open_root(root).walk() if not (entry.skipped or entry.unlisted)]
        )
    except OSError as error:
        raise InputError(f"{source} cannot be listed ({error}). Name the folder that the masks lie in.") from error
    found = [next((by_name[name] for name in _names_of(path) if name in by_name), None) for path in paths]
    _refuse_shared(source, paths, found)
    used = set(found)
    unused = [path for path in by_name.values() if path not in used]
    return Masks([None if path is None else File(root, path) for path in found], unused)


def _root(source: str) -> str:
    check_urls([source])
    root = local_path(source)
    return root if is_url(root) else text_of(str(path_of(root).resolve()))


def _named(source: str, paths: list[str]) -> dict[_Name, str]:
    """The masks among some files, by their images' names."""
    in_folders = [path for path in paths if any(map(is_mask_folder, path.split("/")[:-1]))]
    masks = in_folders or paths
    marked = [path for path in masks if _stem(path).endswith(_SUFFIX)]
    masks = marked if marked and not in_folders else masks
    if not masks:
        raise InputError(f"{source} holds no masks. Name the folder that they lie in.")
    by_name: dict[_Name, str] = {}
    for path in masks:
        folders = path.split("/")[:-1]
        behind = max((place for place, name in enumerate(folders) if is_mask_folder(name)), default=-1)
        name = (*folders[behind + 1 :], _stem(path).removesuffix(_SUFFIX))
        if name in by_name:
            raise InputError(
                f"{source}: {shown(by_name[name])} and {shown(path)} may be masks of one image. Leave one of them out."
            )
        by_name[name] = path
    return by_name


def _names_of(path: str) -> Iterable[_Name]:
    """What the mask of an image may be called, the nearest to the image's own name first."""
    folders = path.split("/")[:-1]
    yield from ((*folders[start:], _stem(path)) for start in range(len(folders) + 1))


def _refuse_shared(source: str, paths: Sequence[str], found: Sequence[str | None]) -> None:
    images = defaultdict(list)
    for path, mask in zip(paths, found, strict=True):
        images[mask].append(path)
    for mask, of in images.items():
        if mask is not None and len(of) > 1:
            raise InputError(
                f"{source}: {shown(mask)} may be the mask of {shown(of[0])} or of {shown(of[1])}. "
                "Put masks into folders with the same names as those of the images."
            )


def _stem(path: str) -> str:
    name = path.rpartition("/")[2]
    return name.rpartition(".")[0] or name
