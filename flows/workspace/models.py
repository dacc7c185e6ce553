"""Descriptions of models, read without loading a model."""

import json
import logging
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nelbo.data import InputError
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.tables import without

log = logging.getLogger(__name__)

#: Hex digits of an image's content hash by which a model remembers the images that it has seen.
SEEN_DIGITS = 16


def describe_model(workspace: Workspace, model_id: str) -> dict[str, Any]:
    """A model's ``model.json``, read without loading the model or its backend."""
    path = workspace.models / model_id / "model.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        found = {name: description[name] for name in ("config", "preprocessing", "training")}
        if not all(isinstance(part, dict) for part in found.values()):
            raise TypeError(f"{', '.join(found)} are not all objects")
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is damaged ({error!r}). Restore it from a copy, or delete the folder and train again."
        ) from error


def seen_in_training(workspace: Workspace, model_id: str) -> set[str]:
    """Beginnings of the content hashes of the images that the model was trained or stopped on."""
    there = (workspace.models / model_id / "model.json").exists()
    seen = describe_model(workspace, model_id)["training"].get("seen") if there else None
    if seen is None:
        what = "does not say" if there else "is no longer in the workspace to say"
        log.warning("%s %s what it was trained on: overlap with those images is not checked", model_id, what)
    return set(seen or ())


def unseen_in_training(table: pa.Table, workspace: Workspace, model_id: str) -> pa.Table:
    """The rows of images on which the model may be judged: it was neither trained nor stopped on them."""
    seen = pa.array(seen_in_training(workspace, model_id), pa.string())
    return table.filter(pc.invert(pc.is_in(pc.utf8_slice_codeunits(table["image_id"], 0, SEEN_DIGITS), seen)))


def check_unseen(what: str, table: pa.Table, workspace: Workspace, model_id: str, remedy: str) -> None:
    """Refuse images that choose a threshold for a model that was trained on them.

    Raises:
        InputError: there are such images; the message has their number, the first one, and the remedy.
    """
    seen = without(table, unseen_in_training(table, workspace, model_id))
    if seen.num_rows:
        raise InputError(
            f"{seen.num_rows} of {table.num_rows} {what} were trained on (first: {seen['relative_path'][0]}), so their "
            f"scores are lower than those of others. {remedy}"
        )
