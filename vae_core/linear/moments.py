"""Linear VAEs, solved instead of trained.

Encoder and decoder are linear, the prior is standard normal and the likelihood Gaussian, so the posterior is Gaussian
and known exactly. With it the evidence lower bound is tight, and its optimum has a closed form, that of probabilistic
principal component analysis: for the eigenvalues l_1 >= ... >= l_c of the covariance B of centred features u,

    sigma^2 = mean of l_(q+1), ..., l_c        W = U_q (diag(l_1, ..., l_q) - sigma^2)^(1/2)

Source: Tipping and Bishop 1999, "Probabilistic principal component analysis", equations 7 and 8; Lucas et al. 2019,
"Don't blame the ELBO!", section 4: the optimum of a linear VAE's bound.

All arithmetic here is NumPy's, in 64 bits.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

#: Latents of a position, or of the whole image. Held-out likelihood is no guide to this number: it prefers 30 or fewer,
#: which find less (docs/evidence/experiments.md).
N_LATENTS = 128
#: Weight of a position's own covariance beside the mean of all positions'.
OWN = 0.7
#: Share of the mean variance that is added to every direction before whitening.
RIDGE = 0.01
#: Fewer images say nothing of a covariance.
MIN_IMAGES = 10
#: For features that hardly change: whatever new images have in their place, its square is a number of 32 bits.
_LEAST_VARIANCE, _LEAST_NOISE = 1e-8, 1e-4
#: Images at a time: whitened, and summed up.
_CHUNK, _SUMMED = 64, 256

Array = NDArray[np.float64]


class Moments(NamedTuple):
    """Sums over n images of (p, c) features: of their values, (p, c), and of their products, (p, c, c)."""

    n: int
    values: Array
    products: Array

    @classmethod
    def of(cls, rows: NDArray[np.floating[Any]]) -> "Moments":
        """The moments of (n, p, c) features, taken some images at a time."""
        _, n_positions, n_channels = rows.shape
        values, products = np.zeros((n_positions, n_channels)), np.zeros((n_positions, n_channels, n_channels))
        for start in range(0, len(rows), _SUMMED):
            # Copied position by position: products of scattered numbers take four times as long.
            chunk = np.ascontiguousarray(rows[start : start + _SUMMED].transpose(1, 0, 2), np.float64)
            values += chunk.sum(axis=1)
            products += np.matmul(chunk.transpose(0, 2, 1), chunk)
        return cls(len(rows), values, products)

    def without(self, others: "Moments") -> "Moments":
        """The moments of the images that are not among others."""
        return Moments(self.n - others.n, self.values - others.values, self.products - others.products)

    @property
    def mean(self) -> Array:
        """(p, c)."""
        return self.values / self.n

    @property
    def covariance(self) -> Array:
        """(p, c, c), over n."""
        return self.products / self.n - self.mean[:, :, None] * self.mean[:, None, :]


class Solution(NamedTuple):
    """A linear VAE of whitened features u = A (f - m).

    Positions come in blocks that share a covariance, or are modelled as one: (1, p c, q) for the whole image.

    centre: (p, c) means m of the features.
    whitening: (c, c) A, of all positions.
    directions: (blocks, d, q) orthonormal U.
    variances: (blocks, q) eigenvalues, each at least `noise`.
    noise: (blocks,) sigma^2.
    """

    centre: Array
    whitening: Array
    directions: Array
    variances: Array
    noise: Array

    def with_ridge(self, ridge: float) -> "Solution":
        """The same with more variance in every direction."""
        return self._replace(variances=self.variances + ridge, noise=self.noise + ridge)

    def with_latents(self, n_latents: int) -> "Solution":
        """The same with further latents, which say nothing: directions of 0, without variance beyond the noise."""
        more = n_latents - self.variances.shape[-1]
        return self._replace(
            directions=np.pad(self.directions, ((0, 0), (0, 0), (0, more))),
            variances=np.concatenate([self.variances, np.repeat(self.noise[:, None], more, axis=1)], axis=1),
        )


def solve_positions(moments: Moments, *, shared: bool, n_latents: int = N_LATENTS) -> Solution:
    """A linear VAE for each position, or one for all of them, about each position's own mean.

    Args:
        moments: of (n, p, c) features.
        shared: one covariance for all positions, since parts that lie in any way have no place of their own.
        n_latents: at most c - 1 of them are used.

    >>> rows = np.random.default_rng(0).normal(size=(500, 2, 3)) * [3.0, 2.0, 1.0]
    >>> solution = solve_positions(Moments.of(rows), shared=True, n_latents=1)
    >>> solution.directions.shape, bool(abs(solution.noise[0] - 1) < 0.1)
    ((1, 3, 1), True)
    """
    covariance = moments.covariance
    whitening = whitening_of(covariance.mean(axis=0))
    whitened = whitening @ covariance @ whitening.T
    common = whitened.mean(axis=0)
    blocks = common[None] if shared else OWN * whitened + (1 - OWN) * common
    return _solved(moments.mean, whitening, blocks, n_latents)


class PooledSums(NamedTuple):
    """Sums over n images: of their features at each position, (p, c), and of the products at all of them, (c, c).

    counted: (p,) the positions whose products these are; None is all.
    """

    n: int
    values: Array
    products: Array
    counted: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, chunks: Iterable[NDArray[np.floating[Any]]], counted: NDArray[np.bool_] | None = None) -> "PooledSums":
        """The sums of (k, p, c) features, taken some images at a time."""
        n, values, products = 0, np.zeros(()), np.zeros(())
        for chunk in chunks:
            numbers = np.asarray(chunk, np.float64)
            some = numbers if counted is None else numbers[:, counted]
            flat = some.reshape(-1, some.shape[-1])
            n, values, products = n + len(numbers), values + numbers.sum(axis=0), products + flat.T @ flat
        return cls(n, values, products, counted)

    @classmethod
    def summed(cls, some: Iterable["PooledSums"]) -> "PooledSums":
        """The total of several sums."""
        ns, values, products, counted = zip(*some, strict=True)
        return cls(sum(ns), np.sum(values, axis=0), np.sum(products, axis=0), counted[0])

    def solution(self, n_latents: int = N_LATENTS) -> Solution:
        """The linear VAE of these images: a mean for each position, one covariance about those that count."""
        mean = self.values / self.n
        about = mean if self.counted is None else mean[self.counted]
        return solve_pooled(mean, (self.products / self.n - about.T @ about) / len(about), n_latents)


def solve_shared(chunks: Iterable[NDArray[np.floating[Any]]], n_latents: int = N_LATENTS) -> Solution:
    """The same as `solve_positions` with one covariance, for so many positions that each cannot have its own.

    Args:
        chunks: (k, p, c) features of some images at a time.

    >>> rows = np.random.default_rng(0).normal(size=(50, 2, 3))
    >>> one, other = solve_shared([rows[:20], rows[20:]]), solve_positions(Moments.of(rows), shared=True)
    >>> bool(np.allclose(one.variances, other.variances))
    True
    """
    return PooledSums.of(chunks).solution(n_latents)


def solve_pooled(mean: Array, covariance: Array, n_latents: int = N_LATENTS) -> Solution:
    """The same from (p, c) means and one (c, c) covariance about them."""
    whitening = whitening_of(covariance)
    return _solved(mean, whitening, (whitening @ covariance @ whitening.T)[None], n_latents)


def _solved(mean: Array, whitening: Array, covariances: Array, n_latents: int) -> Solution:
    """The optimum for (blocks, c, c) covariances of whitened features."""
    n_channels = len(whitening)
    q = min(n_latents, n_channels - 1)
    # Ascending.
    values, vectors = np.linalg.eigh(covariances)
    # With few images the other directions have no variance at all: a new image would be infinitely far off.
    least = np.maximum(RIDGE * values.mean(axis=1), _LEAST_NOISE)
    noise = np.maximum(values[:, : n_channels - q].mean(axis=1), least)
    variances = np.maximum(values[:, : n_channels - q - 1 : -1], noise[:, None])
    return Solution(mean, whitening, vectors[:, :, : n_channels - q - 1 : -1], variances, noise)


def solve_image(rows: NDArray[np.floating[Any]], moments: Moments, n_latents: int = N_LATENTS) -> Solution:
    """One linear VAE of all positions together.

    There are fewer images than features: the eigenvectors come from the n x n matrix of the images' products.

    Args:
        rows: (n, p, c) features.
        moments: of these rows.
        n_latents: at most n - 1 of them are used.
    """
    centre, whitening = moments.mean, whitening_of(moments.covariance.mean(axis=0))
    whitened = whiten(rows, centre, whitening).reshape(len(rows), -1)
    n, n_features = whitened.shape
    q = min(n_latents, n - 1, n_features - 1)
    products = np.matmul(whitened, whitened.T, dtype=np.float64) / n
    values, vectors = np.linalg.eigh(products)
    values, vectors = values[: n - q - 1 : -1], vectors[:, : n - q - 1 : -1]
    noise = max(0.0, np.trace(products) - values.sum()) / (n_features - q)
    # Directions without variance are undefined.
    kept = values > 1e-9 * values[0]
    values, vectors = values[kept], vectors[:, kept]
    directions = (whitened.T @ vectors.astype(np.float32)) / np.sqrt(n * values)
    variances = np.maximum(values, noise)
    return Solution(centre, whitening, directions[None], variances[None], np.array([noise]))


def whitening_of(covariance: Array) -> Array:
    """(c, c) lower triangular A with A (C + ridge) A^T = 1.

    >>> whitening_of(np.diag([4.0, 4.0])).round(3).tolist()
    [[0.498, 0.0], [0.0, 0.498]]
    """
    n = len(covariance)
    # Features that never change have no variance to share.
    added = max(RIDGE * np.trace(covariance) / n, _LEAST_VARIANCE)
    lower = np.linalg.cholesky(covariance + added * np.eye(n))
    return np.asarray(scipy.linalg.solve_triangular(lower, np.eye(n), lower=True))


def whiten(rows: NDArray[np.floating[Any]], centre: Array, whitening: Array) -> NDArray[np.float32]:
    """(n, p, c) whitened features, in 32 bits."""
    turned = whitening.T.astype(np.float32)
    whitened = np.empty(rows.shape, np.float32)
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        whitened[start : start + len(chunk)] = (chunk - centre).astype(np.float32) @ turned
    return whitened
