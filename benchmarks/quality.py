"""How well nelbo sees real defects, beside what anybody could do and what is published.

    python benchmarks/quality.py [--results DIR] [--mtd DIR] [--lite0 FILE] [--sets ELPV MTD ...] [--seeds 0 1 2]

trains from raw files and prints the tables of ``docs/benchmarks.md``. Each trained model and what it gave is kept in
DIR and not found out again: a run that was stopped goes on, and sets with the same normal images share their models.
``--mtd`` names the folder of the magnetic tiles, ``--lite0`` the ImageNet weights that ``benchmarks/lite0.py`` makes.
Sets that are not there are left out.

One configuration serves all sets, the size of the input aside. ``docs/experiments.md`` says how it was
found.
"""

import argparse
import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from baselines import BASELINES
from datasets import FASHION_MNIST, Dataset, elpv, fashion_mnist, mtd, outside_fashion_mnist, scratched_elpv
from rates import circumstances
from scipy.special import expit, logit
from scipy.stats import norm

from detectors import aupro, delong_interval, pixel_auroc
from detectors.interval import Interval
from vae_core import Model, TrainConfig, VAEConfig, export, is_installed, load_bundle, save_bundle, score, train
from vae_core.pixels import fingerprint

Run = Callable[["Dataset", int, Path], "Outcome"]

SEEDS = (0, 1, 2)
_WIDTH = float(norm.ppf(0.975))


class Outcome(NamedTuple):
    """What one detector made of one set.

    scores: of the test images, by statistic.
    pixels: AUROC, over all and by kind, and AUPRO of its maps, where there are masks.
    fit_s, images_per_s: training, and scoring two hundred images.
    """

    scores: dict[str, list[float]]
    pixels: dict[str, list[float]]
    fit_s: float
    images_per_s: float


class Detector(NamedTuple):
    """A row of the tables, or two.

    run: from a set, a seed and the folder of trained models to the outcome.
    side: of its input for the images of a set, in pixels.
    statistics: which of its statistics have a row.
    seeds: whether it depends on one.
    """

    run: Run
    side: Callable[[str], int]
    statistics: tuple[str, ...]
    seeds: bool = True


def nelbo(engine: str | None = "openvino", **config: Any) -> Run:
    """nelbo with its defaults, apart from what is given; scored by an engine where that is installed."""
    settings = {name: config.pop(name) for name in ("backbone_weights", "pretext_steps", "epochs") if name in config}

    def run(data: Dataset, seed: int, models: Path) -> Outcome:
        height, width = data.train.shape[1:3]
        model: Any
        model, fit_s = trained(
            data, VAEConfig(height=height, width=width, **config), TrainConfig(seed=seed, **settings), models
        )
        if engine is not None and is_installed(engine):
            model = export(model, engine, data.validation[:8], model_id="quality")
        started = time.perf_counter()
        some = score(model, data.test[:200], maps=False)
        rate = len(some.nelbo) / (time.perf_counter() - started)
        found = score(model, data.test, maps=False)
        scores = {name: getattr(found, name).tolist() for name in ("peak", "nelbo")}
        return Outcome(scores, _pixels(model, data), fit_s, rate)

    return run


def trained(data: Dataset, config: VAEConfig, settings: TrainConfig, models: Path) -> tuple[Model, float]:
    """A model of a set's normal images, from the folder of models if it is there; and how long its training took."""
    facts = [config.to_dict(), settings.to_dict(), fingerprint(data.train), fingerprint(data.validation)]
    models.mkdir(exist_ok=True)
    note = models / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}.json"
    if not note.exists():
        started = time.perf_counter()
        model = train(data.train, data.validation, config, settings).model
        fit_s = time.perf_counter() - started
        note.write_text(json.dumps([save_bundle(model, models), fit_s]), encoding="utf-8")
    model_id, fit_s = json.loads(note.read_text(encoding="utf-8"))
    return load_bundle(models / model_id), fit_s


