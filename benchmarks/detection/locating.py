"""What finding the part is worth: rendered parts in any position, with whole images and with located parts.

    python -m benchmarks.detection.locating [--draws N] [--smoke]

prints the tables of ``docs/how-to/parts.md``: the time that finding takes; and AUROC, the share of defects found at a
false-alarm rate of 5 % and the realised rate, with ``locate`` off and on, and what ``auto`` chooses. The parts are
those of the tests.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from benchmarks.detection.results import over_seeds
from benchmarks.rates import circumstances
from benchmarks.table import heads, row

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
from parts import Scene, drawn, picture

from nelbo.data import Frame, Preprocessing, image_of
from nelbo.data.part.framing import choose_frame, learn_frame
from nelbo.data.part.part import crop, look
from nelbo.detectors import Threshold, auroc
from nelbo.detectors.interval import Interval
from nelbo.vae_core import VAEConfig, score, train
from nelbo.vae_core.config import FILTERS

N_NORMALS, N_NEW, FPR = 100, 60, 0.05
DEFECTS = ("missing", "scratch", "dent", "bent")
SIZE = {"width": 640, "height": 480}
SCENES = {
    "screw": Scene("screw", **SIZE, noise=0.02),
    "screw, shadow, uneven light": Scene("screw", **SIZE, dark=(0.35,), shadow=0.3, slope=0.2, noise=0.03),
    "screw, dark on light": Scene("screw", **SIZE, light=(0.2,), dark=(0.85,), noise=0.02),
    "key, in colour": Scene("key", **SIZE, light=(0.5, 0.3, 0.2), dark=(0.3, 0.4, 0.5), noise=0.02),
    "plate (its ends differ by a mark)": Scene("plate", **SIZE, noise=0.02),
    "rod (thin, two-fold symmetry)": Scene("rod", **SIZE, noise=0.02),
    "cross (four-fold symmetry)": Scene("cross", **SIZE, noise=0.02),
    "washer": Scene("washer", **SIZE, noise=0.02),
}


class Found(NamedTuple):
    """AUROC; shares of defective and of normal parts above the threshold."""

    auroc: Interval
    defects: float
    false_alarms: float


def judged(scene: Scene, frame: Frame | None, seed: int, n: int, side: int, backbone: str | None) -> Found:
    """Train on normal parts and score new ones, as the commands do, but without files."""
    random = np.random.default_rng(seed)
    height, width = (side, side) if frame is None else frame.crop_size(side * side)
    how = Preprocessing(height, width, len(scene.light), frame=frame)

    def rendered(n: int, defect: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        made = [image_of(picture(scene, drawn(random, scene), random, defect), how) for _ in range(n)]
        sizes = [0.0 if part is None else part.size_z for one in made for part in one.parts]
        return np.concatenate([one.pixels for one in made]), np.array(sizes)

    normals, sizes = rendered(n)
    config = VAEConfig(height=height, width=width, channels=how.channels, preset="features", backbone=backbone)
    trained = train(normals, None, config)
    limit = Threshold.from_normals(trained.unseen.anomaly_score + sizes, FPR, cross=True).value
    n_new = min(N_NEW, n)
    new, new_sizes = rendered(n_new)
    bad, bad_sizes = map(np.concatenate, zip(*(rendered(n_new // len(DEFECTS), one) for one in DEFECTS), strict=True))
    pixels, off = np.concatenate([new, bad]), np.concatenate([new_sizes, bad_sizes])
    found = score(trained.model, pixels, maps=False).anomaly_score + off
    labels = np.repeat([0, 1], [len(new), len(bad)])
    above = found > limit
    return Found(auroc(labels, found), float(above[labels == 1].mean()), float(above[labels == 0].mean()))


def table(given: argparse.Namespace) -> Iterator[str]:
    """A row for each set, with means over draws."""
    n, side, n_draws, backbone = (20, 64, 1, FILTERS) if given.smoke else (N_NORMALS, 256, given.draws, None)
    yield from heads("rendered set", "auto", "AUROC: off", "on", "found at 5 %: off", "on", "false alarms: off", "on")
    for name, scene in list(SCENES.items())[: 1 if given.smoke else None]:
        found: dict[str, list[Found]] = {"off": [], "on": []}
        for seed in range(n_draws):
            random = np.random.default_rng(1000 + seed)
            seen = [look(picture(scene, drawn(random, scene), random)) for _ in range(n)]
            frame, _ = choose_frame(seen, "auto")
            for locate in found:
                learnt = None if locate == "off" else learn_frame(seen)[0]
                found[locate].append(judged(scene, learnt, seed, n, side, backbone))
        means = [str(over_seeds([one.auroc for one in found[locate]])) for locate in found]
        shares = [
            f"{np.mean([getattr(one, share) for one in found[locate]]):.0%}"
            for share in ("defects", "false_alarms")
            for locate in found
        ]
        yield row(name, "off" if frame is None else "on", *means, *shares)


def times(n_rounds: int, n_pictures: int = 6) -> Iterator[str]:
    """Milliseconds on one core for a picture of a million pixels."""
    cv2.setNumThreads(1)
    yield from heads("1 megapixel", "ms a picture, one core")
    for name, scene in {"grey": Scene("key"), "colour": SCENES["key, in colour"]}.items():
        random = np.random.default_rng(0)
        large = replace(scene, width=1152, height=864)
        levels = [
            np.rint(picture(large, drawn(random, large), random) * 255).astype(np.uint8).squeeze()
            for _ in range(n_pictures)
        ]
        frame, _ = learn_frame([look(one) for one in levels])
        assert frame is not None
        size = frame.crop_size(256 * 256)
        ms = []
        for _ in range(n_rounds):
            started = time.perf_counter()
            for one in levels * n_rounds:
                crop(one, frame, *size)
            ms.append(1000 * (time.perf_counter() - started) / (n_rounds * len(levels)))
        yield row(name, f"{statistics.median(ms):.1f} ({min(ms):.1f}-{max(ms):.1f})")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5, metavar="N")
    parser.add_argument("--smoke", action="store_true", help="a few small parts: whether it runs, not how well")
    given = parser.parse_args()
    print(circumstances())
    for lines in (times(1, 4) if given.smoke else times(5), table(given)):
        print()
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
