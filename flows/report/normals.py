"""Some of a model's training images, to stand beside flagged ones: neither these images nor the model need be there."""

import io
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from nelbo.data import NORMALS_SCHEMA, CachedPixels, InputError, Place, modified, read_table, write_table
from nelbo.flows.inference.maps import Window, as_picture, jpeg, write_window
from nelbo.flows.report.pictures import opened
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run
from nelbo.vae_core.pixels import to_unit

log = logging.getLogger(__name__)

#: Images that are kept, and pixels of their longer side at most.
MOST_KEPT, MOST_PX = 200, 256
_QUALITY = 80
#: Pixels of a side that pictures are compared by.
_SIDE = 16


class Normal(NamedTuple):
    """A training image."""

    relative_path: str
    picture: Image.Image


def keep_normals(
    pixels: CachedPixels,
    table: pa.Table,
    seed: int,
    workspace: Workspace,
    model_id: str,
    run: Run,
    window: Window | None = None,
) -> None:
    """Put some of the images that a model was trained on beside it.

    Args:
        pixels: (n, h, w, c) as the model takes them.
        table: their rows of a manifest.
        seed: of the choice.
        window: that all pictures of the model are shown by; it is kept in the file's metadata.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(pixels))[:MOST_KEPT])
    chosen = table.select(["relative_path", "image_id"]).take(pa.array(rows))
    thumbnails = pa.array([_jpeg(to_unit(pixels[[row]])[0], window) for row in rows], pa.binary())
    kept = chosen.append_column("thumbnail", thumbnails).cast(NORMALS_SCHEMA)
    metadata = {**run.metadata, **write_window(window)}
    write_table(kept, workspace.normals(model_id), NORMALS_SCHEMA, metadata, workspace.staging)


def _jpeg(pixels: NDArray[np.floating[Any]], window: Window | None = None) -> bytes:
    picture = as_picture(pixels, window)
    picture.thumbnail((MOST_PX, MOST_PX))
    return jpeg(picture, _QUALITY)


class Normals:
    """Training images of a model.

    Args:
        rows: of ``NORMALS_SCHEMA``; pictures that are damaged are left out.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        pictures = [opened(row["thumbnail"], "JPEG") for row in rows]
        # As JPEGs they take a tenth of the memory.
        self._normals = [row for row, picture in zip(rows, pictures, strict=True) if picture is not None]
        self._small = np.array([_small(picture) for picture in pictures if picture is not None])

    def __len__(self) -> int:
        return len(self._normals)

    def nearest(self, picture: Image.Image | None) -> Normal | None:
        """The one that looks most like a picture, in the picture's shape; None where there is none of one of them.

        Compared are 16 x 16 means of each, as the model sees them: squeezed into one shape. Of their differences the
        mean counts and not the mean square, so that a spot weighs no more than its size.

        >>> normals = Normals([{"relative_path": f"{grey}.png", "thumbnail": _jpeg(np.full((32, 32, 1), grey / 255))}
        ...                    for grey in (40, 90, 200)])
        >>> normals.nearest(Image.new("L", (60, 30), 110)).relative_path
        '90.png'
        """
        if picture is None or not len(self):
            return None
        distances = np.abs(self._small - _small(picture)).mean(axis=(1, 2, 3))
        row = self._normals[int(distances.argmin())]
        return Normal(row["relative_path"], Image.open(io.BytesIO(row["thumbnail"])).resize(picture.size))


def _small(picture: Image.Image) -> NDArray[np.float32]:
    return np.asarray(picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)


def read_normals(workspace: Workspace, model_id: str) -> Normals:
    """Training images that were kept with a model: none where none were, or they are damaged."""
    path = workspace.normals(model_id)
    try:
        return _read(path, modified(path))
    except FileNotFoundError:
        # Of a model of an earlier version.
        return Normals([])


@lru_cache(maxsize=2)
def _read(path: Place, when: float) -> Normals:  # noqa: ARG001 - a key
    """Kept, because a dashboard shows one image after the other; of a damaged file it is said once, too."""
    try:
        return Normals(read_table(path, NORMALS_SCHEMA.names).to_pylist())
    except (InputError, pa.ArrowException) as error:
        log.warning("%s (%s): no normal image stands beside flagged ones", path, error)
        return Normals([])
