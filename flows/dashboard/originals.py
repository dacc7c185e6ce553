"""Images from where they were scored, as long as they are what was scored."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from nelbo.data import CHANGED, File, ImageError, InputError, Place, read_metadata, read_thumbnail
from nelbo.flows.options.settings import DecodingSettings

#: Longer side of what is shown of an original.
SIDE_PX = 1024

_DECODING = DecodingSettings(workers=1)


class NotShownError(ValueError):
    """A picture cannot be shown; the message says why."""


def located(table: Place, row: Mapping[Any, Any]) -> File:
    """The file of a row: a visitor chooses rows, never roots or paths.

    Args:
        table: ``scores`` or a manifest, whose metadata says where the paths of its rows start from.
        row: of it; or of ``flagged``, which has rows of ``scores``.

    Raises:
        NotShownError: the table is gone, or does not say.
    """
    try:
        root = read_metadata(table)["nelbo.root"]
    except (InputError, KeyError) as error:
        raise NotShownError("The batch does not say any more where its files were.") from error
    return File(root, row["relative_path"], row["image_id"])


def original(file: File, side_px: int = SIDE_PX) -> Image.Image:
    """An image for people to look at, upright, decoded in a process of its own.

    Raises:
        NotShownError: the file is gone, or is not what was scored, or cannot be decoded.
    """
    if file.image_id is None:
        raise NotShownError("The file could not be opened when the batch was scored.")
    if not _is_inside(file):
        raise NotShownError("The file lies behind a link that leads out of its folder, and is not shown.")
    try:
        return Image.open(io.BytesIO(read_thumbnail(file, side_px, _DECODING.limits)))
    except ImageError as error:
        if error.reason == CHANGED:
            raise NotShownError("The file has changed or gone since it was scored.") from error
        raise NotShownError(f"The file cannot be shown: {error.reason}.") from error
    except (InputError, OSError) as error:
        raise NotShownError("The folder or archive that the file was in cannot be opened any more.") from error


def _is_inside(file: File) -> bool:
    """Whether a local file lies below its root when all links are followed; those of other stores have no links."""
    if "://" in file.root:
        return True
    root = Path(file.root).resolve()
    return (root / file.path).resolve().is_relative_to(root)
