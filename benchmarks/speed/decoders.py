"""How fast libraries decode and resize images to the model's input on two cores, beside nelbo's decoders.

    python -m benchmarks.speed.decoders [--side 256] [--rounds 5] [--smoke]

prints the table of ``docs/evidence/performance.md``: images/s of nelbo's decoders, and the others as ratios to them,
measured in turn; and by how many of 255 levels their pixels differ from nelbo's on average, because a model scores the
pixels that it is given. Pictures are solar cells, enlarged with grain, in colour except for PNG, which is grey as the
cells are. Each library has two threads in this process, and does nothing of what nelbo does besides: hashing,
orientation, transparency, limits, or surviving a crash.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from benchmarks.datasets import elpv_files
from benchmarks.rates import circumstances
from benchmarks.table import heads, row
from nelbo.data import Preprocessing, read_images

#: Sides of square pictures, by their megapixels, and how many of them are decoded in a turn.
SIDES = {"0.1": (316, 96), "1": (1000, 24), "12": (3464, 4)}
FORMATS = {"PNG": "L", "JPEG": "RGB", "TIFF": "RGB", "BMP": "RGB"}
#: Number of files of each size and format; number of threads.
N_FILES, THREADS = 4, 2

Read = Callable[[Path, int], np.ndarray]


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--side", type=int, default=256)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--smoke", action="store_true", help="one small size, one round: whether it runs")
    asked = made.parse_args()
    sizes, rounds = ({"0.1": (96, 4)}, 1) if asked.smoke else (SIDES, asked.rounds)
    cv2.setNumThreads(1)
    print(f"{circumstances()}; to {asked.side} px, medians of {rounds} rounds with the range\n")
    print("\n".join(heads("format", "Mpx", "nelbo, images/s", *(f"{name} / nelbo" for name in WAYS))))
    for kind in FORMATS:
        for megapixels, (side_px, n) in sizes.items():
            with tempfile.TemporaryDirectory() as folder:
                files = written(Path(folder), kind, side_px)
                some = [files[i % len(files)] for i in range(n)]
                print(row(kind, megapixels, *beside(some, files, asked.side, rounds)), flush=True)


def written(folder: Path, kind: str, side_px: int) -> list[Path]:
    """Pictures of one format and size."""
    random = np.random.default_rng(0)
    files = []
    for i, cell in enumerate(elpv_files()[:: len(elpv_files()) // N_FILES][:N_FILES]):
        large = np.asarray(
            Image.open(cell).convert("L").resize((side_px, side_px), Image.Resampling.BICUBIC), np.float32
        )
        grain = random.normal(0, 3, large.shape) if FORMATS[kind] == "L" else random.normal(0, 3, (*large.shape, 3))
        values = (large if FORMATS[kind] == "L" else large[..., None]) + grain
        files.append(folder / f"{i}.{kind.lower()}")
        options = {"quality": 90} if kind == "JPEG" else {}
        Image.fromarray(values.round().clip(0, 255).astype(np.uint8)).save(files[-1], kind, **options)
    return files


def beside(some: Sequence[Path], files: Sequence[Path], side: int, rounds: int) -> Iterator[str]:
    """Cells of a row: nelbo's rate, and for each other library the ratio to it and how far its pixels are off."""
    wanted = Preprocessing(side, side)
    own = read_images(files, wanted).pixels[..., 0]
    ways: dict[str, Callable[[], object]] = {"nelbo": lambda: read_images(some, wanted, workers=THREADS)}
    ways |= {name: lambda read=read: threaded(read, some, side) for name, read in WAYS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name, work in ways.items():
            started = time.perf_counter()
            work()
            # The first round starts the decoders and fills caches.
            if i or rounds == 1:
                seconds[name].append(time.perf_counter() - started)
    nelbo = seconds.pop("nelbo")
    yield f"{len(some) / statistics.median(nelbo):,.0f}"
    for name, taken in seconds.items():
        ratios = [mine / its for mine, its in zip(nelbo, taken, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        off = np.mean([np.abs(WAYS[name](file, side) - 255 * mine) for file, mine in zip(files, own, strict=True)])
        yield f"{spread}, {off:.2f} off"


def threaded(read: Read, files: Sequence[Path], side: int) -> list[np.ndarray]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda file: read(file, side), files))


def by_pillow(file: Path, side: int) -> np.ndarray:
    """Pillow, which decodes a JPEG at twice the size or more, as nelbo does."""
    with Image.open(file) as image:
        image.draft(None, (2 * side, 2 * side))
        return np.asarray(image.convert("L").resize((side, side), Image.Resampling.BOX), np.float32)


def by_imagecodecs(file: Path, side: int) -> np.ndarray:
    """imagecodecs, which cannot decode a JPEG at a smaller size; Pillow resizes the pixels."""
    content = file.read_bytes()
    if file.suffix == ".tiff":
        values = tifffile.imread(io.BytesIO(content))
    else:
        decode = {".png": imagecodecs.png_decode, ".jpeg": imagecodecs.jpeg8_decode, ".bmp": imagecodecs.bmp_decode}
        values = decode[file.suffix](content)
    return np.asarray(Image.fromarray(values).convert("L").resize((side, side), Image.Resampling.BOX), np.float32)


def by_opencv(file: Path, side: int) -> np.ndarray:
    """OpenCV, which decodes all pixels."""
    return opencv_resized(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), side)


def by_opencv_reduced(file: Path, side: int) -> np.ndarray:
    """OpenCV at a half, a quarter or an eighth, where twice the size is left: it scales JPEGs, and resizes others."""
    with Image.open(file) as image:
        factor = next((factor for factor in (8, 4, 2) if min(image.size) >= factor * 2 * side), 1)
    how = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2}
    return opencv_resized(cv2.imread(str(file), how.get(factor, cv2.IMREAD_GRAYSCALE)), side)


def opencv_resized(values: np.ndarray | None, side: int) -> np.ndarray:
    assert values is not None
    return np.asarray(cv2.resize(values, (side, side), interpolation=cv2.INTER_AREA), np.float32)


WAYS: dict[str, Read] = {
    "Pillow": by_pillow,
    "imagecodecs": by_imagecodecs,
    "OpenCV": by_opencv,
    "OpenCV, reduced": by_opencv_reduced,
}

if __name__ == "__main__":
    main()
