"""Images from where they were scored, as long as they are what was scored, and what their models make of them."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from nelbo.data import CHANGED, File, ImageError, InputError, Place, Preprocessing, read_metadata, read_thumbnail
from nelbo.flows.inference.engines import choose_engine
from nelbo.flows.inference.heatmap import uncover
from nelbo.flows.inference.models import load_model
from nelbo.flows.inference.pipeline import look_again
from nelbo.flows.options.options import DecodingSettings
from nelbo.flows.report.pictures import as_picture
from nelbo.flows.workspace.errors import bad_input
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.models import describe_model

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


def preprocessing_of(workspace: Workspace, model_id: str) -> Preprocessing:
    """How a model's images became its input.

    Raises:
        NotShownError: the model is gone or damaged.
    """
    try:
        return Preprocessing(**describe_model(workspace, model_id)["preprocessing"])
    except (ValueError, TypeError) as error:
        raise NotShownError(f"The model {model_id} is not in the workspace any more.") from error


def reconstruction(workspace: Workspace, model_id: str, file: File, original: Image.Image) -> Image.Image:
    """What the model makes of an image, in the image's shape. The first one of a model takes its loading, too.

    Args:
        original: the image as it is shown.

    Raises:
        NotShownError: the model is gone or damaged, its backend is not installed, it is of features, or the file has
            changed or gone.
    """
    how = preprocessing_of(workspace, model_id)
    if model_id not in workspace.model_ids():
        raise NotShownError(f"The model {model_id} is not in the workspace any more.")
    try:
        # Loaded once for all visitors, and a few at most: load_model keeps them.
        model = load_model(workspace, model_id, choose_engine(workspace, model_id, "auto"))
    except bad_input() as error:
        raise NotShownError(f"The model cannot be loaded: {error}") from error
    look = next(look_again(model, [file], _DECODING))
    if look is None:
        raise NotShownError("The file has changed or gone since it was scored.")
    if look.reconstruction is None:
        raise NotShownError("The model is of features, and reconstructs these, not the image.")
    return uncover(as_picture(look.reconstruction), original, how)
