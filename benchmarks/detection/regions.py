"""How often normal and defective solar cells show a region, over splits with the level of each.

    python -m benchmarks.detection.regions

fits the default network on some normal cells of ELPV (300 x 300 pixels), computes the maps of cells that it has not
seen, and repeatedly calibrates the level of regions on some of the normal ones. The others show a region where
`nelbo.flows.inference.regions` finds one in their own pixels. The last line is for the cross-fitted level, set by the
cells that the network was fitted on.
"""

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.datasets import elpv
from benchmarks.rates import circumstances
from benchmarks.table import heads, row
from nelbo.data import MAP_PEAK, Preprocessing
from nelbo.detectors.promise import false_alarm_interval, n_above
from nelbo.flows.evaluation.thresholds import level_of_normals
from nelbo.flows.inference.regions.regions import regions
from nelbo.flows.options.settings import CalibrationSettings
from nelbo.flows.workspace.calibrations.level import RegionLevel
from nelbo.vae_core import TrainConfig, VAEConfig, map_units, score, train

_SIDE, _ORIGINAL = 256, (300, 300)
_CHUNK = 32


def main() -> None:
    """Print a line for each promised rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=150, metavar="N", help="cells that the network is fitted on")
    parser.add_argument("--calibration", type=int, default=150, metavar="N", help="cells of each calibration")
    parser.add_argument("--normal", type=int, default=300, metavar="N", help="further normal cells")
    parser.add_argument("--defective", type=int, default=100, metavar="N", help="defective cells")
    parser.add_argument("--splits", type=int, default=200, metavar="N", help="calibrations")
    given = parser.parse_args()
    data, random = elpv(_SIDE), np.random.default_rng(0)
    normal = random.permutation(np.concatenate([data.train, data.test[data.labels == 0]]))
    learnt, unseen = np.split(normal[: given.train + given.calibration + given.normal], [given.train])
    defective = random.permutation(data.test[data.labels == 1])[: given.defective]
    training = train(learnt, None, VAEConfig(height=_SIDE, width=_SIDE), TrainConfig())
    seen, of_defective = (_look(training.model, pixels) for pixels in (unseen, defective))
    print(circumstances(), f"{len(learnt)} cells to learn from", "\n", sep="\n")
    print(
        *heads("rate", "calibration", "normal cells with a region", "band of the law", "splits in it", "defective"),
        sep="\n",
    )
    for fpr in (0.02, 0.05, 0.2):
        print(row(*_over_splits(seen, of_defective, fpr, given.calibration, given.splits, random)))
    crossed = _cross_fitted(training)
    level = _level(crossed, 0.05, cross=True)
    shown = [f"{_shares(some, level).mean():.1%}" for some in (seen, of_defective)]
    print(row("5.0%", f"{len(crossed.peaks)}, cross-fitted", shown[0], "", "1", shown[1]))


class Seen(NamedTuple):
    """Maps of cells in units above what is usual, their largest values, and each cell's nearest variant."""

    maps: list[np.ndarray]
    peaks: np.ndarray
    variants: np.ndarray

    def some(self, rows: np.ndarray) -> "Seen":
        return Seen([self.maps[row] for row in rows], self.peaks[rows], self.variants[rows])


def _look(model: Any, pixels: np.ndarray) -> Seen:
    maps, variants = [], []
    for start in range(0, len(pixels), _CHUNK):
        scored = score(model, pixels[start : start + _CHUNK])
        own = np.zeros(len(scored.nelbo), int) if scored.variant is None else scored.variant.astype(int)
        maps.extend(map_units(scored.local_nelbo, model.map_scales[own]))
        variants.extend(own)
    return Seen(maps, np.array([one.max() for one in maps], np.float64), np.array(variants))


def _cross_fitted(training: Any) -> Seen:
    peaks = training.unseen.map_peak
    known = np.isfinite(peaks)
    variants = np.zeros(len(peaks)) if training.unseen.variant is None else training.unseen.variant
    return Seen([], peaks[known], variants[known].astype(int))


def _level(seen: Seen, fpr: float, *, cross: bool = False) -> RegionLevel:
    table = pa.table({MAP_PEAK: seen.peaks, "variant": [str(number) for number in seen.variants]})
    found = level_of_normals(table, CalibrationSettings(fpr=fpr), cross)
    assert isinstance(found, RegionLevel)
    return found


def _shares(seen: Seen, level: RegionLevel) -> np.ndarray:
    """(n,) whether each cell has a region in its own pixels."""
    preprocessing = Preprocessing(_SIDE, _SIDE)
    levels = level.of([str(number) for number in seen.variants])
    return np.array(
        [bool(regions(one, own, _ORIGINAL, None, preprocessing)) for one, own in zip(seen.maps, levels, strict=True)]
    )


def _over_splits(
    seen: Seen, defective: Seen, fpr: float, n: int, n_splits: int, random: np.random.Generator
) -> Iterator[str]:
    rates, found = [], []
    for _ in range(n_splits):
        order = random.permutation(len(seen.maps))
        level = _level(seen.some(order[:n]), fpr)
        rates.append(_shares(seen.some(order[n:]), level).mean())
        found.append(_shares(defective, level).mean())
    m = len(order) - n
    band = false_alarm_interval(m, n, n_above(n, fpr))
    low, high = band.low / m, band.high / m
    inside = np.mean([low <= rate <= high for rate in rates])
    yield from (f"{fpr:.1%}", str(n), f"{np.mean(rates):.1%} ({min(rates):.1%} to {max(rates):.1%})")
    yield from (f"{low:.1%} to {high:.1%}", f"{inside:.0%}", f"{np.mean(found):.1%}")


if __name__ == "__main__":
    main()
