"""Some training images kept for comparison with flagged ones; neither the files nor the model need exist any more."""

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
from nelbo.data.area.area import Area
from nelbo.data.area.looking import looked_at
from nelbo.flows.inference.area.hatch import laid_whole
from nelbo.flows.inference.area.known import area_of_model
from nelbo.flows.inference.maps import Window, as_picture, jpeg, write_window
from nelbo.flows.report.pictures import opened
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.runs import Run
from nelbo.vae_core.pixels import to_unit

log = logging.getLogger(__name__)

#: Most images that are kept, and most pixels of their longer side.
MOST_KEPT, MOST_PX = 200, 256
_QUALITY = 80
#: Side in pixels to which pictures are reduced for comparison.
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
    area: Area | None = None,
) -> None:
    """Write thumbnails of some training images beside their model.

    Args:
        pixels: (n, h, w, c) as the model takes them.
        table: their rows of a manifest.
        seed: of the random choice.
        window: that the model's pictures are shown by; it is kept in the file's metadata.
        area: of each image that the model looks at.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(pixels))[:MOST_KEPT])
    chosen = table.select(["relative_path", "image_id"]).take(pa.array(rows))
    thumbnails = pa.array([_jpeg(to_unit(pixels[[row]])[0], window, area) for row in rows], pa.binary())
    kept = chosen.append_column("thumbnail", thumbnails).cast(NORMALS_SCHEMA)
    metadata = {**run.metadata, **write_window(window)}
    write_table(kept, workspace.normals(model_id), NORMALS_SCHEMA, metadata, workspace.staging)


def _jpeg(pixels: NDArray[np.floating[Any]], window: Window | None = None, area: Area | None = None) -> bytes:
    picture = laid_whole(as_picture(pixels, window), area)
    picture.thumbnail((MOST_PX, MOST_PX))
    return jpeg(picture, _QUALITY)


class Normals:
    """Training images of a model.

    Args:
        rows: of ``NORMALS_SCHEMA``; pictures that are damaged are left out.
        area: the part of each picture that is compared; None compares all of it.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], area: Area | None = None) -> None:
        self._area = area
        pictures = [opened(row["thumbnail"], "JPEG") for row in rows]
        # As JPEGs they take a tenth of the memory.
        self._normals = [row for row, picture in zip(rows, pictures, strict=True) if picture is not None]
        self._small = np.array([self._seen(picture) for picture in pictures if picture is not None])

    def __len__(self) -> int:
        return len(self._normals)

    def nearest(self, picture: Image.Image | None) -> Normal | None:
        """The training image most like a picture, in the picture's shape; None without a picture or training images.

        Both are squeezed into one shape, as the model sees them, and reduced to 16 x 16 means. The mean absolute
        difference is compared, not the mean square, so that a spot weighs no more than its size.

        >>> normals = Normals([{"relative_path": f"{grey}.png", "thumbnail": _jpeg(np.full((32, 32, 1), grey / 255))}
        ...                    for grey in (40, 90, 200)])
        >>> normals.nearest(Image.new("L", (60, 30), 110)).relative_path
        '90.png'
        """
        if picture is None or not len(self):
            return None
        distances = np.abs(self._small - self._seen(picture)).mean(axis=(1, 2, 3))
        row = self._normals[int(distances.argmin())]
        return Normal(row["relative_path"], Image.open(io.BytesIO(row["thumbnail"])).resize(picture.size))

    def _seen(self, picture: Image.Image) -> NDArray[np.float32]:
        return _small(picture if self._area is None else looked_at(self._area, picture.convert("RGB")))


def _small(picture: Image.Image) -> NDArray[np.float32]:
    return np.asarray(picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)


def read_normals(workspace: Workspace, model_id: str) -> Normals:
    """Training images that were kept with a model; empty where none were kept, or the file is damaged."""
    path = workspace.normals(model_id)
    try:
        return _read(path, modified(path), area_of_model(workspace, model_id))
    except FileNotFoundError:
        # The model is of an earlier version.
        return Normals([])


@lru_cache(maxsize=2)
def _read(path: Place, when: float, area: Area | None) -> Normals:  # noqa: ARG001 - a key
    """Cached, because a dashboard shows one image after the other; a damaged file is warned of only once."""
    try:
        return Normals(read_table(path, NORMALS_SCHEMA.names).to_pylist(), area)
    except (InputError, pa.ArrowException) as error:
        log.warning("%s (%s): flagged images are shown without a normal one", path, error)
        return Normals([])