def peaks_and_maps(model: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) and (n, h, w), of some images at a time: scores have more maps than these."""
    parts = [score(model, images[start : start + 64]) for start in range(0, len(images), 64)]
    return np.concatenate([part.peak for part in parts]), np.concatenate([part.local_z for part in parts])


def _pixels(model: Any, data: Dataset) -> dict[str, list[float]]:
    """AUROC and AUPRO of the pixels of all test images, and AUROC by kind of defect, normal images beside it."""
    if data.masks is None:
        return {}
    _, maps = peaks_and_maps(model, data.test)
    found = {"pixel AUROC": pixel_auroc(data.masks, maps), "AUPRO": aupro(data.masks, maps)}
    of_kinds = list(kinds(data))[1:]
    found |= {f"pixel AUROC, {kind}": pixel_auroc(data.masks[rows], maps[rows]) for kind, rows in of_kinds}
    return {name: list(interval) for name, interval in found.items()}


def baseline(name: str) -> Run:
    """A classical method; validation images are learnt from, too."""

    def run(data: Dataset, seed: int, models: Path) -> Outcome:  # noqa: ARG001 - kept are only those of nelbo
        detector = BASELINES[name](data.train.shape[1], seed)
        started = time.perf_counter()
        detector.fit(np.concatenate([data.train, data.validation]))
        fit_s = time.perf_counter() - started
        started = time.perf_counter()
        found = detector.score(data.test)
        return Outcome({"": found.tolist()}, {}, fit_s, len(found) / (time.perf_counter() - started))

    return run


def size(data: Dataset, seed: int, models: Path) -> Outcome:  # noqa: ARG001 - as any other
    """The pixels of an image as it came."""
    areas = np.zeros(len(data.labels)) if data.areas is None else data.areas
    return Outcome({"": areas.tolist()}, {}, 0.0, math.inf)


def detectors(lite0: Path | None, smoke: bool) -> dict[str, Detector]:
    """By the names of their rows."""
    little: dict[str, Any] = {"pretext_steps": 2, "epochs": 1, "engine": None} if smoke else {}

    def side(photos: int, clothes: int) -> Callable[[str], int]:
        return lambda name: 64 if smoke else clothes if "Fashion-MNIST" in name else photos

    both = ("peak", "nelbo")
    found = {
        "nelbo, features": Detector(nelbo(preset="features", **little), side(256, 128), both),
        "nelbo, conv_1x1x16": Detector(nelbo(preset="conv_1x1x16", **little), side(64, 28), both),
    }
    if lite0 is not None:
        run = nelbo(preset="features", backbone="efficientnet_lite0", backbone_weights=str(lite0), **little)
        found["nelbo, features of ImageNet"] = Detector(run, side(256, 128), both)
    for name in BASELINES:
        found[name] = Detector(baseline(name), side(64, 28), ("",), name == "IsolationForest")
    return found | {"size": Detector(size, side(64, 28), ("",), seeds=False)}


def sets(mtd_root: Path | None, smoke: bool) -> dict[str, Callable[[int], Dataset]]:
    """By name: from a side to the images."""
    found: dict[str, Callable[[int], Dataset]] = {"ELPV": elpv}
    if mtd_root is not None:
        found["MTD"] = partial(mtd, mtd_root)
    found["scratches"] = scratched_elpv
    if FASHION_MNIST.exists():
        found["outside Fashion-MNIST"] = outside_fashion_mnist
        found |= {f"Fashion-MNIST {normal}": partial(fashion_mnist, normal) for normal in range(1 if smoke else 10)}
    return {name: partial(_some, load) for name, load in found.items()} if smoke else found


def _some(load: Callable[[int], Dataset], side: int) -> Dataset:
    """A few images of each part and kind."""
    data = load(side)
    rows = np.concatenate([np.flatnonzero(data.groups == kind)[::20] for kind in np.unique(data.groups)])
    test = (None if part is None else part[rows] for part in data[2:])
    return Dataset(data.train[:24], data.validation[:12], *test)


def kept(results: Path, set_name: str, name: str, side: int, seed: int) -> Path:
    """Where the outcome of a detector is kept."""
    return results / f"{set_name}, {name}, {side} px, seed {seed}.json"


def outcome(path: Path, run: Callable[[Path], Outcome]) -> Outcome:
    """What is kept at a path, or is found out and kept there now; with the folder of models beside it."""
    if not path.exists():
        path.write_text(json.dumps(run(path.parent / "models")._asdict()), encoding="utf-8")
    return Outcome(**json.loads(path.read_text(encoding="utf-8")))


def over_seeds(intervals: Sequence[Interval]) -> Interval:
    """The mean over seeds, with the uncertainty of the test images and of the seeds.

    On the logit scale: the mean of the variances that the test images leave, and the variance over the seeds by their
    number.

    >>> one = Interval(0.8, 0.75, 0.85)
    >>> print(over_seeds([one]))
    0.800 [0.744, 0.846]
    >>> wider = over_seeds([one, Interval(0.7, 0.65, 0.75)])
    >>> wider.high - wider.low > 0.1
    True
    """
    middles = logit([interval.value for interval in intervals])
    widths = np.array([logit(interval.high) - logit(interval.low) for interval in intervals]) / (2 * _WIDTH)
    between = middles.var(ddof=1) / len(middles) if len(middles) > 1 else 0.0
    half = _WIDTH * float(np.sqrt(np.mean(widths**2) + between))
    middle = float(np.mean(middles))
    return Interval(*(float(expit(middle + way * half)) for way in (0, -1, 1)))


def kinds(data: Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """What a table has a column for: all test images, and those of each kind with the normal ones beside it."""
    yield "all", np.ones(len(data.labels), bool)
    anomalous = data.labels == 1
    for kind in np.unique(data.groups[anomalous]):
        own = data.groups == kind
        # Where normal images have the kind, too, they are what it is held against.
        yield str(kind), own if (own & ~anomalous).any() else own | ~anomalous


def table(data: Dataset, rows: dict[str, list[tuple[list[float], Outcome]]]) -> list[str]:
    """Markdown: a row a detector and statistic; AUROC over all and by kind. Times are those of the fastest seed."""
    columns = list(kinds(data))
    lines = heads("detector", *(name for name, _ in columns), "training, s", "scoring, images/s")
    for name, found in rows.items():
        cells = []
        for _, chosen in columns:
            labels = data.labels[chosen]
            seeds = [delong_interval(labels, np.array(scores)[chosen]) for scores, _ in found]
            cells.append(str(over_seeds(seeds)))
        fit_s, rate = min(one.fit_s for _, one in found), max(one.images_per_s for _, one in found)
        lines.append(row(name, *cells, f"{fit_s:,.0f}", f"{rate:,.0f}"))
    return lines


def pixel_table(rows: dict[str, list[Outcome]]) -> list[str]:
    """Markdown: a row a detector whose maps were held against masks."""
    measures = list(dict.fromkeys(name for found in rows.values() for one in found for name in one.pixels))
    lines = heads("detector", *measures)
    for name, found in rows.items():
        of_seeds = ([Interval(*one.pixels[measure]) for one in found if measure in one.pixels] for measure in measures)
        lines.append(row(name, *(str(over_seeds(seeds)) for seeds in of_seeds)))
    return lines


def heads(*names: str) -> list[str]:
    """The two lines that a table begins with."""
    return [row(*names), "|---" * len(names) + "|"]


def row(*cells: str) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def fashion_table(means: dict[str, dict[str, Interval]]) -> list[str]:
    """Markdown: AUROC with each class as the normal one, and their mean."""
    classes = sorted({name for found in means.values() for name in found})
    lines = heads("detector", "mean", *(name.removeprefix("Fashion-MNIST ") for name in classes))
    for name, found in means.items():
        values = [found[one] for one in classes]
        mean = np.mean([interval.value for interval in values])
        half = np.sqrt(sum(((interval.high - interval.low) / 2) ** 2 for interval in values)) / len(values)
        mean_cell = str(Interval(mean, mean - half, mean + half))
        lines.append(row(name, mean_cell, *(f"{interval.value:.3f}" for interval in values)))
    return lines


def arguments(description: str) -> argparse.ArgumentParser:
    """What a benchmark of quality can be told."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, metavar="DIR", help="of each training's outcome; else kept nowhere")
    parser.add_argument("--mtd", type=Path, metavar="DIR", help="folder of the magnetic tiles")
    parser.add_argument("--lite0", type=Path, metavar="FILE", help="weights of efficientnet_lite0")
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="which ones, by the start of their names")
    parser.add_argument("--detectors", nargs="+", metavar="NAME", help="which ones, by the start of their names")
    parser.add_argument("--smoke", action="store_true", help="a few images, one seed: whether it runs, not how well")
    return parser


