"""This machine's ceilings: matrix products, memory copies, decoding, writing Parquet.

    python -m benchmarks.speed.limits

prints the table of ``docs/evidence/benchmarks.md``. Other benchmarks import `matrix_ceiling` and `decoding`, and state
their own speed as a share of these ceilings, measured in the same run.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.datasets import elpv_files
from benchmarks.rates import REPEATS, Rate, circumstances, measure
from nelbo.data import SCORES_SCHEMA, Preprocessing, read_images, write_table

MATRIX_SIDES = (1024, 2048, 3072, 4096)
IMAGE_SIDES = (64, 128, 256)
#: If a library takes longer than this for one product, larger ones are not tried.
PATIENCE_S = 2.0

#: Precision and side of two square matrices -> a function that multiplies them; None where it cannot.
Product = Callable[[str, int], Callable[[], object] | None]


class Ceiling(NamedTuple):
    """FLOP/s of a library's fastest matrix product, and the side of its matrices."""

    flops: Rate
    library: str
    side: int


def matrix_ceiling(precision: str, sides: Sequence[int] = MATRIX_SIDES, repeats: int = REPEATS) -> Ceiling | None:
    """The fastest product of all libraries; None where none computes in this precision."""
    return max(matrix_ceilings(precision, sides, repeats), default=None)


def matrix_ceilings(precision: str, sides: Sequence[int] = MATRIX_SIDES, repeats: int = REPEATS) -> list[Ceiling]:
    """The fastest product of each library that is installed and computes in this precision."""
    found = []
    for library, product in PRODUCTS.items():
        measured = []
        for side in sides:
            try:
                multiply = product(precision, side)
            except ModuleNotFoundError:
                break
            if multiply is None:
                break
            measured.append(Ceiling(measure(multiply, 2 * side**3, repeats), library, side))
            if 2 * side**3 / measured[-1].flops.median > PATIENCE_S:
                break
        found += [max(measured)] if measured else []
    return found


def numpy_product(precision: str, side: int) -> Callable[[], object] | None:
    if precision != "float32":
        return None
    matrix, result = _matrix(side), np.empty((side, side), np.float32)
    return lambda: np.matmul(matrix, matrix, out=result)


def tensorflow_product(precision: str, side: int) -> Callable[[], object]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    matrix = tf.cast(_matrix(side), precision)
    return lambda: tf.linalg.matmul(matrix, matrix)


def openvino_product(precision: str, side: int) -> Callable[[], object] | None:
    import openvino
    from openvino import opset15

    core = openvino.Core()
    # OpenVINO computes bfloat16 silently in float32 where the processor has no units for it.
    if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return None
    # The second matrix is a constant, as weights are, so OpenVINO may prepare its layout.
    matrix, parameter = _matrix(side), opset15.parameter([side, side], np.float32)
    model = openvino.Model([opset15.matmul(parameter, matrix, False, False)], [parameter])
    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    request = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint}).create_infer_request()
    request.set_input_tensor(openvino.Tensor(matrix))
    return request.infer


PRODUCTS: dict[str, Product] = {
    "NumPy": numpy_product,
    "TensorFlow": tensorflow_product,
    "OpenVINO": openvino_product,
}


def memory_copy(mib: int, repeats: int = REPEATS) -> Rate:
    """Bytes copied a second from one array to another, with a thread for each core; each byte is read and written."""
    cores = len(os.sched_getaffinity(0))
    source = np.ones((cores, (mib << 20) // cores), np.uint8)
    target = np.empty_like(source)
    with ThreadPoolExecutor(cores) as pool:
        return measure(lambda: list(pool.map(np.copyto, target, source)), source.nbytes, repeats)


def decoding(side: int, paths: Sequence[Path] | None = None, repeats: int = REPEATS) -> Rate:
    """Solar cells (ELPV, PNG of 300 x 300 pixels) decoded and resized a second, with a decoder for each core."""
    paths = elpv_files() if paths is None else paths
    return measure(lambda: read_images(paths, Preprocessing(side, side)), len(paths), repeats)


def parquet_writing(n_rows: int, repeats: int = REPEATS) -> Rate:
    """Rows of scores a second, written to a file that is on the disk when its writer returns."""
    table = _score_rows(n_rows)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "scores.parquet"
        return measure(lambda: write_table(table, target, SCORES_SCHEMA), n_rows, repeats)


def _matrix(side: int) -> np.ndarray:
    return np.random.default_rng(0).random((side, side), np.float32)


def _score_rows(n: int) -> pa.Table:
    """Rows of scores: random numbers, paths and hashes, which compress no better than real ones, and repeated words."""
    random = np.random.default_rng(0)
    repeated = {
        "verdict": "normal",
        "statistic": "peak",
        "likelihood": "gaussian_learned_sigma",
        "engine": "keras",
        "label": -1,
        "width_px": 300,
        "height_px": 300,
        "scored_at_utc": datetime.now(UTC),
        "run_id": "r20261126T030000-0123abcd",
        "calibration_id": "c0123456789abcdef",
    }
    columns = {
        field.name: random.normal(size=n) if field.type == pa.float64() else [repeated.get(field.name)] * n
        for field in SCORES_SCHEMA
    }
    columns["relative_path"] = [f"line-{i % 4}/{i:07d}.png" for i in range(n)]
    columns["image_id"] = [random.bytes(32).hex() for _ in range(n)]
    return pa.table([pa.array(columns[field.name], field.type) for field in SCORES_SCHEMA], SCORES_SCHEMA)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round: whether it runs, not how fast")
    smoke = parser.parse_args().smoke
    repeats = 1 if smoke else REPEATS
    print(f"{circumstances()}; medians of {repeats} rounds, the range in brackets\n")
    print("| ceiling | | of |\n|---|---|---|")
    for precision in ("float32", "bfloat16"):
        ceilings = matrix_ceilings(precision, (64,) if smoke else MATRIX_SIDES, repeats)
        for flops, library, side in ceilings:
            size = f"{side:,} x {side:,}"
            print(f"| matrix product, {precision} | {flops / 1e12:.3f} TFLOP/s | {library}, {size} |", flush=True)
    mib = 16 if smoke else 512
    print(f"| memory copy | {memory_copy(mib, repeats) / 1e9:.1f} GB/s | {mib:,} MiB |", flush=True)
    paths = elpv_files()[: 32 if smoke else None]
    for side in (64,) if smoke else IMAGE_SIDES:
        rate = decoding(side, paths, repeats)
        print(f"| decoding | {rate:,.0f} images/s | {len(paths):,} solar cells to {side} px |", flush=True)
    n_rows = 1_000 if smoke else 200_000
    print(f"| writing Parquet | {parquet_writing(n_rows, repeats):,.0f} rows/s | {n_rows:,} rows of scores |")


if __name__ == "__main__":
    main()
