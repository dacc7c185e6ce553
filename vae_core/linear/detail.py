"""The map that people look at: how unusual each place of an image is, finer than the grid that is scored.

Each position has a mean of its own, and all share one linear VAE: a covariance for each of 32 x 32 positions would be
half a gigabyte. NumPy computes it, for the few images that people look at, from the backbone's maps.
"""

from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from nelbo.vae_core.linear.moments import Solution
from nelbo.vae_core.linear.variants import numbered_names

Maps = Sequence[NDArray[np.float32]]

_SCALE = "detail/scale"
#: Images at a time: each takes 1 MB.
_CHUNK = 16
#: Held while NumPy's products are limited to one thread: of two limits that overlap, the last would leave it so.
_one_thread = Lock()


class DetailMap:
    """A backbone's maps -> (n, gh, gw) nats, the local negative ELBO on the finest map's grid.

    Args:
        weights: arrays of float32, by the names that a bundle has for them; see `of`.
    """

    def __init__(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        self.weights = dict(weights)

    @classmethod
    def of(cls, solutions: Sequence[Solution], scales: Sequence[Sequence[float]]) -> "DetailMap":
        """The map of what was learnt of each variant.

        Args:
            solutions: one for each variant, of one block.
            scales: for each variant what is usual, and one unit, in nats; see `scales`.
        """
        weights: dict[str, Any] = {_SCALE: scales if len(scales) > 1 else scales[0]}
        for names, solution in zip(_names(len(solutions)), solutions, strict=True):
            weights |= zip(names, solution, strict=True)
        # In the order of their rows: a bundle holds the bytes as they lie in memory.
        return cls({name: np.ascontiguousarray(values, np.float32) for name, values in weights.items()})

    @classmethod
    def taken_from(cls, tensors: dict[str, NDArray[np.float32]], n_variants: int) -> "DetailMap":
        """The map whose weights are in a bundle's tensors, from which they are removed.

        Raises:
            KeyError: one is not there.
        """
        names = [_SCALE, *(name for names in _names(n_variants) for name in names)]
        return cls({name: tensors.pop(name) for name in names})

    @property
    def scales(self) -> NDArray[np.float32]:
        """(v, 2) what is usual of each variant, and one unit, in nats.

        In these units normal images reach as high as in the statistic ``peak``.
        """
        return self.weights[_SCALE].reshape(-1, 2)

    def nats(self, maps: Maps, number: int = 0) -> NDArray[np.float32]:
        """(n, gh, gw) local negative ELBO under a variant."""
        n, height, width, _ = maps[0].shape
        # More threads would wait in loops for each other, and for cores that decoders or the next batch use.
        with _one_thread, _threads().limit(limits=1, user_api="blas"):
            found = [self._nats([one[start : start + _CHUNK] for one in maps], number) for start in range(0, n, _CHUNK)]
        return np.concatenate([np.empty((0, height, width), np.float32), *found])

    def _nats(self, maps: Maps, number: int) -> NDArray[np.float32]:
        centre, root, constant = self._folded[number]
        n, height, width, _ = maps[0].shape
        centre = centre.reshape(height, width, -1)
        ends = np.cumsum([one.shape[-1] for one in maps])
        own = [slice(end - one.shape[-1], end) for one, end in zip(maps, ends, strict=True)]
        steps = [height // one.shape[1] for one in maps]
        centred = [one - centre[::step, ::step, own] for one, own, step in zip(maps, own, steps, strict=True)]
        total = np.zeros((n, 1, 1), np.float32)
        # The coarsest first: its columns of the root involve itself only, those of a finer map all coarser ones, too.
        for i in reversed(range(len(maps))):
            whitened = np.tensordot(centred[i], root[own[i], own[i]], 1)
            for j in range(i + 1, len(maps)):
                _add(np.tensordot(centred[j], root[own[j], own[i]], 1), whitened)
            squares = np.vecdot(whitened, whitened)
            _add(total, squares)
            total = squares
        return np.asarray(constant + 0.5 * total, np.float32)

    def __call__(self, maps: Maps, variant: NDArray[np.floating[Any]] | None = None) -> NDArray[np.float32]:
        """(n, gh, gw) nats, of each image under its own variant."""
        if variant is None:
            return self.nats(maps)
        found = np.empty((len(variant), *maps[0].shape[1:3]), np.float32)
        for number in np.unique(variant).astype(int):
            mine = variant == number
            found[mine] = self.nats([one[mine] for one in maps], number)
        return found

    @cached_property
    def _folded(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32], np.float32]]:
        """Centre m, root R and constant k of each variant, so that -log N(u; 0, W W^T + s) = k + |(f - m) R|^2 / 2.

        u = A (f - m) are whitened features. In the directions U the variances are l, else s: the inverse of the
        covariance is 1 / s + U (1 / l - 1 / s) U^T. Of all roots R is the triangular one: what is coarse is multiplied
        on its own grid, and the finest map's columns are the few of its own channels.
        """
        folded = []
        for names in _names(len(self.scales)):
            centre, matrix, directions, variances, noise = (self.weights[name].astype(np.float64) for name in names)
            (u,), (largest,), (s,) = directions, variances, noise
            half = np.eye(len(u)) / np.sqrt(s) + (u * (1 / np.sqrt(largest) - 1 / np.sqrt(s))) @ u.T
            # Up to an orthogonal matrix, which leaves lengths as they are.
            root = np.linalg.qr(half @ matrix).R.T
            n_other = u.shape[0] - u.shape[1]
            constant = 0.5 * (len(u) * np.log(2 * np.pi) + np.log(largest).sum() + n_other * np.log(s))
            folded.append((centre.astype(np.float32), root.astype(np.float32), np.float32(constant)))
        return folded


@cache
def _threads() -> ThreadpoolController:
    """The thread pools, found once: finding them takes longer than the map of an image."""
    return ThreadpoolController()


def _names(n_variants: int) -> list[list[str]]:
    """Names of the weights of each variant, in the order of a `Solution`."""
    whitenings, networks = (numbered_names(name, n_variants) for name in ("detail_whitening", "detail_vae"))
    return [
        [f"{whitening}/{part}" for part in ("centre", "matrix")]
        + [f"{network}/{part}" for part in ("directions", "variances", "noise")]
        for whitening, network in zip(whitenings, networks, strict=True)
    ]


def _add(coarse: NDArray[np.floating[Any]], fine: NDArray[np.floating[Any]]) -> None:
    """Add a map to a finer one, each of its places to all that lie in it."""
    rows, columns = coarse.shape[1:3]
    cells = fine.reshape(len(fine), rows, fine.shape[1] // rows, columns, fine.shape[2] // columns, *fine.shape[3:])
    cells += coarse[:, :, None, :, None]


def joined(maps: Maps) -> NDArray[np.float32]:
    """All maps side by side on the grid of the finest: (n, gh, gw, channels).

    >>> joined([np.zeros((1, 4, 4, 3)), np.ones((1, 2, 2, 5))]).shape
    (1, 4, 4, 8)
    """
    rows = maps[0].shape[1]
    return np.concatenate([_repeated(one, rows // one.shape[1]) for one in maps], axis=-1)


def _repeated(maps: NDArray[np.floating[Any]], n: int) -> NDArray[np.floating[Any]]:
    return maps if n == 1 else maps.repeat(n, axis=1).repeat(n, axis=2)
