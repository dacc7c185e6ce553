"""Whether simulated defects rank models as real ones do: the AUROC of both, for models on open sets.

    python -m benchmarks.detection.simulated [--results DIR] [--mtd DIR] [--sets ELPV ...] [--models default ...]

trains each model on each set, paints defects on normal images that it has not seen, as ``nelbo train`` does, and scores
the set's real defects. Among pairs of models on one set whose real AUROCs differ by more than .05, it counts in how
many the simulated AUROCs differ the same way. DIR keeps the figures of each model in ``simulated.csv``, so they are not
computed again and a stopped run continues. With ``docs/evidence/simulated.csv`` in DIR only unpublished figures need
training.

The order by all defects together counts, because ``train --try`` and the gate use it; the order by pasted pieces and
blurred places, which decide whether a model is called blind, is counted beside it. Real defects choose nothing.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
from safetensors.numpy import save_file

from benchmarks.datasets import Dataset
from benchmarks.detection.quality import Detector, arguments, chosen, figures_of, in_results, sets
from benchmarks.detection.results import Outcome, Results
from benchmarks.table import heads, row
from nelbo.data import Preprocessing, folds
from nelbo.detectors import auroc, binomial_interval
from nelbo.detectors.interval import Interval
from nelbo.flows.evaluation.sensitivity import Seen, seen_of
from nelbo.flows.evaluation.thresholds import threshold_of_normals
from nelbo.flows.inference.painting.simulation import Unseen, simulate
from nelbo.flows.inference.pipeline import columns_of
from nelbo.flows.options.settings import CalibrationSettings
from nelbo.flows.workspace.calibrations.calibration import Calibration
from nelbo.flows.workspace.calibrations.statistic import Statistic
from nelbo.vae_core import N_FOLDS, Scorable, Score, TrainConfig, Training, VAEConfig, fast_scorer, train
from nelbo.vae_core.features.backbones import build_backbone

#: The figures that are kept: AUROC of real and of simulated defects, the share of these found, blindness to them.
REAL, SIMULATED, FOUND, BLIND = "real", "simulated", "found", "blind"
#: The simulated defects that the last three are of.
ALL, POOLED = "all", "pooled"
#: Pairs of models whose real AUROCs differ by less are not counted.
APART = 0.05
SETS = ("ELPV", "MTD by tile, draw 0", "Fashion-MNIST 0", "Fashion-MNIST 8")
_SEED = 0
#: Networks train for fewer epochs than by default: how good they are does not matter here.
_EPOCHS, _DEEP_EPOCHS, _PRETEXT_STEPS = 30, 10, 300
#: Of thousands of clothes these suffice: images to train on and to paint on, and the step between those to test on.
_CLOTHES, _CLOTHES_PAINTED, _CLOTHES_EVERY = 800, 200, 5


class Judged:
    """A model with its defaults, except for the given settings, judged by simulated and by real defects.

    Args:
        settings: of its training.
        random_weights: whether its backbone gets random weights.
        config: fields of the network's configuration.
    """

    def __init__(self, settings: dict[str, Any], *, random_weights: bool = False, **config: Any) -> None:
        self.settings, self.random_weights, self.config = settings, random_weights, config

    def __call__(self, data: Dataset, seed: int, models: Path) -> Outcome:
        """Train on a set's normal images, and score defects painted on validation images, and the test images."""
        height, width = data.train.shape[1:3]
        config, settings = VAEConfig(height=height, width=width, **self.config), dict(self.settings)
        if self.random_weights:
            settings["backbone_weights"] = str(_random_weights(config, models, seed))
        started = time.perf_counter()
        model = _trained(data, config, TrainConfig(seed=seed, **settings)).model
        fit_s = time.perf_counter() - started
        score = fast_scorer(model)
        calibration = _calibration(score(data.validation), model)
        rows = simulate(model, score, _unseen(data), seed=seed)
        started = time.perf_counter()
        real = calibration.statistic.scores(_rows(score(data.test), model))
        rate = len(real) / (time.perf_counter() - started)
        seen = seen_of(rows, calibration.statistic, calibration)
        return Outcome({(REAL, ALL): auroc(data.labels, real)} | _figures(seen), fit_s, rate)


