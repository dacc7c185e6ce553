"""How well nelbo sees real defects, beside simple baselines and published results.

    python -m benchmarks.detection.quality [--results DIR] [--mtd DIR] [--sets ELPV "MTD by tile" ...] [--seeds 0 1 2]

trains from raw files and prints the tables of ``docs/evidence/benchmarks.md``. DIR keeps each trained model, and its
figures in ``quality.csv``, so nothing is computed twice: a stopped run continues, and sets with the same normal images
share their models. With ``docs/evidence/quality.csv`` in DIR only unpublished figures need training. ``--mtd`` names
the folder of the magnetic tiles. Missing sets are left out.

All sets share one configuration, except for the size of the input. ``docs/evidence/experiments.md`` says how it was
found.
"""

import argparse
import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks.datasets import (
    FASHION_MNIST,
    Dataset,
    elpv,
    fashion_mnist,
    kinds,
    mtd,
    mtd_by_tile,
    outside_fashion_mnist,
    scratched_elpv,
)
from benchmarks.detection.baselines import BASELINES
from benchmarks.detection.results import AUPRO, PIXEL_AUROC, Outcome, Results, classes_table, tables
from benchmarks.rates import circumstances
from nelbo.data import folds
from nelbo.detectors import aupro, auroc, pixel_auroc
from nelbo.detectors.interval import Interval
from nelbo.vae_core import (
    N_FOLDS,
    Model,
    TrainConfig,
    VAEConfig,
    export,
    is_installed,
    load_bundle,
    save_bundle,
    score,
    train,
)
from nelbo.vae_core.pixels import fingerprint

Run = Callable[[Dataset, int, Path], Outcome]

SEEDS = (0, 1, 2)
_ENGINE = "openvino"


class Detector(NamedTuple):
    """A row of the tables, or two.

    run: a set, a seed and the folder of trained models -> the outcome.
    side: the name of a set -> the side of the detector's input in pixels.
    seeds: whether the outcome depends on the seed.
    """

    run: Run
    side: Callable[[str], int]
    seeds: bool = True


class Nelbo:
    """nelbo with its defaults, except for the given configuration; OpenVINO scores where it is installed.

    Args:
        smoke: train hardly at all, and export nothing.
        config: fields of the network's configuration.
    """

    def __init__(self, *, smoke: bool, **config: Any) -> None:
        self.smoke, self.config = smoke, config
        self.settings: dict[str, Any] = {"pretext_steps": 2, "epochs": 1} if smoke else {}

    def model(self, data: Dataset, seed: int, models: Path) -> tuple[Model, float]:
        """A model of a set's normal images, and its training time in seconds; see `trained`."""
        height, width = data.train.shape[1:3]
        config, settings = VAEConfig(height=height, width=width, **self.config), TrainConfig(seed=seed, **self.settings)
        return trained(data, config, settings, models)

    def __call__(self, data: Dataset, seed: int, models: Path) -> Outcome:
        """The outcome on a set."""
        model: Any
        model, fit_s = self.model(data, seed, models)
        if not self.smoke and is_installed(_ENGINE):
            model = export(model, _ENGINE, data.validation[:8], model_id="quality")
        started = time.perf_counter()
        some = score(model, data.test[:200], maps=False)
        rate = len(some.nelbo) / (time.perf_counter() - started)
        found = score(model, data.test, maps=False)
        scores = {name: getattr(found, name) for name in ("peak", "nelbo")}
        if found.peak_z is not None:
            scores = {"joint": np.sum([found.peak_z, found.worst_z, found.mean_z], axis=0)} | scores
        return Outcome(aurocs(data, scores) | _of_pixels(model, data), fit_s, rate)


def trained(data: Dataset, config: VAEConfig, settings: TrainConfig, models: Path) -> tuple[Model, float]:
    """A model of a set's normal images, trained unless the folder has it; and its training time in seconds."""
    facts = [config.to_dict(), settings.to_dict(), fingerprint(data.train), fingerprint(data.validation)]
    models.mkdir(exist_ok=True)
    note = models / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}.json"
    if not note.exists():
        started = time.perf_counter()
        model = train(data.train, data.validation, config, settings, folds=_folds(data)).model
        fit_s = time.perf_counter() - started
        note.write_text(json.dumps([save_bundle(model, models), fit_s]), encoding="utf-8")
    model_id, fit_s = json.loads(note.read_text(encoding="utf-8"))
    return load_bundle(models / model_id), fit_s


