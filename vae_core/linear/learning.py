"""What more images would bring: models of fewer images score images that none of them has seen."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from nelbo.vae_core.config import FREE, LINEAR_IMAGE, VAEConfig
from nelbo.vae_core.linear.crossfit import N_FOLDS, RIDGES, Fit, Rows, seen_by
from nelbo.vae_core.linear.curve import LearningCurve
from nelbo.vae_core.linear.moments import MIN_IMAGES, Moments, Solution, solve_image, solve_positions, whiten
from nelbo.vae_core.linear.vae import blocks_of

#: The most unseen images that are scored: their differences are known to a hundredth of their spread.
_ASKED = 100
#: Numbers of folds that models are fitted on; the fold that they score is not among these.
_FITTED = (1, 2, 4)


def learning_curve(
    rows: Rows,
    shape: tuple[int, int, int],
    config: VAEConfig,
    folds: NDArray[Any],
    variants: NDArray[np.int64],
    fit: Fit,
) -> LearningCurve | None:
    """Models of one, two and four folds, scored on a fifth one; None where there are too few folds or images.

    Args:
        rows, shape, config, folds, variants: what was fitted on, see `nelbo.vae_core.linear.crossfit.fit_folds`.
        fit: the result; its models of four folds are the last of the curve.
    """
    turned_folds, turned_variants = (np.tile(one, len(rows) // len(folds)) for one in (folds, variants))
    n_images, nats = np.zeros(len(_FITTED), np.int64), []
    for variant, whole in enumerate(fit.of_others):
        names = np.unique(folds[variants == variant])
        if len(names) < N_FOLDS:
            return None
        asked = np.flatnonzero((variants == variant) & (folds == names[0]))[:_ASKED]
        counts, found = [], []
        for n_folds in _FITTED:
            mine = (variants == variant) & np.isin(folds, names[1 : 1 + n_folds])
            counts.append(int(mine.sum()))
            if counts[0] < MIN_IMAGES:
                return None
            if n_folds < _FITTED[-1]:
                some = rows[(turned_variants == variant) & np.isin(turned_folds, names[1 : 1 + n_folds])]
                found.append(_best(rows[asked], shape, config, _solutions(some, config)))
            else:
                found.append(_nats_per_feature(fit.unseen.nelbo_of(asked), whole, rows.shape))
        n_images += counts
        nats.append(found)
    each = np.concatenate(nats, axis=1)
    spread = np.concatenate([found[-1] - found[-1].mean() for found in nats]).std()
    return LearningCurve(tuple(n_images.tolist()), tuple(each.mean(axis=1).tolist()), float(spread))


def _solutions(rows: Rows, config: VAEConfig) -> list[Solution]:
    moments = Moments.of(rows)
    if config.head == LINEAR_IMAGE:
        solution = solve_image(rows, moments)
        return [solution.with_ridge(ridge) for ridge in RIDGES]
    # The products, one for each position, are too small for several threads.
    with threadpool_limits(1, "blas"):
        return [solve_positions(moments, shared=config.subject == FREE)]


def _best(rows: Rows, shape: tuple[int, int, int], config: VAEConfig, solutions: list[Solution]) -> NDArray[np.float64]:
    """(n,) nats per feature of images under the solution that gives them the least."""
    blocks = blocks_of(config.head, config.subject)
    found = []
    for solution in solutions:
        values = whiten(rows, solution.centre, solution.whitening)
        unseen = seen_by(values, shape, solution, blocks)
        found.append(_nats_per_feature(unseen.nelbo_of(slice(None)), solution, rows.shape))
    return min(found, key=np.mean)


def _nats_per_feature(nelbo: NDArray[np.float64], solution: Solution, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Nats per feature, undoing the whitening, which differs between solutions."""
    *_, n_positions, n_channels = shape
    log_volume = n_positions * np.log(np.diag(solution.whitening)).sum()
    return (nelbo - log_volume) / (n_positions * n_channels)
