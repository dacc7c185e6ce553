"""Does L2 on the two latent layers make sense, although the KL divergence already regularises? A measurement.

    python -m benchmarks.detection.latent_l2 --out FOLDER

trains the original network (preset ``conv_1x1x16``) with several strengths of ``latent_l2``, and with noise whose batch
axis is missing, five seeds each, on ELPV and on one class of Fashion-MNIST, and prints the tables of
``docs/explanation/latent_l2.md``. A run that is already in FOLDER is not repeated.
"""

import argparse
import json
from pathlib import Path
from unittest import mock

import numpy as np
from scipy.stats import rankdata, t

from benchmarks.datasets import Dataset, elpv, fashion_mnist
from benchmarks.table import heads, row
from nelbo.vae_core import TrainConfig, VAEConfig, score, train
from nelbo.vae_core.training.batches import Batches

STRENGTHS = (0.0, 0.01, 1.0, 100.0)
SEEDS = range(5)
EPOCHS = {"ELPV": 60, "Fashion-MNIST 0": 10}
SHARED_NOISE = "no batch axis"
RESAMPLES = 1000


class SharedNoise(Batches):
    """The noise of the original code: one eps for all images of a batch."""

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray]]:
        (batch,) = super().__getitem__(index)
        if not self.validation:
            batch["eps"] = np.broadcast_to(batch["eps"][:1], batch["eps"].shape).copy()
        return (batch,)


def run(dataset: Dataset, epochs: int, variant: str, seed: int) -> dict[str, object]:
    """Train one model: means over images, in nats, and the scores of the test images."""
    height, width = dataset.train.shape[1:3]
    config = VAEConfig(height=height, width=width)
    l2 = 0.0 if variant == SHARED_NOISE else float(variant)
    train_config = TrainConfig(epochs=epochs, patience=epochs, latent_l2=l2, seed=seed)
    batches = SharedNoise if variant == SHARED_NOISE else Batches
    with mock.patch("nelbo.vae_core.training.training.Batches", batches):
        model = train(dataset.train, dataset.validation, config, train_config).model
    test = score(model, dataset.test, maps=False)
    seen = score(model, dataset.train, maps=False)
    kernels = [model.network.encoder.get_layer(name).kernel for name in ("z_mean", "z_log_var")]
    return {
        "rate": float(test.rate[dataset.labels == 0].mean()),
        "distortion": float(test.distortion[dataset.labels == 0].mean()),
        "nelbo_train": float(seen.nelbo.mean()),
        "nelbo_test": float(test.nelbo[dataset.labels == 0].mean()),
        "squared_weights": float(sum(np.square(np.asarray(kernel)).sum() for kernel in kernels)),
        "scores": {"nelbo": test.nelbo.tolist(), "peak": test.peak.tolist()},
    }


def aurocs(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(seeds,) areas under the ROC curve of (seeds, n) scores, by the rank-sum formula."""
    ranks = rankdata(scores, axis=1)
    n_anomalous = labels.sum()
    total = ranks[:, labels == 1].sum(axis=1) - n_anomalous * (n_anomalous + 1) / 2
    return total / (n_anomalous * (len(labels) - n_anomalous))


def over_images(labels: np.ndarray, scores: np.ndarray) -> str:
    """Mean AUROC over the seeds, with a 95 % bootstrap interval over the test images."""
    random = np.random.default_rng(0)
    kinds = [np.flatnonzero(labels == label) for label in (0, 1)]
    draws = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([random.choice(kind, len(kind)) for kind in kinds])
        draws.append(aurocs(labels[rows], scores[:, rows]).mean())
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{aurocs(labels, scores).mean():.3f} [{low:.3f}, {high:.3f}]"


def over_seeds(values: np.ndarray, digits: int) -> str:
    """Mean and 95 % t interval over the seeds."""
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():,.{digits}f} ± {half:,.{digits}f}"


def print_table(name: str, dataset: Dataset, runs: dict[str, list[dict]]) -> None:
    """Print a table with a row for each variant; differences are paired by seed."""
    print(f"\n### {name}\n")
    columns = ("L2", "weights²", "rate", "distortion", "gap test - train", "AUROC nelbo", "AUROC peak")
    print("\n".join(heads(*columns, "peak, against no L2")))
    plain = aurocs(dataset.labels, np.array([run["scores"]["peak"] for run in runs["0.0"]]))
    for variant, found in runs.items():
        column = {key: np.array([run[key] for run in found]) for key in found[0] if key != "scores"}
        scores = {key: np.array([run["scores"][key] for run in found]) for key in ("nelbo", "peak")}
        cells = [
            variant,
            f"{column['squared_weights'].mean():.3g}",
            over_seeds(column["rate"], 1),
            over_seeds(column["distortion"], 0),
            over_seeds(column["nelbo_test"] - column["nelbo_train"], 0),
            over_images(dataset.labels, scores["nelbo"]),
            over_images(dataset.labels, scores["peak"]),
            "" if variant == "0.0" else over_seeds(aurocs(dataset.labels, scores["peak"]) - plain, 3),
        ]
        print(row(*cells))


def main() -> None:
    """Train what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs' results")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    datasets = {"ELPV": elpv(), "Fashion-MNIST 0": fashion_mnist(0)}
    variants = [*map(str, STRENGTHS), SHARED_NOISE]
    results: dict[str, dict[str, list[dict]]] = {name: {v: [] for v in variants} for name in datasets}
    for name, dataset in datasets.items():
        for seed in SEEDS:
            for variant in variants:
                path = out / f"{name} {variant} {seed}.json"
                if not path.exists():
                    path.write_text(json.dumps(run(dataset, EPOCHS[name], variant, seed)))
                results[name][variant].append(json.loads(path.read_text()))
    for name, dataset in datasets.items():
        print_table(name, dataset, results[name])
        if name == "ELPV":
            for group in np.unique(dataset.groups):
                chosen = dataset.groups == group
                for variant in variants:
                    scores = np.array([run["scores"]["peak"] for run in results[name][variant]])[:, chosen]
                    print(f"{group}, L2 {variant}: AUROC peak {over_images(dataset.labels[chosen], scores)}")


if __name__ == "__main__":
    main()
