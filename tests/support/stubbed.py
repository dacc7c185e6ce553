"""A workspace whose model is a stub: what is written of it is real, and no network is loaded."""

from pathlib import Path

from scored import MODEL, add_calibration

from data import write_json
from flows.workspace import Workspace


def stub_workspace(root: Path, fpr: float = 0.05) -> Workspace:
    """With a model that is the latest, and a calibration of it."""
    workspace = Workspace(root)
    model = root / "models" / MODEL
    write_json({"config": {}, "preprocessing": {}, "training": {"batch_id": "t0", "seen": []}}, model / "model.json")
    write_json({}, model / "checksums.json")
    workspace.promote(MODEL)
    add_calibration(workspace, fpr=fpr, review_fpr=None)
    return workspace
