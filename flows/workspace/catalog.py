"""What a workspace holds."""

from typing import Any

import pyarrow.compute as pc

from nelbo.data import read_table
from nelbo.flows.workspace.layout import Workspace
from nelbo.flows.workspace.models import describe_model


def models(workspace: Workspace) -> list[dict[str, Any]]:
    """Each model: id, sizes, whether it is latest, its current calibration."""
    latest = workspace.promoted()
    rows = []
    for model_id in workspace.model_ids():
        description = describe_model(workspace, model_id)
        config, training = description["config"], description["training"]
        rows.append(
            {
                "model_id": model_id,
                "latest": model_id == latest,
                "calibration_id": workspace.calibration(model_id),
                "preset": config["preset"],
                "image_size": f"{config['height']}x{config['width']}x{config['channels']}",
                "statistic": config["statistic"],
                "n_train": training.get("n_train"),
                "engines": ",".join(workspace.engines(model_id)),
            }
        )
    return rows


def batches(workspace: Workspace) -> list[dict[str, Any]]:
    """Each scored batch under each model: counts and when; the newest last."""
    rows = []
    for path in (workspace.root / "scores").glob("model_id=*/batch_id=*/scores.parquet"):
        table = read_table(path, ["verdict", "scored_at_utc"])
        verdicts = table["verdict"]
        rows.append(
            {
                "batch_id": path.parent.name.removeprefix("batch_id="),
                "model_id": path.parent.parent.name.removeprefix("model_id="),
                "n_images": len(verdicts),
                "n_anomalous": _count(verdicts, "anomalous"),
                "n_review": _count(verdicts, "review"),
                "n_not_scored": _count(verdicts, "not_scored"),
                "scored_at_utc": f"{pc.max(table['scored_at_utc']).as_py():%Y-%m-%dT%H:%M:%SZ}",
            }
        )
    return sorted(rows, key=lambda row: row["scored_at_utc"])


def _count(verdicts: Any, word: str) -> int:
    return int(pc.sum(pc.equal(verdicts.cast("string"), word)).as_py() or 0)