def _figures(seen: Seen) -> dict[tuple[str, str], Interval]:
    both = {ALL: seen.whole, POOLED: seen.pooled}
    figures = {(SIMULATED, of): one.auroc for of, one in (both | dict(seen.kinds)).items()}
    figures |= {(FOUND, of): one.found for of, one in both.items() if one.found is not None}
    return figures | {(BLIND, POOLED): Interval(*[float(seen.blind)] * 3)}


def _trained(data: Dataset, config: VAEConfig, settings: TrainConfig) -> Training:
    """Train on the training images only: defects are painted on those for validation."""
    n = len(data.train)
    views = None if data.views is None else data.views[:n].tolist()
    numbers = folds([str(i) for i in range(n)], views, N_FOLDS, seed=0)
    preprocessing = Preprocessing(config.height, config.width).to_dict()
    if config.is_linear:
        return train(data.train, None, config, settings, preprocessing=preprocessing, folds=numbers)
    # One fold is for early stopping.
    stops = np.array(numbers) == 0
    return train(data.train[~stops], data.train[stops], config, settings, preprocessing=preprocessing)


def _unseen(data: Dataset) -> Unseen:
    n = len(data.validation)
    assert data.sizes is not None
    width, height = data.sizes[-n:].T
    names = [str(i) for i in range(n)]
    table = pa.table({"relative_path": names, "image_id": names, "width_px": width, "height_px": height})
    return Unseen(data.validation, table, pa.nulls(n, pa.float64()))


def _rows(score: Score, model: Scorable) -> pa.Table:
    """Scores as columns of a table."""
    return pa.table(columns_of(score, model) | {"size_z": pa.nulls(len(score.nelbo), pa.float64())})


def _calibration(normal: Score, model: Scorable) -> Calibration:
    """A calibration whose threshold unseen normal images set, as in ``train``; it is not written."""
    rows = _rows(normal, model)
    statistic, threshold = threshold_of_normals(rows, Statistic(model.config.statistic), CalibrationSettings(), False)
    return Calibration(
        calibration_id="",
        model_id="",
        batch_id="",
        statistic=statistic,
        threshold=threshold,
        normal_scores=np.sort(statistic.scores(rows)),
        normal_scores_of={},
        image_ids=pa.array([], pa.string()),
        heatmap_top=1.0,
        judged=None,
        labels_from=None,
        why_not=None,
        made_at_utc="",
    )


def _random_weights(config: VAEConfig, folder: Path, seed: int) -> Path:
    """A file with the weights of a backbone before any training."""
    folder.mkdir(exist_ok=True)
    path = folder / f"random-{seed}.safetensors"
    keras.utils.set_random_seed(seed)
    save_file({variable.path: np.asarray(variable) for variable in build_backbone(config).weights}, path)
    return path


def models(smoke: bool) -> dict[str, Detector]:
    """Models by the names of their rows; the default comes first."""
    quick = {"pretext_steps": 2, "epochs": 1}
    trained, deep, itself = (
        quick if smoke else settings
        for settings in ({"epochs": _EPOCHS}, {"epochs": _DEEP_EPOCHS}, {"pretext_steps": _PRETEXT_STEPS})
    )

    def side(photos: int, clothes: int) -> Callable[[str], int]:
        return lambda name: 64 if smoke else clothes if "Fashion-MNIST" in name else photos

    features = partial(Judged, preset="features")
    lite0 = partial(features, {}, backbone="efficientnet_lite0")
    return {
        "default": Detector(lite0(), side(256, 64)),
        "linear_image": Detector(lite0(head="linear_image"), side(256, 64)),
        "filters": Detector(features({}, backbone="filters"), side(256, 64)),
        "conv_1x1x16": Detector(Judged(trained, preset="conv_1x1x16"), side(64, 32)),
        "conv_spatial": Detector(Judged(trained, preset="conv_spatial"), side(64, 32)),
        "resnet": Detector(Judged(trained, preset="resnet"), side(64, 32)),
        "random weights": Detector(lite0(random_weights=True), side(256, 64)),
        "default, second size": Detector(lite0(), side(128, 96)),
        "default, third size": Detector(lite0(), side(64, 128)),
        "filters, second size": Detector(features({}, backbone="filters"), side(64, 128)),
        "deep": Detector(features(deep, backbone="efficientnet_lite0", head="deep"), side(256, 64)),
        "self_trained": Detector(features(itself, backbone="self_trained"), side(256, 64)),
    }


