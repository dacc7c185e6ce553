"""Heads compared on the same features: what an exact VAE is worth, and how many images it takes.

    python -m benchmarks.detection.heads --results DIR [--mtd DIR] [--tables heads curves defects variants rates]

computes each set's features once, keeps them in DIR, and prints the tables of ``docs/how-to/choosing.md``.
Features, folds, fit and statistics are nelbo's own. Two published methods are compared on the same features: the
nearest neighbour of each place (PatchCore's whole memory bank, Roth et al. 2022) and a Gaussian of each place over a
hundred features drawn at random (PaDiM, Defard et al. 2021).
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.detection.fits import (
    FPR,
    SIDE,
    Judged,
    Looked,
    fitted,
    folds_of,
    gaussian_of_each_place,
    looked,
    nearest,
)
from benchmarks.detection.quality import chosen, sets
from benchmarks.detection.results import over_seeds
from benchmarks.rates import circumstances
from benchmarks.table import heads as headings
from benchmarks.table import row
from nelbo.detectors import auroc
from nelbo.detectors.calibration import Calibration
from nelbo.vae_core import VAEConfig
from nelbo.vae_core.config import AUTO
from nelbo.vae_core.scoring import Score, anomaly_score

DRAWS = 5
AMOUNTS = (10, 20, 50, 100, 200, 500)
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1)

#: Settings that differ from the backbone's defaults, by the names of their rows.
HEADS: dict[str, dict[str, str]] = {
    "linear": {"head": "linear"},
    "linear, of the distortion": {"head": "linear", "of": "distortion"},
    "linear_image": {"head": "linear_image"},
}
OTHERS: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "nearest neighbour of each place": nearest,
    "Gaussian of each place, 100 features": gaussian_of_each_place,
}


def table_of_heads(found: dict[str, list[Looked]]) -> Iterator[str]:
    """AUROC, a row for each head and statistic, a column for each set; means over the draws of a set."""
    yield from headings("features", "head", *found)
    default = next(iter(found.values()))[0].config
    backbone, size = default.backbone, {"height": default.height, "width": default.width}
    for name, changes in HEADS.items():
        config = VAEConfig(**size, preset="features", backbone=backbone, **changes)  # type: ignore[arg-type]
        judged = {
            set_name: [fitted(one.normals, one.test, folds_of(one.views, 0), config).test for one in draws]
            for set_name, draws in found.items()
        }
        for statistic in ("joint", "peak"):
            cells = (_auroc(found[one], [_of(score, statistic) for score in judged[one]]) for one in found)
            yield row(str(backbone), f"{name}, {statistic}", *cells)
    for name, other in OTHERS.items():
        scores = {
            set_name: [other(one.normals, one.test, seed) for seed, one in enumerate(draws)]
            for set_name, draws in found.items()
        }
        yield row(str(backbone), name, *(_auroc(found[one], scores[one]) for one in found))


def _of(score: Score, statistic: str) -> np.ndarray:
    found = {name: values for name, values in score._asdict().items() if values is not None}
    return np.asarray(anomaly_score(found, statistic))


def _auroc(draws: list[Looked], scores: list[np.ndarray], rows: Any = slice(None)) -> str:
    pairs = zip(draws, scores, strict=True)
    return str(over_seeds([auroc(one.labels[rows], own[rows]) for one, own in pairs]))


def table_of_amounts(found: dict[str, list[Looked]]) -> Iterator[str]:
    """AUROC with few normal images and the backbone's defaults, over five draws of whole parts."""
    yield from headings("set", "features", *map(str, AMOUNTS), "all")
    for name, draws in found.items():
        cells = []
        for amount in (*AMOUNTS, None):
            intervals = []
            for seed in range(DRAWS):
                one = draws[seed % len(draws)]
                rows = _some(one.views, amount, seed)
                if rows is None:
                    break
                views = one.views[rows]
                if len(np.unique(views)) < 2:
                    # A single part leaves no unseen image.
                    continue
                judged = fitted(one.normals[rows], one.test, folds_of(views, seed), one.config)
                intervals.append(auroc(one.labels, judged.test.anomaly_score))
            cells.append(str(over_seeds(intervals)) if intervals else "")
        yield row(name, str(draws[0].config.backbone), *cells)


def _some(views: np.ndarray, amount: int | None, seed: int) -> np.ndarray | None:
    """Rows of whole parts, drawn until there are `amount` of them; None where there are fewer."""
    if amount is None:
        return np.arange(len(views))
    if amount > len(views):
        return None
    kept: list[int] = []
    for view in np.random.default_rng(seed).permutation(np.unique(views)):
        kept += np.flatnonzero(views == view).tolist()
        if len(kept) >= amount:
            break
    return np.array(kept[:amount])


def table_of_defects(found: dict[str, list[Looked]]) -> Iterator[str]:
    """AUROC with defects among the normal images, over five draws; all shares are judged on the same images."""
    yield from headings("set", "features", *(f"{share:.0%}" for share in SHARES))
    for name, draws in found.items():
        cells = []
        for share in SHARES:
            intervals = []
            for seed in range(DRAWS):
                one = draws[seed % len(draws)]
                random = np.random.default_rng(seed)
                defective = random.permutation(np.flatnonzero(one.labels == 1))
                withheld = defective[: round(max(SHARES) * len(one.normals))]
                n = round(share * len(one.normals))
                order = random.permutation(len(one.normals))
                kept = np.setdiff1d(np.arange(len(one.labels)), withheld)
                normals = np.concatenate([one.normals[order[n:]], one.test[withheld[:n]]])
                views = np.concatenate([one.views[order[n:]], [f"defect {i}" for i in range(n)]])
                judged = fitted(normals, one.test[kept], folds_of(views, seed), one.config)
                intervals.append(auroc(one.labels[kept], judged.test.anomaly_score))
            cells.append(str(over_seeds(intervals)))
        yield row(name, str(draws[0].config.backbone), *cells)


