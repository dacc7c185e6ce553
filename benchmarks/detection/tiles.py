"""What tiles are worth: defects of 12 x 12 pixels on images of 4,096 x 4,096, with whole images and with tiles.

    python -m benchmarks.detection.tiles [--side PX] [--train N] [--test N] [--smoke]

prints the tables of ``docs/how-to/tiles.md``: AUROC and the share of defects found at a false-alarm rate of 5 %, by
contrast; and how many pixels a second are scored, beside the network alone. The images are synthetic: a texture, and
aligned boards.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from benchmarks.rates import circumstances, measure
from benchmarks.table import heads, row
from nelbo.data import Preprocessing, image_of
from nelbo.detectors import auroc, conformal_threshold
from nelbo.vae_core import VAEConfig, score_tiles, train, train_tiles
from nelbo.vae_core.engines.fast import fast_graph, fast_scorer
from nelbo.vae_core.scoring import run_batches
from nelbo.vae_core.tiles.grid import Cut, Grid
from nelbo.vae_core.tiles.scoring import LookedAt

#: Sides of a defect and of a tile in pixels, and how many pixels neighbouring tiles share.
DEFECT, TILE, OVERLAP = 12, 256, 32
FPR = 0.05

Image = np.ndarray


def texture(seed: int, side: int) -> Image:
    """A rough surface: grain of a few pixels, and noise."""
    random = np.random.default_rng(seed)
    grain = cv2.GaussianBlur(random.standard_normal((side, side), np.float32), (0, 0), 2)
    values = 128 + 25 * grain / grain.std() + 3 * random.standard_normal((side, side), np.float32)
    return np.clip(values, 0, 255).astype(np.uint8)


def board(seed: int, side: int) -> Image:
    """The same parts at the same places up to two pixels, with varying light and noise."""
    layout, random = np.random.default_rng(0), np.random.default_rng(seed)
    values = np.full((side, side), 90.0, np.float32)
    for _ in range(side * side // 10_000):
        top, left = layout.integers(0, side, 2)
        height, width = layout.integers(10, 120, 2)
        values[top : top + height, left : left + width] = layout.integers(30, 220)
    values = np.roll(values, tuple(random.integers(-2, 3, 2)), (0, 1))
    values = cv2.GaussianBlur(values, (0, 0), 1) * random.uniform(0.95, 1.05)
    return np.clip(values + 4 * random.standard_normal((side, side), np.float32), 0, 255).astype(np.uint8)


#: How images are made, and how much brighter their defects are, in grey levels.
SCENES: dict[str, tuple[Callable[[int, int], Image], tuple[int, ...]]] = {
    "texture": (texture, (40, 70, 110)),
    "aligned boards": (board, (20, 40, 80)),
}


def with_defect(image: Image, contrast: int, seed: int) -> Image:
    """The image with one square defect at a random place."""
    random, found = np.random.default_rng(seed), image.copy()
    top, left = random.integers(0, len(image) - DEFECT, 2)
    spot = found[top : top + DEFECT, left : left + DEFECT].astype(int)
    # The defect changes towards the middle of the range, so that it is visible on bright parts, too.
    changed = spot + (contrast if spot.mean() < 128 else -contrast)
    found[top : top + DEFECT, left : left + DEFECT] = np.clip(changed, 0, 255)
    return found


def changed(image: Image, version: Image) -> tuple[int, int, int, int]:
    """Upper, left, lower and right edge of the place where two versions of an image differ."""
    rows, columns = np.nonzero(image != version)
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def small(image: Image) -> np.ndarray:
    """The image (1, 256, 256, 1) as a model without tiles takes it."""
    return image_of(image, Preprocessing(TILE, TILE)).pixels


def judged(name: str, side: int, n_train: int, n_test: int) -> Iterator[list[str]]:
    """Rows of the table of one kind of images."""
    make, contrasts = SCENES[name]
    normals = range(n_train)
    tiled = train_tiles(
        (make(seed, side) for seed in normals),
        VAEConfig(TILE, TILE, tile_overlap=OVERLAP),
        preprocessing=Preprocessing(TILE, TILE, tile_scale=1.0).to_dict(),
        folds=[seed % 5 for seed in normals],
    )
    plain = train(np.concatenate([small(make(seed, side)) for seed in normals]), config=VAEConfig(TILE, TILE))
    graph, whole = fast_graph(tiled.model), fast_scorer(plain.model)
    unseen: dict[str, Any] = {"whole": plain.unseen, "tiles": tiled.unseen}
    limits = {way: conformal_threshold(found.anomaly_score, FPR) for way, found in unseen.items()}
    found: dict[Any, list[float]] = {}
    for seed in range(10_000, 10_000 + 2 * n_test):
        image = make(seed, side)
        looked = LookedAt(tiled.model, image, graph)
        # Half of the new images stay normal. For the others only the tiles with the defect are computed again.
        versions = {0: image} if seed % 2 else {one: with_defect(image, one, seed) for one in contrasts}
        for contrast, version in versions.items():
            score = looked.score_changed(version, changed(image, version)) if contrast else looked.score()
            found.setdefault(("tiles", contrast), []).append(float(score.anomaly_score[0]))
            found.setdefault(("whole", contrast), []).append(float(whole(small(version)).anomaly_score[0]))
    for contrast in contrasts:
        cells = [name, str(contrast)]
        for way in unseen:
            normal, broken = found[way, 0], found[way, contrast]
            labels = [0] * len(normal) + [1] * len(broken)
            share = np.mean(np.array(broken) > limits[way])
            cells += [str(auroc(labels, normal + broken)), f"{share:.0%}"]
        alarms = np.mean(np.array(found["tiles", 0]) > limits["tiles"])
        yield [*cells, f"{alarms:.0%}"]
    yield [name, tiled.model.config.subject or "", *speeds(tiled.model, graph, make(99, side))]


def speeds(model: Any, graph: Any, image: Image) -> list[str]:
    """Megapixels of tiles a second of the graph alone and of the whole scoring, and the ratio of their times."""
    grid = Grid(image.shape, TILE, OVERLAP)
    cut = Cut(image, grid, TILE, 1)
    tiles = cut[:]
    amount = tiles.size / 1e6
    alone = measure(lambda: run_batches(graph, tiles, lambda _: False), amount, repeats=3)
    whole = measure(lambda: score_tiles(model, [image], graph), amount, repeats=3)
    return [f"{alone:.1f}", f"{whole:.1f}", f"{alone.median / whole.median:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--train", type=int, default=40)
    parser.add_argument("--test", type=int, default=20)
    parser.add_argument("--scenes", nargs="+", default=list(SCENES))
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    side, n_train, n_test = (600, 20, 2) if asked.smoke else (asked.side, asked.train, asked.test)
    print(
        f"{circumstances()}; {side} x {side} px, {n_train} to learn from, {n_test} normal and {n_test} with a defect\n"
    )
    print(*heads("images", "contrast", "AUROC whole", "found", "AUROC tiles", "found", "false alarms"), sep="\n")
    for name in asked.scenes:
        started = time.perf_counter()
        for cells in judged(name, side, n_train, n_test):
            print(row(*cells), flush=True)
        print(f"{name}: {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
