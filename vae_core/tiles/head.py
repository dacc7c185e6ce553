"""What a linear VAE of all positions says of features, in NumPy: for tiles in training, and aligned ones in scoring.

It is `nelbo.vae_core.linear.vae.LinearVAE` with the blocks "shared", in closed form: for whitened features
u = A (f - m), directions U, variances l and noise s

    nelbo = -log N(u; 0, W W^T + s)        rate = KL(N(z, s / l), N(0, 1)),   z = sqrt(l - s) / l * U^T u
"""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nelbo.vae_core.linear.moments import Solution

#: Tiles at a time: each takes 0.3 MB.
_CHUNK = 32


class Said(NamedTuple):
    """What a model says of tiles.

    distortion, rate: (t, g, g) nats at each position.
    z_squared, z_log_var: (t,) sums over all latents, of the squared posterior means and the log variances.
    """

    distortion: NDArray[np.float32]
    rate: NDArray[np.float32]
    z_squared: NDArray[np.float64]
    z_log_var: NDArray[np.float64]

    def with_tiles(self, numbers: NDArray[np.integer[Any]], others: "Said") -> "Said":
        """The same with other numbers for some tiles."""
        found: list[NDArray[Any]] = [one.copy() for one in self]
        for mine, other in zip(found, others, strict=True):
            mine[numbers] = other
        return Said(*found)


class Head:
    """A solution with one covariance, ready to be used.

    Args:
        solution: with one block; its `centre` may be (p, c), or (t, p, c) for tiles that have means of their own.
    """

    def __init__(self, solution: Solution) -> None:
        self.solution = solution

    @cached_property
    def _folded(self) -> tuple[NDArray[np.float32], ...]:
        one = self.solution
        return tuple(
            np.ascontiguousarray(values, np.float32) for values in (one.centre, one.whitening.T, one.directions[0])
        )

    def __call__(self, features: NDArray[np.floating[Any]], numbers: NDArray[np.integer[Any]] | None = None) -> Said:
        """What is said of the (t, g, g, c) features of all tiles of an image, or of the tiles with these numbers."""
        numbers = np.arange(len(features)) if numbers is None else numbers
        chunks = [slice(start, start + _CHUNK) for start in range(0, len(features), _CHUNK)]
        some = [self._said(features[chunk], numbers[chunk]) for chunk in chunks]
        return Said(*(np.concatenate(said) for said in zip(*some, strict=True)))

    def _said(self, features: NDArray[np.floating[Any]], numbers: NDArray[np.integer[Any]]) -> Said:
        centre, whitening, directions = self._folded
        t, height, width, channels = features.shape
        centred = features.reshape(t, -1, channels) - (centre if centre.ndim == 2 else centre[numbers])
        # One product for each tile, so that a tile has the same nats at each place of a batch.
        u = np.matmul(centred.astype(np.float32), whitening)
        squares = np.square(np.matmul(u, directions))
        (variances,), (noise,) = self.solution.variances, self.solution.noise
        shares = noise / variances
        n_other = channels - len(variances)
        constant = channels * np.log(2 * np.pi) + np.log(variances).sum() + n_other * np.log(noise)
        rest = np.einsum("tpc,tpc->tp", u, u) / np.float32(noise)
        weights = np.stack([1 / variances - 1 / noise, (variances - noise) / variances**2], axis=1)
        known, z = np.moveaxis(squares @ weights.astype(np.float32), -1, 0)
        nelbo = 0.5 * (constant + rest + known)
        log_shares = np.log(shares).sum()
        rate = 0.5 * (z + shares.sum() - log_shares - len(variances))
        on_grid = (t, height, width)
        return Said(
            (nelbo - rate).astype(np.float32).reshape(on_grid),
            rate.astype(np.float32).reshape(on_grid),
            z.sum(axis=1, dtype=np.float64),
            np.full(t, float(log_shares) * height * width),
        )