def table_of_variants(found: dict[str, list[Looked]]) -> Iterator[str]:
    """AUROC of one model, and of variants that were found, over all test images and over each kind."""
    yield from headings("set", "features", "variants", "images of each", "AUROC", "of each kind")
    for name, draws in found.items():
        for asked in (1, AUTO):
            judged = [fitted(one.normals, one.test, folds_of(one.views, 0), one.config, asked) for one in draws]
            scores = [_levelled(one) for one in judged]
            own = judged[0].unseen.variant
            sizes = "" if own is None else ", ".join(map(str, np.bincount(own.astype(int))))
            kinds = draws[0].kinds
            by_kind = (
                f"{kind} {_auroc([draws[0]], [scores[0]], kinds == kind)}"
                for kind in ([] if kinds is None else np.unique(kinds))
            )
            features = str(draws[0].config.backbone)
            yield row(name, features, str(asked), sizes, _auroc(draws, scores), "; ".join(by_kind))


def _levelled(judged: Judged) -> np.ndarray:
    """Anomaly scores on the scale of the threshold at `FPR`."""
    return _calibration(judged).levelled(np.asarray(judged.test.anomaly_score, float), judged.test.variant)


def _calibration(judged: Judged) -> Calibration:
    own = judged.unseen.variant
    variants = None if own is None else own.astype(int)
    return Calibration(FPR, np.asarray(judged.unseen.anomaly_score, float), True, variants)


def table_of_rates(found: dict[str, list[Looked]], n_splits: int) -> Iterator[str]:
    """False alarms on left-out normal parts, with a cross-fitted threshold: mean and range over splits."""
    yield from headings(
        "set", "features", "splits", "promised", "mean", "5 % to 95 % of the splits", "mean of each variant"
    )
    for name, draws in found.items():
        one = draws[0]
        normal = one.test[one.labels == 0]
        rows = np.concatenate([one.normals, normal]) if len(draws) == 1 else one.normals
        new = np.arange(len(one.normals), len(rows)).astype(str)
        views = np.concatenate([one.views, new]) if len(draws) == 1 else one.views
        # The subject is chosen once from all normal images, which halves the time and uses no label.
        subject = fitted(one.normals, one.test[:1], folds_of(one.views, 0), one.config).config.subject
        config = replace(one.config, subject=subject)
        rates: list[float] = []
        by_variant: dict[int, list[float]] = {}
        for split in range(n_splits):
            left_out = _some(views, round(0.25 * len(rows)), split)
            assert left_out is not None
            # Only whole parts are left out.
            left_out = np.flatnonzero(np.isin(views, views[left_out]))
            learnt = np.setdiff1d(np.arange(len(rows)), left_out)
            judged = fitted(rows[learnt], rows[left_out], folds_of(views[learnt], split), config)
            flagged = _levelled(judged) > _calibration(judged).threshold
            rates.append(float(flagged.mean()))
            own = judged.test.variant
            each = [] if own is None else [round(float(flagged[own == one].mean()), 4) for one in np.unique(own)]
            # The table takes long, so each split is printed.
            print(f"{name}, split {split}: {rates[-1]:.4f}, of each variant {each}", file=sys.stderr, flush=True)
            for variant, rate in enumerate(each):
                by_variant.setdefault(variant, []).append(rate)
        low, high = np.quantile(rates, [0.05, 0.95])
        yield row(
            name,
            str(one.config.backbone),
            str(n_splits),
            f"{FPR:.0%}",
            f"{np.mean(rates):.1%}",
            f"{low:.1%} to {high:.1%}",
            ", ".join(f"{np.mean(own):.1%}" for own in by_variant.values()),
        )


TABLES = {
    "heads": table_of_heads,
    "curves": table_of_amounts,
    "defects": table_of_defects,
    "variants": table_of_variants,
}


def main() -> None:
    """Print the requested tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, metavar="DIR", required=True, help="where features are kept")
    parser.add_argument("--mtd", type=Path, metavar="DIR", help="folder of the magnetic tiles")
    parser.add_argument("--tables", nargs="+", choices=(*TABLES, "rates"), default=[*TABLES, "rates"])
    parser.add_argument("--backbones", nargs="+", default=["efficientnet_lite0", "filters"])
    parser.add_argument("--sets", nargs="+", default=["ELPV", "MTD by tile", "MTD"])
    parser.add_argument("--splits", type=int, default=200, metavar="N", help="of the table of rates")
    parser.add_argument("--smoke", action="store_true", help="a few small images: whether it runs, not how well")
    given = parser.parse_args()
    print(circumstances())
    loads = sets(given.mtd, given.smoke)
    for backbone in given.backbones:
        found = {}
        for name in given.sets:
            draws = {name: loads[name]} if name in loads else chosen(loads, [name])
            found[name] = [
                looked(draw, load, backbone, given.results, 64 if given.smoke else SIDE) for draw, load in draws.items()
            ]
        for table in given.tables:
            # The published split of MTD has most test tiles in training, so it says nothing of new ones.
            judged = found if table == "heads" else {name: one for name, one in found.items() if name != "MTD"}
            print(f"\n### {table}, {backbone}\n", flush=True)
            lines = table_of_rates(judged, given.splits) if table == "rates" else TABLES[table](judged)
            for line in lines:
                print(line, flush=True)


if __name__ == "__main__":
    main()
