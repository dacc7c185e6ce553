"""The area that a workspace's model looks at, read without loading the model."""

from functools import lru_cache

from nelbo.data import modified
from nelbo.data.area.area import Area
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.models import describe_model


def area_of_model(workspace: Workspace, model_id: str) -> Area | None:
    """The area of each image that a model looks at; None where that is all of it, or the model cannot be read."""
    try:
        return _area(workspace, model_id, modified(workspace.models / model_id / "model.json"))
    except (FileNotFoundError, UsageError, TypeError, ValueError):
        # Pictures are shown without the area. Using the model says what is damaged.
        return None


@lru_cache(maxsize=4)
def _area(workspace: Workspace, model_id: str, when: float) -> Area | None:  # noqa: ARG001 - a key
    fields = describe_model(workspace, model_id)["preprocessing"].get("area")
    return None if fields is None else Area(**fields)
