"""Writes regions as pictures, as COCO annotations, and as a table for spreadsheets."""

import csv
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from itertools import chain, count
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
from PIL import Image

from nelbo.data import REGIONS_SCHEMA
from nelbo.data.regions.run_length import runs_of
from nelbo.flows.formulas import without_formula

#: Takes a folder, flagged images, their regions, and the ids of batch and model.
Writer = Callable[[Path, pa.Table, pa.Table, Mapping[str, str]], None]

#: Columns of the table: all but the run lengths, which may begin like formulas and which an apostrophe would break.
_CELLS = [name for name in REGIONS_SCHEMA.names if name != "mask"]

#: Most bytes of a name on most disks, and characters of the hash at the end of a shortened name.
_LONGEST, _HASH = 255, 16


def write_png(folder: Path, images: pa.Table, regions: pa.Table, _about: Mapping[str, str]) -> None:
    """Write a mask for each image, white where it has a region, in folders named like the image's."""
    masks = defaultdict(list)
    for row in regions.select(["relative_path", "mask"]).to_pylist():
        masks[row["relative_path"]].append(row["mask"])
    rows = images.to_pylist()
    for row, name in zip(rows, mask_names([row["relative_path"] for row in rows]), strict=True):
        size = row["upright_width_px"], row["upright_height_px"]
        column_by_column = np.zeros(size, np.uint8)
        flat = column_by_column.reshape(-1)
        for mask in masks[row["relative_path"]]:
            for start, end in runs_of(mask, size).tolist():
                flat[start:end] = 255
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(column_by_column.T)).save(path, "PNG")


def mask_names(paths: list[str]) -> list[str]:
    """Paths of images' masks below their folder, and nowhere else, whatever the images' paths say.

    Images that differ only in their extension keep it; the names differ also where a file system ignores case. Names
    too long for a disk, which object stores allow, are shortened.

    >>> mask_names(["a/1.jpg", "a/2.jpg", "a/2.PNG", "/etc/../x.png"])
    ['a/1.png', 'a/2.jpg.png', 'a/2.PNG.png', 'etc/%2E%2E/x.png']
    """
    plain = [PurePosixPath(*(_plain(part) for part in path.split("/") if part)) for path in paths]
    n_of = Counter(str(path.with_suffix("")).casefold() for path in plain)
    # No mask takes the name of a folder, or of another mask.
    taken = {str(folder).casefold() for path in plain for folder in path.parents}
    found = []
    for path in plain:
        stem = str(path.with_suffix(""))
        shorter = [stem] if n_of[stem.casefold()] == 1 else []
        candidates = chain(shorter, [str(path)], (f"{path}-{number}" for number in count(2)))
        name = next(name for one in candidates if (name := _named_png(one)).casefold() not in taken)
        taken.add(name.casefold())
        found.append(name)
    return found


def _plain(part: str) -> str:
    """A part of a path as a plain name, with `..` and NUL escaped."""
    return _fitting("%2E" * len(part) if set(part) == {"."} else part.replace("\0", "%00"))


def _named_png(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{_fitting(name, '.png')}"


def _fitting(name: str, ending: str = "") -> str:
    """A name that a disk takes; one that is too long becomes its beginning and a hash of the whole."""
    content = name.encode()
    if len(content) + len(ending) <= _LONGEST:
        return f"{name}{ending}"
    kept = content[: _LONGEST - len(ending) - 1 - _HASH].decode(errors="ignore")
    return f"{kept}-{hashlib.sha256(content).hexdigest()[:_HASH]}{ending}"


def write_coco(folder: Path, images: pa.Table, regions: pa.Table, about: Mapping[str, str]) -> None:
    """Write all images and regions in COCO's format, to ``coco.json``."""
    rows = images.to_pylist()
    numbers = {row["relative_path"]: number for number, row in enumerate(rows, start=1)}
    content = {
        "info": {"description": "regions found by nelbo", **about},
        "categories": [{"id": 1, "name": "anomaly"}],
        "images": [
            {
                "id": numbers[row["relative_path"]],
                "file_name": row["relative_path"],
                "width": row["upright_width_px"],
                "height": row["upright_height_px"],
            }
            for row in rows
        ],
        "annotations": [
            {
                "id": number,
                "image_id": numbers[row["relative_path"]],
                "category_id": 1,
                "bbox": [row["x_px"], row["y_px"], row["width_px"], row["height_px"]],
                "area": row["area_px"],
                "score": row["peak"],
                "iscrowd": 0,
                "segmentation": {
                    "size": [row["upright_height_px"], row["upright_width_px"]],
                    "counts": row["mask"],
                },
            }
            for number, row in enumerate(regions.to_pylist(), start=1)
        ],
    }
    text = json.dumps(content, indent=1, allow_nan=False)
    (folder / "coco.json").write_text(text + "\n", encoding="utf-8")


def write_csv(folder: Path, _images: pa.Table, regions: pa.Table, _about: Mapping[str, str]) -> None:
    """Write a row for each region, without its mask, to ``regions.csv``; formula-like text gets an apostrophe."""
    with (folder / "regions.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_CELLS)
        writer.writerows(map(without_formula, row.values()) for row in regions.select(_CELLS).to_pylist())


WRITERS: dict[str, Writer] = {"png": write_png, "coco": write_coco, "csv": write_csv}
