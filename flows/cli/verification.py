"""``verify``: checks a model, its engines and its calibrations against their checksums and ids."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nelbo.flows.inference.models import read_bundle, verify_engine
from nelbo.flows.workspace import catalog, pointers
from nelbo.flows.workspace.calibrations.calibration import calibration_of, read_calibration
from nelbo.flows.workspace.errors import UsageError, bad_input
from nelbo.flows.workspace.layout import Workspace


def verify(workspace: Workspace, model: str) -> dict[str, Any]:
    """Check that each file is as written, that each id is the hash of its contents, and that all belong to the model.

    A damaged calibration may be any model's and therefore counts as a fault of each.

    Raises:
        UsageError: something is wrong; the message names all faults and their remedies.
    """
    model_id = catalog.find_model(workspace, model)
    faults: list[str] = []
    engines, calibrations = catalog.engines(workspace, model_id), []
    with _noted(faults):
        read_bundle(workspace.models / model_id)
    for engine in engines:
        with _noted(faults):
            verify_engine(workspace, model_id, engine)
    for name in catalog.calibration_ids(workspace):
        with _noted(faults):
            if read_calibration(workspace, name).model_id == model_id:
                calibrations.append(name)
    for precision in pointers.PRECISIONS:
        with _noted(faults):
            # The calibration in use may be gone, or another model's.
            calibration_of(workspace, model_id, precision=precision)
    if faults:
        raise UsageError(" ".join(dict.fromkeys(faults)))
    return {
        "model_id": model_id,
        "calibration_id": pointers.current_calibration(workspace, model_id),
        "calibrations": calibrations,
        "engines": engines,
        "ok": True,
    }


@contextmanager
def _noted(faults: list[str]) -> Iterator[None]:
    try:
        yield
    except bad_input() as error:
        text = str(error)
        faults.append(text if text.endswith(".") else f"{text}.")