def _folds(data: Dataset) -> list[int] | None:
    """The fold of each normal image; views of one part share a fold. None where each image shows another part."""
    if data.views is None:
        return None
    return folds([str(i) for i in range(len(data.views))], data.views.tolist(), N_FOLDS, seed=0)


def peaks_and_maps(model: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Peaks (n,) and maps (n, h, w), computed a few images at a time because scores hold further maps."""
    parts = [score(model, images[start : start + 64]) for start in range(0, len(images), 64)]
    return np.concatenate([part.peak for part in parts]), np.concatenate([part.local_z for part in parts])


def aurocs(data: Dataset, scores: dict[str, np.ndarray]) -> dict[tuple[str, str], Interval]:
    """The AUROC over all test images and over each kind, by statistic."""
    return {
        (statistic, of): auroc(data.labels[rows], values[rows])
        for statistic, values in scores.items()
        for of, rows in kinds(data)
    }


def _of_pixels(model: Any, data: Dataset) -> dict[tuple[str, str], Interval]:
    """AUROC and AUPRO of the pixels of all test images, and AUROC of each kind of defect with the normal images."""
    if data.masks is None:
        return {}
    _, maps = peaks_and_maps(model, data.test)
    found = {(PIXEL_AUROC, of): pixel_auroc(data.masks[rows], maps[rows]) for of, rows in kinds(data)}
    return found | {(AUPRO, "all"): aupro(data.masks, maps)}


def baseline(name: str) -> Run:
    """A classical method; validation images are learnt from, too."""

    def run(data: Dataset, seed: int, models: Path) -> Outcome:  # noqa: ARG001 - only nelbo's models are kept
        detector = BASELINES[name](data.train.shape[1], seed)
        started = time.perf_counter()
        detector.fit(np.concatenate([data.train, data.validation]))
        fit_s = time.perf_counter() - started
        started = time.perf_counter()
        found = detector.score(data.test)
        rate = len(found) / (time.perf_counter() - started)
        return Outcome(aurocs(data, {"": found}), fit_s, rate)

    return run


def size(data: Dataset, seed: int, models: Path) -> Outcome:  # noqa: ARG001 - as any other
    """Scores by the number of an image's original pixels."""
    areas = np.zeros(len(data.labels)) if data.areas is None else data.areas
    return Outcome(aurocs(data, {"": areas}), 0.0, math.inf)


def detectors(smoke: bool) -> dict[str, Detector]:
    """Detectors by the names of their rows."""

    def side(photos: int, clothes: int) -> Callable[[str], int]:
        return lambda name: 64 if smoke else clothes if "Fashion-MNIST" in name else photos

    kinds_of_features = {
        "nelbo": {},
        "nelbo, linear_image": {"head": "linear_image"},
        "nelbo, filters": {"backbone": "filters"},
        # As nelbo 0.1 was.
        "nelbo, features": {"backbone": "self_trained", "head": "deep", "statistic": "peak"},
        "nelbo, features of ImageNet": {"backbone": "efficientnet_lite0", "head": "deep", "statistic": "peak"},
    }
    found = {
        name: Detector(
            Nelbo(smoke=smoke, preset="features", **config), side(256, 64), seeds=config.get("head") == "deep"
        )
        for name, config in kinds_of_features.items()
    }
    found["nelbo, conv_1x1x16"] = Detector(Nelbo(smoke=smoke, preset="conv_1x1x16"), side(64, 28))
    for name in BASELINES:
        found[name] = Detector(baseline(name), side(64, 28), name == "IsolationForest")
    return found | {"size": Detector(size, side(64, 28), seeds=False)}


def sets(mtd_root: Path | None, smoke: bool) -> dict[str, Callable[[int], Dataset]]:
    """Functions from a side to the images of a set, by the set's name."""
    found: dict[str, Callable[[int], Dataset]] = {"ELPV": elpv}
    if mtd_root is not None:
        found["MTD"] = partial(mtd, mtd_root)
        found |= {
            f"MTD by tile, draw {draw}": partial(mtd_by_tile, mtd_root, draw) for draw in range(1 if smoke else 5)
        }
    found["scratches"] = scratched_elpv
    if FASHION_MNIST.exists():
        found["outside Fashion-MNIST"] = outside_fashion_mnist
        found |= {f"Fashion-MNIST {normal}": partial(fashion_mnist, normal) for normal in range(1 if smoke else 10)}
    return {name: partial(_some, load) for name, load in found.items()} if smoke else found


def _some(load: Callable[[int], Dataset], side: int) -> Dataset:
    """A few images of each part and kind."""
    data = load(side)
    rows = np.concatenate([np.flatnonzero(data.groups == kind)[::20] for kind in np.unique(data.groups)])
    test = (None if part is None else part[rows] for part in data[2:-2])
    normal = (None if part is None else part[:44] for part in data[-2:])
    return Dataset(data.train[:24], data.validation[:20], *test, *normal)


def arguments(description: str, judged: str = "detectors") -> argparse.ArgumentParser:
    """The options of a benchmark of quality; `judged` is the option that chooses rows of its tables."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, metavar="DIR", help="folder of outcomes; else none is kept")
    parser.add_argument("--mtd", type=Path, metavar="DIR", help="folder of the magnetic tiles")
    named = "which ones, by name or, if none has that name, by the start of their names"
    parser.add_argument("--sets", nargs="+", metavar="NAME", help=named)
    parser.add_argument(f"--{judged}", nargs="+", metavar="NAME", help=named)
    parser.add_argument("--smoke", action="store_true", help="a few images, one seed: whether it runs, not how well")
    return parser


def main() -> None:
    """Train what is missing, then print the tables."""
    parser = arguments(str(__doc__))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    given = parser.parse_args()
    if given.smoke:
        given.seeds = given.seeds[:1]
    in_results(given, report)


def in_results(
    given: argparse.Namespace, report: Callable[[argparse.Namespace, Results], None], name: str = "quality.csv"
) -> None:
    """Report on a folder of results: the given one, or a temporary one."""
    print(circumstances())
    with tempfile.TemporaryDirectory() as aside:
        report(given, Results(given.results or Path(aside), name))


def report(given: argparse.Namespace, results: Results) -> None:
    """Compute the results that a folder lacks, and print the tables."""
    classes = []
    asked = chosen(detectors(given.smoke), given.detectors)
    for set_name, load in chosen(sets(given.mtd, given.smoke), given.sets).items():
        figures = figures_of(asked, given.seeds, results, set_name, load)
        if set_name.startswith("Fashion-MNIST"):
            classes.append(figures)
        else:
            print("\n".join(tables(set_name, figures)), flush=True)
    if classes:
        lines = classes_table(pd.concat(classes))
        print("\n### Fashion-MNIST, one class against the others\n\n" + "\n".join(lines))


def figures_of(
    asked: dict[str, Detector], seeds: Sequence[int], results: Results, set_name: str, load: Callable[[int], Dataset]
) -> pd.DataFrame:
    """The figures of detectors by name, for each seed where they depend on it."""
    loaded = cache(load)
    found = []
    for name, detector in asked.items():
        side = detector.side(set_name)
        for seed in seeds if detector.seeds else seeds[:1]:

            def find(models: Path, detector: Detector = detector, side: int = side, seed: int = seed) -> Outcome:
                return detector.run(loaded(side), seed, models)

            found.append(results.of(find, set_name, name, side, seed))
    return pd.concat(found)


def chosen(found: dict[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    """The items with a given name or, where none has it, those whose names start with it.

    >>> list(chosen({"a": 1, "a b": 2, "c d": 3}, ["a", "c"]))
    ['a', 'c d']
    """

    def asked_for(one: str) -> bool:
        return names is None or any(one == name if name in found else one.startswith(name) for name in names)

    return {name: one for name, one in found.items() if asked_for(name)}


if __name__ == "__main__":
    main()