def _fewer(load: Callable[[int], Dataset], side: int) -> Dataset:
    """A part of a set of clothes, which are in random order."""
    data = load(side)
    some = (None if part is None else part[::_CLOTHES_EVERY] for part in data[2:-2])
    assert data.sizes is not None
    sizes = data.sizes[: _CLOTHES + _CLOTHES_PAINTED]
    return Dataset(data.train[:_CLOTHES], data.validation[:_CLOTHES_PAINTED], *some, None, sizes)


def main() -> None:
    """Train what is missing, then print the tables."""
    in_results(arguments(str(__doc__), "models").parse_args(), report, "simulated.csv")


def report(given: argparse.Namespace, results: Results) -> None:
    """Compute the results that a folder lacks, and print the tables."""
    asked = chosen(models(given.smoke), given.models)
    found = []
    for name, load in chosen(sets(given.mtd, given.smoke), given.sets or SETS).items():
        some = partial(_fewer, load) if name.startswith("Fashion-MNIST") and not given.smoke else load
        found.append(figures_of(asked, [_SEED], results, name, some))
        print(f"\n### {name}\n\n" + "\n".join(table(found[-1])), flush=True)
    print(f"\n### Pairs of models that differ by more than {APART:g}\n\n" + "\n".join(order_table(pd.concat(found))))


def table(figures: pd.DataFrame) -> list[str]:
    """A Markdown table of one set: a row for each model, with its figures of real and of simulated defects."""
    lines = heads("model (side, px)", "real", "simulated", "pasted and blurred", "of these found at 5 %", "blind")
    shown = ((REAL, ALL), (SIMULATED, ALL), (SIMULATED, POOLED), (FOUND, POOLED))
    for (name, side), own in figures.groupby(["detector", "side"], sort=False):
        cells = [str(_figure(own, *of)) for of in shown]
        lines.append(row(f"{name} ({side})", *cells, "yes" if _figure(own, BLIND, POOLED).value else "no"))
    return lines


def order_table(figures: pd.DataFrame) -> list[str]:
    """A Markdown table: in how many pairs of models on one set simulated defects rank them as real ones do."""
    lines = heads("set", "pairs", "in order", "share", "in order by pasted and blurred", "share")
    counts = {name: [in_order(own, of) for of in (ALL, POOLED)] for name, own in figures.groupby("set", sort=False)}
    counts["all"] = [tuple(map(sum, zip(*of, strict=True))) for of in zip(*counts.values(), strict=True)]
    for name, both in counts.items():
        shares = [[str(k), "-" if n == 0 else str(binomial_interval(k, n))] for k, n in both]
        lines.append(row(str(name), str(both[0][1]), *shares[0], *shares[1]))
    return lines


def in_order(figures: pd.DataFrame, of: str) -> tuple[int, int]:
    """How many pairs of models whose real AUROCs differ by more than `APART` are in order, and how many there are.

    Args:
        figures: of one set.
        of: the simulated defects whose AUROCs are compared; a tie is not in order.
    """
    each = [own for _, own in figures.groupby(["detector", "side"], sort=False)]
    both = [(_figure(own, REAL, ALL).value, _figure(own, SIMULATED, of).value) for own in each]
    apart = [(one, other) for one, other in combinations(both, 2) if abs(one[0] - other[0]) > APART]
    return sum((one[0] - other[0]) * (one[1] - other[1]) > 0 for one, other in apart), len(apart)


def _figure(figures: pd.DataFrame, statistic: str, of: str) -> Interval:
    """One figure of a model on a set."""
    (values,) = figures[(figures["statistic"] == statistic) & (figures["of"] == of)][list(Interval._fields)].to_numpy()
    return Interval(*map(float, values))


if __name__ == "__main__":
    main()
