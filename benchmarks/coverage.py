"""How often intervals of measures cover the true value, by simulation: the tables of docs/evidence/intervals.md.

Scores are drawn repeatedly from distributions whose AUROC is known; a 95 % interval should cover it in about 95 of 100
draws.

    python -m benchmarks.coverage [--repeats 4000]
"""

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.stats import norm

from benchmarks.rates import circumstances
from benchmarks.table import heads, row
from nelbo.detectors import Interval, auroc, average_precision, f1

Scores = tuple[np.ndarray, np.ndarray]

#: Images of each kind, normal and anomalous.
SIZES = ((10, 10), (20, 20), (50, 50), (200, 200), (10, 200), (200, 10))
AREAS = (0.7, 0.9, 0.97)
#: Recall and false-alarm rate of verdicts.
RATES = ((0.5, 0.05), (0.8, 0.05), (0.95, 0.05), (0.99, 0.01), (0.05, 0.05))


def binormal(spread: float) -> Callable[..., Scores]:
    """Normal distributions; that of anomalous images is `spread` times as wide."""

    def draw(random: np.random.Generator, area: float, n_normal: int, n_anomalous: int) -> Scores:
        shift = norm.ppf(area) * np.hypot(1, spread)
        return random.normal(size=n_normal), shift + spread * random.normal(size=n_anomalous)

    return draw


def exponential(random: np.random.Generator, area: float, n_normal: int, n_anomalous: int) -> Scores:
    """Scores with a long upper tail."""
    return random.exponential(size=n_normal), random.exponential(area / (1 - area), n_anomalous)


def mixed(random: np.random.Generator, area: float, n_normal: int, n_anomalous: int) -> Scores:
    """Some anomalies lie far above all others, the rest are like normal images: defects are seen, or not at all."""
    anomalous = random.normal(size=n_anomalous)
    anomalous[random.random(n_anomalous) < 2 * area - 1] += 100
    return random.normal(size=n_normal), anomalous


LAWS = {
    "normal": binormal(1),
    "anomalous three times as wide": binormal(3),
    "anomalous a third as wide": binormal(1 / 3),
    "exponential": exponential,
    "some anomalies seen, others not": mixed,
}


def covered(
    measure: Callable[[np.ndarray, np.ndarray], Interval],
    truth: float,
    draw: Callable[[], Scores],
    repeats: int,
) -> tuple[float, float]:
    """The share of intervals that cover the true value, and their mean width."""
    hits = width = 0.0
    for _ in range(repeats):
        normal, anomalous = draw()
        labels = np.repeat([0, 1], [len(normal), len(anomalous)])
        found = measure(labels, np.concatenate([normal, anomalous]))
        hits += found.low <= truth <= found.high
        width += found.high - found.low
    return hits / repeats, width / repeats


def true_precision(law: Callable[..., Scores], area: float, n_normal: int, n_anomalous: int) -> float:
    """The average precision over infinitely many images with this share of anomalies."""
    normal, anomalous = law(np.random.default_rng(1), area, 1_000_000, 1_000_000)
    thresholds = np.sort(anomalous)[::-1]
    hits = n_anomalous * (np.arange(len(thresholds)) + 1) / len(thresholds)
    alarms = n_normal * (1 - np.searchsorted(np.sort(normal), thresholds) / len(normal))
    return float(np.mean(hits / (hits + alarms)))


def print_areas(repeats: int) -> None:
    """Print AUROC, and average precision with a tenth of the draws."""
    for measure, n in ((auroc, repeats), (partial(average_precision, n_resamples=100), repeats // 10)):
        name = "AUROC" if measure is auroc else "average precision"
        print(f"\n{name}, {n:,} draws a cell: share of intervals that cover the truth (mean width)\n")
        print(*heads("scores", "AUROC", *(f"{m} + {n}" for m, n in SIZES)), sep="\n")
        random = np.random.default_rng(0)
        for law_name, law in LAWS.items():
            for area in AREAS:
                cells = []
                for size in SIZES:
                    truth = area if measure is auroc else true_precision(law, area, *size)
                    share, width = covered(measure, truth, partial(law, random, area, *size), n)
                    cells.append(f"{share:.1%} ({width:.2f})")
                print(row(law_name, f"{area:g}", *cells), flush=True)


def print_f1(repeats: int) -> None:
    """Print F1 of verdicts that flag normal and anomalous images at given rates."""
    print(f"\nF1, {repeats:,} draws a cell\n")
    print(*heads("recall", "false-alarm rate", *(f"{m} + {n}" for m, n in SIZES)), sep="\n")
    random = np.random.default_rng(0)

    def marks(recall: float, rate: float, n_normal: int, n_anomalous: int) -> Scores:
        return random.random(n_normal) < rate, random.random(n_anomalous) < recall

    for recall, rate in RATES:
        cells = []
        for m, n in SIZES:
            truth = 2 * n * recall / (n * recall + m * rate + n)
            share, width = covered(partial(f1, n_draws=1000), truth, partial(marks, recall, rate, m, n), repeats)
            cells.append(f"{share:.1%} ({width:.2f})")
        print(row(f"{recall:g}", f"{rate:g}", *cells), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=4_000)
    asked = parser.parse_args().repeats
    print(circumstances())
    print_f1(asked // 10)
    print_areas(asked)