def main() -> None:
    """Train what is missing, then print the tables."""
    parser = arguments(str(__doc__))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    in_results(parser.parse_args(), report)


def in_results(given: argparse.Namespace, report: Callable[[argparse.Namespace, Path], None]) -> None:
    """Report on a folder of results: the given one, or one that is there meanwhile."""
    print(circumstances())
    with tempfile.TemporaryDirectory() as aside:
        results = given.results or Path(aside)
        results.mkdir(parents=True, exist_ok=True)
        report(given, results)


def report(given: argparse.Namespace, results: Path) -> None:
    """Find out what is missing in a folder of results, and print the tables."""
    judged = chosen(detectors(given.lite0, given.smoke), given.detectors)
    all_seeds = given.seeds[:1] if given.smoke else given.seeds
    means: dict[str, dict[str, Interval]] = {}
    for set_name, load in chosen(sets(given.mtd, given.smoke), given.sets).items():
        rows: dict[str, list[tuple[list[float], Outcome]]] = {}
        outcomes: dict[str, list[Outcome]] = {}
        loaded: dict[int, Dataset] = {}
        for name, detector in judged.items():
            side = detector.side(set_name)
            if side not in loaded:
                loaded[side] = load(side)
            data = loaded[side]
            for seed in all_seeds if detector.seeds else all_seeds[:1]:
                path = kept(results, set_name, name, side, seed)
                found = outcome(path, partial(detector.run, data, seed))
                outcomes.setdefault(name, []).append(found)
                for statistic in detector.statistics:
                    title = f"{name}, {statistic}" if statistic else name
                    rows.setdefault(title, []).append((found.scores[statistic], found))
        if set_name.startswith("Fashion-MNIST"):
            for title, runs in rows.items():
                seeds = [delong_interval(data.labels, scores) for scores, _ in runs]
                means.setdefault(title, {})[set_name] = over_seeds(seeds)
            continue
        print(f"\n### {set_name}\n\n" + "\n".join(table(data, rows)), flush=True)
        with_maps = {name: found for name, found in outcomes.items() if found[0].pixels}
        if with_maps:
            print(f"\n### {set_name}, by pixel\n\n" + "\n".join(pixel_table(with_maps)), flush=True)
    if means:
        print("\n### Fashion-MNIST, one class against the others\n\n" + "\n".join(fashion_table(means)))


def chosen(found: dict[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    """Those whose names start with one of the given ones."""
    return {name: one for name, one in found.items() if names is None or name.startswith(tuple(names))}


if __name__ == "__main__":
    main()
