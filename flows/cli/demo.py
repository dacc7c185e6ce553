"""The whole chain on real solar cells: electroluminescence images from the package ``elpv-dataset``.

The images' licence is CC BY-NC-SA 4.0. They are read where pip put them and not copied.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.model_selection import train_test_split

from nelbo.flows.options.options import DemoOptions, ScoreOptions, TrainOptions
from nelbo.flows.orchestration.execution import execute
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.layout import Workspace


def run_demo(options: DemoOptions) -> dict[str, Any]:
    """Train on normal monocrystalline cells, calibrate, and score the others; returns what the command prints."""
    root = _images()
    folder = Workspace.at(options.workspace).prepare().local / "demo"
    folder.mkdir(exist_ok=True)
    normals, cells = folder / "normals.csv", folder / "cells.csv"
    table = protocol(root / "labels.csv")
    training = table["part"] == "train"
    table.loc[training, ["path", "label"]].to_csv(normals, index=False)
    table.loc[~training, ["path", "label"]].to_csv(cells, index=False)
    training_options = TrainOptions(**options.model_dump(exclude={"prefect"}), normal=str(normals), root=str(root))
    trained = execute("train", training_options, options.prefect)
    scored = execute(
        "score",
        ScoreOptions(images=str(cells), root=str(root), workspace=options.workspace, model=trained["model_id"]),
        options.prefect,
    )
    return {"train": trained, "score": scored}


def _images() -> Path:
    try:
        return Path(str(files("elpv_dataset") / "data"))
    except ModuleNotFoundError as error:
        raise UsageError(
            "the demo's images are not installed. Get them with: pip install 'nelbo[demo]' "
            "(package elpv-dataset, licence CC BY-NC-SA 4.0)"
        ) from error


def protocol(labels: Path) -> pd.DataFrame:
    """The monocrystalline cells, with part ("train" or "test") and label.

    Cells with a defect probability of 0 are normal and those of 1 anomalous; 1/3 and 2/3 are dropped. A quarter of all
    normal cells, polycrystalline ones included, is kept for testing (random_state 42), as in the published results.

    Source: Deitsch et al. 2019, "Automatic classification of defective photovoltaic module cells in
    electroluminescence images"; the split is that of KDAD's evaluation.
    """
    table = pd.read_csv(labels, sep=r"\s+", names=["path", "probability", "type"])
    normal = table[table["probability"] == 0]
    train, _ = train_test_split(normal.index.to_numpy(), test_size=0.25, random_state=42)
    table["part"] = "test"
    table.loc[train, "part"] = "train"
    table["label"] = (table["probability"] == 1).astype(int)
    return table[(table["type"] == "mono") & table["probability"].isin([0, 1])]
