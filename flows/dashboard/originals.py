"""Images from the place where they were scored, as long as they have not changed since."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from nelbo.data import CHANGED, File, ImageError, InputError, Place, read_metadata, read_thumbnail
from nelbo.data.area.area import Area
from nelbo.flows.inference.area.hatch import hatched
from nelbo.flows.inference.maps import parse_window
from nelbo.flows.options.settings import DecodingSettings

#: Longer side of an original as it is shown.
SIDE_PX = 1024

_DECODING = DecodingSettings(workers=1)


#: A picture, or why there is none.
Shown = Image.Image | str


def original_of(table: Place, row: Mapping[Any, Any], side_px: int = SIDE_PX, area: Area | None = None) -> Shown:
    """The image behind a row: visitors choose rows, never roots or paths.

    Args:
        table: ``scores`` or a manifest, whose metadata says where the paths of its rows start from.
        row: of this table; or of ``flagged``, which has rows of ``scores``.
        side_px: most pixels of the longer side.
        area: that the model looks at; the rest is hatched.
    """
    try:
        metadata = read_metadata(table)
        root = metadata["nelbo.root"]
    except (InputError, KeyError):
        return "The batch does not say where its files were."
    window = parse_window(metadata)
    shown = original(File(root, row["relative_path"], row["image_id"]), side_px, window and window.ends)
    return shown if isinstance(shown, str) else hatched(shown, area)


def original(file: File, side_px: int = SIDE_PX, value_range: tuple[float, float] | None = None) -> Shown:
    """An image for people to look at, upright, decoded in a separate process; or why it is not what was scored.

    Args:
        value_range: for images of more than 8 bits, the values that are shown black and white.
    """
    if file.image_id is None:
        return "The file could not be opened when the batch was scored."
    if not _is_inside(file):
        return "The file lies behind a link that leads out of its folder, and is not shown."
    try:
        return Image.open(io.BytesIO(read_thumbnail(file, side_px, _DECODING.limits, value_range)))
    except ImageError as error:
        if error.reason == CHANGED:
            return "The file has changed or gone since it was scored."
        return f"The file cannot be shown: {error.reason}."
    except (InputError, OSError):
        return "The folder or archive that the file was in cannot be opened any more."


def _is_inside(file: File) -> bool:
    """Whether a local file lies below its root after following all links; other stores have no links."""
    if "://" in file.root:
        return True
    root = Path(file.root).resolve()
    return (root / file.path).resolve().is_relative_to(root)
