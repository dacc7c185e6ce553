"""What a workspace holds, and whether this machine can run nelbo."""

import importlib.util
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from data import read_table
from flows.errors import UsageError
from flows.models import describe_model, import_keras, read_bundle, read_engine
from flows.run import code_version
from flows.workspace import Workspace
from vae_core import ENGINES, is_installed

_PACKAGES = (
    "keras",
    "tensorflow",
    "tensorflow-cpu",
    "jax",
    "openvino",
    "onnxruntime",
    "prefect",
    "scikit-learn",
    "pandas",
    "pyarrow",
    "pillow",
)


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


def verify(workspace: Workspace, model: str) -> dict[str, Any]:
    """Check a model's bundle, its current calibration and its engines; the errors say what is damaged."""
    from flows.calibrations import read_calibration

    model_id = workspace.model(model)
    read_bundle(workspace.models / model_id)
    calibration_id = workspace.calibration(model_id)
    if calibration_id is not None:
        read_calibration(workspace, calibration_id)
    engines = workspace.engines(model_id)
    for engine in engines:
        read_engine(workspace.engine(model_id, engine))
    return {"model_id": model_id, "calibration_id": calibration_id, "engines": engines, "ok": True}


def doctor(workspace: Workspace, prefect_api: str | None) -> dict[str, Any]:
    """Versions, devices, engines, Prefect, workspace; and what is missing with its remedy."""
    packages = {name: _version(name) for name in _PACKAGES}
    missing = []
    backend, devices = None, []
    if packages["tensorflow"] is None and packages["tensorflow-cpu"] is None:
        missing.append("TensorFlow: pip install 'nelbo[cpu]', or 'nelbo[gpu]' with an NVIDIA GPU")
    else:
        import_keras()
        import keras

        backend, devices = keras.backend.backend(), list(keras.distribution.list_devices())
        devices = devices or ["cpu"]
    if importlib.util.find_spec("elpv_dataset") is None:
        missing.append("the demo's images: pip install 'nelbo[demo]'")
    return {
        "nelbo": code_version(),
        "python": platform.python_version(),
        "packages": packages,
        "backend": backend,
        "devices": devices,
        "engines": [name for name in ENGINES if (backend if name == "keras" else is_installed(name))],
        "prefect_api": prefect_api,
        "workspace": str(workspace.root),
        "workspace_writable": _writable(workspace),
        "missing": missing,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _writable(workspace: Workspace) -> bool:
    """Whether files could be made there, or the folder itself in the nearest one that exists."""
    folder = workspace.root
    if not isinstance(folder, Path):
        try:
            workspace.prepare()
        except UsageError:
            return False
        return True
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK)
