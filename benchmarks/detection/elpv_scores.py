"""Scores of real images that a model has never seen, for the tests of what calibration promises.

    python -m benchmarks.detection.elpv_scores

trains the preset ``conv_1x1x16`` at 64 x 64, with its defaults, on 500 normal solar cells (ELPV), drawn by content, and
writes the statistics of all other normal and of all defective ones to ``tests/detectors/elpv_scores.parquet``: numbers
only, no pixels. The file's metadata say where they come from.
"""

import hashlib
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from nelbo.data import STATISTICS, Preprocessing, image_quality, read_images, split_by_content
from nelbo.vae_core import TrainConfig, VAEConfig, score, train

TARGET = Path(__file__).parents[2] / "tests" / "detectors" / "elpv_scores.parquet"
N_TRAIN, N_VALIDATION = 500, 75


def main() -> None:
    """Train, score, write."""
    root = Path(str(files("elpv_dataset") / "data"))
    table = pd.read_csv(root / "labels.csv", sep=r"\s+", names=["path", "probability", "type"])
    table = table[table["probability"].isin([0, 1])].reset_index(drop=True)
    content = [hashlib.sha256((root / path).read_bytes()).hexdigest() for path in table["path"]]
    table["content"], table["label"] = content, (table["probability"] == 1).astype(int)
    table = table[~table["content"].duplicated(keep=False)].reset_index(drop=True)
    pixels = read_images([root / path for path in table["path"]], Preprocessing()).pixels
    normal = table.index[table["label"] == 0]
    parts = split_by_content(
        table["content"][normal].tolist(), {"train": N_TRAIN, "validation": N_VALIDATION}, rest="test", seed=0
    )
    table.loc[normal, "part"] = parts
    table["part"] = table["part"].fillna("test")
    rows = {part: table.index[table["part"] == part].to_numpy() for part in ("train", "validation", "test")}
    trained = train(pixels[rows["train"]], pixels[rows["validation"]], VAEConfig(height=64, width=64), TrainConfig())
    unseen = pixels[rows["test"]]
    scored = score(trained.model, unseen, maps=False)
    columns = {name: getattr(scored, name) for name in STATISTICS} | image_quality(unseen)
    saved = pa.table({name: pa.array(values).cast(pa.float32()) for name, values in columns.items()})
    for name in ("label", "type"):
        saved = saved.append_column(name, pa.array(table[name][rows["test"]].tolist()))
    made_on = f"{datetime.now(UTC):%Y-%m-%d}"
    pq.write_table(saved.replace_schema_metadata(_provenance(made_on)), TARGET, compression="zstd")
    print(f"{saved.num_rows} images, {TARGET.stat().st_size / 1e3:.0f} kB, {len(trained.history['loss'])} epochs")


def _provenance(made_on: str) -> dict[str, str]:
    return {
        "made_by": f"benchmarks/detection/elpv_scores.py of nelbo {version('nelbo')}",
        "made_on": made_on,
        "images": f"elpv-dataset {version('elpv-dataset')}: cells with probability 0 or 1 of a defect, no copies",
        "model": f"conv_1x1x16, 64 x 64, trained on {N_TRAIN} normal cells, {N_VALIDATION} to stop, by content, seed 0",
    }


if __name__ == "__main__":
    main()
