"""Linear VAEs fitted on folds: every normal image is seen as a new one would be.

Each fold of the images is scored by a model of the others. This shows which kind of model fits, what is usual at each
place, and what images score that the model has not seen; the model that is kept is of all images.
"""

from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from keras import ops
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from nelbo.vae_core.config import ALIGNED, FREE, LINEAR, LINEAR_IMAGE, VAEConfig
from nelbo.vae_core.linear.moments import Moments, Solution, solve_image, solve_positions, whiten
from nelbo.vae_core.linear.vae import LinearVAE, blocks_of

#: Parts of the images, each scored by a model of the others.
N_FOLDS = 5
#: Variances that are added to every direction of an image's features, of which held-out images choose one.
RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
#: Images scored at a time.
_CHUNK = 64

Rows = NDArray[np.floating[Any]]


class Unseen(NamedTuple):
    """What models say of images that they have not seen, in the images' order.

    distortion_map, rate_map: (n, gh, gw) nats for each position.
    z_mean_norm, z_log_var_sum: (n,), see `vae_core.Score`.
    """

    distortion_map: NDArray[np.float32]
    rate_map: NDArray[np.float32]
    z_mean_norm: NDArray[np.float32]
    z_log_var_sum: NDArray[np.float32]

    @property
    def nelbo(self) -> float:
        """Nats of all images together."""
        return float(self.nelbo_of(slice(None)).sum())

    def nelbo_of(self, some: slice | NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """(k,) nats of some images."""
        maps = (self.distortion_map[some], self.rate_map[some])
        return np.asarray(sum(one.sum(axis=(1, 2), dtype=np.float64) for one in maps))


class Fit(NamedTuple):
    """Linear VAEs of all images, one for each variant.

    solutions: one for each variant's images, all with the same number of latents.
    subject: which covariances they have; None for one of the whole image.
    unseen: what models of the other folds say of each image.
    of_others: the same without the images of one fold; apart: (k,) those images, which they have not seen.
    """

    solutions: tuple[Solution, ...]
    subject: str | None
    unseen: Unseen
    of_others: tuple[Solution, ...]
    apart: NDArray[np.int64]


class _Tried(NamedTuple):
    """One kind of model: of all images; what models of other folds say; and the model of all folds but the first."""

    solution: Solution
    unseen: Unseen
    of_others: Solution


def default_folds(n: int) -> NDArray[np.int64]:
    """(n,) fold of each image: images take the folds in turn."""
    return np.arange(n) % min(N_FOLDS, n)


def fit_folds(
    rows: Rows,
    shape: tuple[int, int, int],
    config: VAEConfig,
    folds: ArrayLike,
    variants: NDArray[np.int64] | None = None,
) -> Fit:
    """Fit a linear VAE on features of normal images, and score each image by models of the others.

    Args:
        rows: (n, p, c) features; (r n, p, c) where each image was turned r times, with all unturned images first.
        shape: (gh, gw, c), gh gw = p.
        config: head and subject; where the latter is None, the images choose.
        folds: (n,) the fold of each image; at least two.
        variants: (n,) from 0: the images of each have a model of their own. None for one of all.
    """
    numbers = np.asarray(folds)
    own = np.zeros(len(numbers), np.int64) if variants is None else variants
    of_rows = np.tile(own, len(rows) // len(own))
    images = [np.flatnonzero(own == variant) for variant in np.unique(own)]
    # A single variant is not copied.
    each = [rows] if len(images) == 1 else (rows[of_rows == variant] for variant in np.unique(own))
    fits = [_fit_one(some, shape, config, numbers[mine]) for some, mine in zip(each, images, strict=True)]
    best = min(fits[0], key=lambda subject: sum(fit[subject].unseen.nelbo for fit in fits))
    chosen = [fit[best] for fit in fits]
    n_latents = max(one.solution.variances.shape[-1] for one in chosen)
    solutions, of_others = (
        tuple(solution.with_latents(n_latents) for solution in some)
        for some in zip(*((one.solution, one.of_others) for one in chosen), strict=True)
    )
    apart = np.concatenate([mine[numbers[mine] == numbers[mine].min()] for mine in images])
    return Fit(solutions, best, _in_order([one.unseen for one in chosen], images), of_others, np.sort(apart))


def _fit_one(
    rows: Rows, shape: tuple[int, int, int], config: VAEConfig, numbers: NDArray[Any]
) -> dict[str | None, _Tried]:
    """Models of one variant, by the subject of each that is tried."""
    moments = Moments.of(rows)
    names = np.unique(numbers)
    parts = [np.flatnonzero(numbers == fold) for fold in names]
    turned = np.tile(numbers, len(rows) // len(numbers))
    if len(parts) < 2:
        raise ValueError(f"folds: expected at least 2, got {len(parts)}. Give images of more than one group")
    # The turned views of an image are left out with it.
    others = [moments.without(Moments.of(rows[turned == fold])) for fold in names]
    if config.head == LINEAR_IMAGE:
        ridge, unseen, first = _best_ridge(rows, shape, parts, turned, others)
        return {None: _Tried(solve_image(rows, moments).with_ridge(ridge), unseen, first)}
    tried: dict[str | None, _Tried] = {}
    # Products of a position each are too small for several threads, which wait in loops.
    with threadpool_limits(1, "blas"):
        for subject in (ALIGNED, FREE) if config.subject is None else (config.subject,):
            shared = subject == FREE
            first = solve_positions(others[0], shared=shared)
            solved = chain([first], (solve_positions(some, shared=shared) for some in others[1:]))
            unseen = _unseen(rows, shape, parts, solved, blocks_of(LINEAR, subject))
            tried[subject] = _Tried(solve_positions(moments, shared=shared), unseen, first)
    return tried


def _best_ridge(
    rows: Rows, shape: tuple[int, int, int], parts: list[Any], turned: NDArray[Any], others: list[Moments]
) -> tuple[float, Unseen, Solution]:
    """The variance to add under which unseen images are likeliest; and with it the model of all folds but the first."""
    found: dict[float, list[Unseen]] = {ridge: [] for ridge in RIDGES}
    solutions: list[Solution] = []
    for part, moments in zip(parts, others, strict=True):
        solution = solve_image(rows[turned != turned[part[0]]], moments)
        # Only the first is needed later, and a solution of the whole image is large.
        solutions = solutions or [solution]
        values = whiten(rows[part], solution.centre, solution.whitening)
        for ridge in RIDGES:
            found[ridge].append(seen_by(values, shape, solution.with_ridge(ridge), "image"))
    best = min(RIDGES, key=lambda ridge: sum(one.nelbo for one in found[ridge]))
    return best, _in_order(found[best], parts), solutions[0].with_ridge(best)


def _unseen(
    rows: Rows, shape: tuple[int, int, int], parts: list[Any], solutions: Iterable[Solution], blocks: str
) -> Unseen:
    said = []
    for part, solution in zip(parts, solutions, strict=True):
        values = whiten(rows[part], solution.centre, solution.whitening)
        said.append(seen_by(values, shape, solution, blocks))
    return _in_order(said, parts)


def seen_by(values: NDArray[np.float32], shape: tuple[int, int, int], solution: Solution, blocks: str) -> Unseen:
    """What a solution says of whitened features."""
    network = LinearVAE(shape, solution.variances.shape[-1], blocks)
    network.assign(solution)
    chunks = []
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        found = network.evaluate(ops.convert_to_tensor(chunk.reshape(-1, *shape)))
        chunks.append(
            Unseen(
                np.asarray(found["anomaly_map"]),
                np.asarray(found["rate_map"]),
                np.sqrt(np.square(np.asarray(found["z_mean"])).sum(axis=(1, 2, 3))),
                np.asarray(found["z_log_var"]).sum(axis=(1, 2, 3)),
            )
        )
    return Unseen(*(np.concatenate(column) for column in zip(*chunks, strict=True)))


def _in_order(said: list[Unseen], parts: list[Any]) -> Unseen:
    order = np.argsort(np.concatenate(parts))
    return Unseen(*(np.concatenate(column)[order] for column in zip(*said, strict=True)))
