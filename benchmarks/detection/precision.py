"""A second fit in 8 bits beside the one in float32: what it finds, what it promises, how fast it is.

    python -m benchmarks.detection.precision --results DIR [--mtd DIR] [--sets ELPV "MTD by tile" ...]

computes each set's features in each precision, keeps them in DIR, and prints the tables of
``docs/how-to/precision.md``. Speeds are those of the network alone, measured in turn: on a busy machine only their
ratio is meaningful.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from benchmarks.detection.fits import FPR, SIDE, Judged, Looked, extractor_of, fitted, folds_of, looked
from benchmarks.detection.quality import chosen, sets
from benchmarks.rates import REPEATS, Rate, circumstances
from benchmarks.table import heads as headings
from benchmarks.table import row
from nelbo.detectors import auroc, binomial_interval, chance_changes, delong_test, mcnemar_test
from nelbo.detectors.calibration import Calibration
from nelbo.detectors.interval import Interval
from nelbo.vae_core import FLOAT32, INT8, TrainConfig, VAEConfig
from nelbo.vae_core.config import LITE0
from nelbo.vae_core.features.features import Features
from nelbo.vae_core.features.pretext import give_weights

#: Images that speeds are measured on.
_TIMED = 96


class Fit(NamedTuple):
    """A fit's scores of a set, on the threshold's scale: of normal images by cross-fitting, and of new images."""

    unseen: np.ndarray
    test: np.ndarray
    threshold: float


class Draw(NamedTuple):
    """A set in both precisions: labels of its test images, how far features are off, and both fits."""

    labels: np.ndarray
    off: float
    first: Fit
    second: Fit


def drawn(one: Looked, other: Looked) -> Draw:
    """A set, fitted as ``train --precision int8`` does."""
    numbers = folds_of(one.views, 0)
    first = fitted(one.normals, one.test, numbers, one.config)
    own = first.unseen.variant
    named = None if own is None else [first.config.variants[int(number)] for number in own]
    second = fitted(other.normals, other.test, numbers, first.config, named=named)
    off = float(np.linalg.norm(other.test - one.test) / np.linalg.norm(one.test))
    return Draw(one.labels, off, _levelled(first), _levelled(second))


def _levelled(judged: Judged) -> Fit:
    scores = [np.asarray(one.anomaly_score, float) for one in (judged.unseen, judged.test)]
    own = [None if one.variant is None else one.variant.astype(int) for one in (judged.unseen, judged.test)]
    calibration = Calibration(FPR, scores[0], True, own[0])
    unseen, test = (calibration.levelled(*both) for both in zip(scores, own, strict=True))
    return Fit(unseen, test, calibration.threshold)


def table_of_fits(found: dict[str, list[Draw]]) -> Iterator[str]:
    """AUROC, false alarms and found defects at 5 %; the images of all draws of a set count as one sample."""
    yield from headings("set", "fit", "features off", "AUROC", "false alarms at 5 %", "defects found")
    for name, draws in found.items():
        truth = np.concatenate([draw.labels for draw in draws])
        off = f"{np.mean([draw.off for draw in draws]):.1%}"
        for precision in (FLOAT32, INT8):
            fits = [draw.first if precision == FLOAT32 else draw.second for draw in draws]
            flagged = np.concatenate([fit.test > fit.threshold for fit in fits])
            areas = [auroc(draw.labels, fit.test) for draw, fit in zip(draws, fits, strict=True)]
            shares = (_share(flagged[truth == kind], len(draws)) for kind in (0, 1))
            yield row(name, precision, "" if precision == FLOAT32 else off, _mean(areas), *shares)


def table_of_differences(found: dict[str, list[Draw]]) -> Iterator[str]:
    """How the fits differ on the same images of a set's first draw, and which one `auto` chooses."""
    yield from headings(
        "set",
        "AUROC, int8 - float32",
        "false alarms",
        "defects found",
        "rank correlation",
        "verdicts changed, by chance at most",
        "auto",
    )
    for name, draws in found.items():
        truth, _, first, second = draws[0]
        flags = [fit.test > fit.threshold for fit in (second, first)]
        rates = [mcnemar_test(*(one[truth == kind] for one in flags)).difference for kind in (0, 1)]
        correlation = float(spearmanr(first.unseen, second.unseen).statistic)
        changed = int(((first.unseen > first.threshold) != (second.unseen > second.threshold)).sum())
        allowed = chance_changes(first.unseen, first.threshold)
        yield row(
            name,
            _interval(delong_test(truth, second.test, first.test).difference),
            *map(_interval, rates),
            f"{correlation:.3f}",
            f"{changed}, {allowed} of {len(first.unseen)}",
            INT8 if correlation >= 0.98 and changed <= allowed else FLOAT32,
        )


def _mean(areas: list[Interval]) -> str:
    """A single draw with its interval; for several draws the mean, the lowest and the highest."""
    if len(areas) == 1:
        return _interval(areas[0])
    values = [one.value for one in areas]
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f}, {len(values)} draws)"


def _share(flagged: np.ndarray, n_draws: int) -> str:
    """A share, with its interval if the images are independent; those of several draws of one set are not."""
    if n_draws == 1:
        return _interval(binomial_interval(int(flagged.sum()), len(flagged)))
    return f"{flagged.mean():.3f}"


def _interval(one: Interval) -> str:
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def table_of_speeds(config: VAEConfig, images: np.ndarray) -> Iterator[str]:
    """Images a second of the network alone on all cores, in turn."""
    features = Features(config)
    give_weights(features.backbone, images, config, TrainConfig())
    extractors = {precision: extractor_of(features, images, precision) for precision in (FLOAT32, INT8)}
    seconds: dict[str, list[float]] = {precision: [] for precision in extractors}
    for turn in range(1 + REPEATS):
        for precision, extractor in extractors.items():
            started = time.perf_counter()
            for _ in extractor(images):
                pass
            if turn:
                seconds[precision].append(time.perf_counter() - started)
    ratios = sorted(first / second for first, second in zip(seconds[FLOAT32], seconds[INT8], strict=True))
    yield from headings("network", "images/s", "times as fast")
    for precision, taken in seconds.items():
        times = "1" if precision == FLOAT32 else f"{np.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        yield row(precision, f"{Rate.of(len(images), taken):.0f}", times)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, metavar="DIR", required=True, help="where features are kept")
    parser.add_argument("--mtd", type=Path, metavar="DIR", help="folder of the magnetic tiles")
    parser.add_argument("--sets", nargs="+", default=["ELPV", "MTD by tile"])
    parser.add_argument("--smoke", action="store_true", help="a few small images: whether it runs, not how well")
    given = parser.parse_args()
    print(circumstances())
    loads, side = sets(given.mtd, given.smoke), 64 if given.smoke else SIDE
    found: dict[str, list[Draw]] = {}
    for name in given.sets:
        for draw, load in chosen(loads, [name]).items():
            both = [looked(draw, load, LITE0, given.results, side, precision) for precision in (FLOAT32, INT8)]
            found.setdefault(name, []).append(drawn(*both))
            config = both[0].config
    images = next(iter(chosen(loads, given.sets).values()))(side).test[:_TIMED]
    for title, lines in (
        ("fits", table_of_fits(found)),
        ("differences", table_of_differences(found)),
        ("speeds", table_of_speeds(config, images)),
    ):
        print(f"\n### {title}\n", flush=True)
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
