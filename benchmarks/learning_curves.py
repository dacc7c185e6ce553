"""How well nelbo sees with few normal images, and with defects among them.

    python benchmarks/learning_curves.py --results DIR [--mtd DIR] [--figure FILE.svg]

prints the tables of ``docs/choosing.md`` and draws its figure, for which matplotlib has to be installed. What
``benchmarks/quality.py`` has kept in DIR, with all images and no defect, is taken from there. One draw of images and
one seed each.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset, parted
from quality import Detector, arguments, chosen, detectors, in_results, sets
from results import Outcome, Results, joined
from table import heads, row

from detectors.interval import Interval

AMOUNTS = (20, 50, 100, 200, 500)
SHARES = (0.01, 0.05, 0.1)
SETS = ("ELPV", "MTD")
_SEED = 0


class Curve(NamedTuple):
    """AUROC of one detector on one set: by how many normal images it had, and by the share of defects among them."""

    set_name: str
    detector: str
    amounts: dict[int, Interval]
    shares: dict[float, Interval]


def fewer(data: Dataset, n: int) -> Dataset:
    """The same test images, and so many normal ones to learn from, those to validate on included."""
    normals, order = _normals(data)
    return data._replace(**_to_learn_from(normals[order[:n]]))


def noisy(data: Dataset, share: float) -> Dataset:
    """As many images to learn from, a share of them defective ones of the test images; see `judged`."""
    normals, order = _normals(data)
    defects = _withheld(data)[: round(share * len(normals))]
    mixed = np.concatenate([normals[order[len(defects) :]], data.test[defects]])
    return judged(data)._replace(**_to_learn_from(mixed))


def judged(data: Dataset) -> Dataset:
    """With the test images alone that are never learnt from, whatever the share: by them all shares are compared."""
    rows = np.setdiff1d(np.arange(len(data.labels)), _withheld(data))
    return data._replace(test=data.test[rows], labels=data.labels[rows], groups=data.groups[rows], areas=None)


def _withheld(data: Dataset) -> np.ndarray:
    """Rows of defective test images, in the order in which they get among the normal ones."""
    defective = np.random.default_rng(_SEED).permutation(np.flatnonzero(data.labels == 1))
    return defective[: round(max(SHARES) * (len(data.train) + len(data.validation)))]


def _normals(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    normals = np.concatenate([data.train, data.validation])
    return normals, np.random.default_rng(_SEED).permutation(len(normals))


def _to_learn_from(images: np.ndarray) -> dict[str, np.ndarray]:
    train, validation = parted(images)
    return {"train": train, "validation": validation}


def curve(set_name: str, data: Dataset, name: str, detector: Detector, results: Results) -> Curve:
    """Train on each amount and share that is not kept in a folder of results."""

    def auroc(what: str, make: Callable[[], Dataset]) -> Interval:
        def find(models: Path) -> Outcome:
            return detector.run(make(), _SEED, models)

        found = results.of(find, what, name, detector.side(set_name), _SEED)
        return joined(found[(found["statistic"] == "peak") & (found["of"] == "all")])

    without_masks = data._replace(masks=None)
    total = len(data.train) + len(data.validation)
    amounts = {n: auroc(f"{set_name}, {n} normals", partial(fewer, without_masks, n)) for n in AMOUNTS if n < total}
    amounts[total] = auroc(set_name, lambda: data)
    shares = {0.0: auroc(f"{set_name}, 0% defective", partial(judged, without_masks))}
    for share in SHARES:
        shares[share] = auroc(f"{set_name}, {share:.0%} defective", partial(noisy, without_masks, share))
    return Curve(set_name, name, amounts, shares)


def table(curves: list[Curve]) -> Iterator[str]:
    """Markdown: two tables, with a row a curve."""
    yield "\n### Normal images, those for validation included\n"
    yield from heads("set", "detector", *map(str, AMOUNTS), "all")
    for one in curves:
        last = max(one.amounts)
        cells = [str(one.amounts[n]) if n < last else "" for n in AMOUNTS]
        yield row(one.set_name, one.detector, *cells, f"{one.amounts[last]} (of {last:,})")
    yield "\n### Defects among the normal images\n"
    yield from heads("set", "detector", *(f"{share:.0%}" for share in (0, *SHARES)))
    for one in curves:
        yield row(one.set_name, one.detector, *map(str, one.shares.values()))


def draw(curves: list[Curve], path: Path) -> None:
    """AUROC by amount, and by share, a panel a set; bands are the intervals."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(one.set_name for one in curves))
    figure = Figure(figsize=(9, 3.6 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 2, sharey="row", squeeze=False)
    colours = ("#0072b2", "#d55e00", "#009e73")
    rivals = list(dict.fromkeys(one.detector for one in curves))
    for one in curves:
        of_set, colour = panels[names.index(one.set_name)], colours[rivals.index(one.detector)]
        in_percent = {100 * share: point for share, point in one.shares.items()}
        for panel, points in zip(of_set, (one.amounts, in_percent), strict=True):
            x = list(points)
            panel.plot(x, [point.value for point in points.values()], "o-", color=colour, label=one.detector)
            low, high = ([getattr(point, end) for point in points.values()] for end in ("low", "high"))
            panel.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    for name, (left, right) in zip(names, panels, strict=True):
        left.set(xscale="log", xlabel="normal images", ylabel="AUROC", title=name)
        left.set_xticks([*AMOUNTS, 1000], [str(n) for n in (*AMOUNTS, 1000)], minor=False)
        left.minorticks_off()
        right.set(xlabel="defects among the normal images, %", title=name)
        for panel in (left, right):
            panel.grid(alpha=0.3)
    panels[0][0].legend(frameon=False, fontsize="small")
    figure.savefig(path)


def main() -> None:
    """Train what is missing, then print the tables and draw the figure."""
    parser = arguments(str(__doc__))
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the curves there")
    in_results(parser.parse_args(), report)


def report(given: argparse.Namespace, results: Results) -> None:
    """Find out what is missing in a folder of results, and show it."""
    all_detectors = detectors(given.smoke)
    of_nelbo = {name: one for name, one in all_detectors.items() if name.startswith("nelbo")}
    all_sets = {name: load for name, load in sets(given.mtd, given.smoke).items() if name in SETS}
    curves = []
    for set_name, load in chosen(all_sets, given.sets).items():
        for name, detector in chosen(of_nelbo, given.detectors).items():
            curves.append(curve(set_name, load(detector.side(set_name)), name, detector, results))
    print("\n".join(table(curves)))
    if given.figure:
        draw(curves, given.figure)


if __name__ == "__main__":
    main()
