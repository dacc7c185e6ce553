"""anomalib's detectors in their own environment: learns from a folder of images, then scores a folder round by round.

    python from_files.py MODEL ROAD NORMAL IMAGES ROUNDS

MODEL is ``Padim`` or ``Patchcore``. ROAD is ``torch`` (``Engine.predict`` in batches of 32), ``openvino`` (an exported
model and ``OpenVINOInferencer``) or ``int8`` (the same, quantised by NNCF on the normal images). Prints one JSON line:
the seconds of each round, from files on disk to scores in memory.

The backbones have random weights, because their own would have to be downloaded: they take the same time.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anomalib.data import Folder, PredictDataset
from anomalib.deploy import CompressionType, ExportType, OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.models import Padim, Patchcore

SIDE = 256
MODELS = {"Padim": Padim, "Patchcore": Patchcore}


def learnt(name: str, normal: Path, aside: Path) -> tuple[Any, Engine, Folder]:
    """A model with anomalib's defaults that has learnt from the images, without pictures and figures of its own."""
    data = Folder("cells", normal_dir=normal, test_split_mode="synthetic", val_split_mode="synthetic", num_workers=0)
    model = MODELS[name](pre_trained=False, visualizer=False, evaluator=False)
    engine = Engine(accelerator="cpu", devices=1, default_root_dir=aside, logger=False, enable_progress_bar=False)
    engine.fit(model, datamodule=data)
    return model, engine, data


def road(way: str, model: Any, engine: Engine, data: Folder, aside: Path) -> Callable[[Path], int]:
    """A function that scores the images of a folder and returns their number."""
    if way == "torch":
        return lambda images: sum(
            len(batch.pred_score) for batch in engine.predict(model, dataset=PredictDataset(images, image_size=SIDE))
        )
    compression = CompressionType.INT8_PTQ if way == "int8" else None
    exported = engine.export(model, ExportType.OPENVINO, aside, compression_type=compression, datamodule=data)
    inferencer = OpenVINOInferencer(exported, device="CPU")
    return lambda images: len([inferencer.predict(path).pred_score for path in sorted(images.rglob("*.png"))])


def main() -> None:
    name, way, normal, images, rounds = sys.argv[1:]
    with tempfile.TemporaryDirectory() as aside:
        score = road(way, *learnt(name, Path(normal), Path(aside)), Path(aside))
        seconds = []
        for _ in range(int(rounds)):
            started = time.perf_counter()
            n = score(Path(images))
            seconds.append(time.perf_counter() - started)
    print(json.dumps({"n": n, "seconds": seconds}))


if __name__ == "__main__":
    main()
