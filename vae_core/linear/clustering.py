"""Finds variants of a product among normal images: clusters of their places that are real."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from nelbo.vae_core.config import AUTO
from nelbo.vae_core.linear.variants import N_COMPONENTS, Places, Variants
from nelbo.vae_core.usual import median_and_spread

#: More are found only if the user says how many.
MOST = 8
#: Least adjusted Rand index (Hubert and Arabie 1985) of the clusterings of two halves of the images; 0 by chance.
AGREEMENT = 0.95
#: Most images halfway between two centres, over those around the centre with fewer. One cloud cut in two has 1 or more.
VALLEY = 0.25

#: Images that each variant needs, whatever its promise needs: with fewer, a model together with others is better.
LEARNT_FROM = 50
#: Images for each component: fewer say nothing of the directions in which places vary.
_IMAGES_EACH = 5
#: Images that are clustered; more say the same.
_CLUSTERED = 2000
_STARTS = 5


def find_variants(
    means: NDArray[np.floating[Any]], asked: int | str, folds: ArrayLike, least: int
) -> NDArray[np.int64]:
    """The variant of each normal image, 0 for the largest; all 0 where there is one.

    With "auto", it is the largest number at which the variants are real: halves of the images, folds kept whole, give
    the same ones; hardly an image lies between two; and each has enough images.

    Args:
        means: (n, c) features, means over positions.
        asked: how many, or "auto".
        folds: (n,) the fold of each image.
        least: images that each variant needs, with "auto".

    >>> random = np.random.default_rng(0)
    >>> means = random.normal(size=(150, 4)) + 9 * (np.arange(150) % 3 == 0)[:, None]
    >>> np.bincount(find_variants(means, "auto", np.arange(150) % 5, least=50)).tolist()
    [100, 50]
    >>> np.bincount(find_variants(random.normal(size=(150, 4)), "auto", np.arange(150) % 5, least=50)).tolist()
    [150]
    """
    if asked == 1:
        return np.zeros(len(means), np.int64)
    places = _principal(means).transform(means)
    if asked != AUTO:
        return _by_size(_clustered(places, int(asked)).predict(places))
    some = np.linspace(0, len(places) - 1, min(len(places), _CLUSTERED)).astype(int)
    numbers = np.asarray(folds)[some]
    for n_variants in range(min(MOST, len(means) // least), 1, -1):
        clusters = _clustered(places[some], n_variants)
        labels = clusters.predict(places)
        if (
            np.bincount(labels, minlength=n_variants).min() >= least
            and _between(places, labels, clusters.cluster_centers_) <= VALLEY
            and _agreement(places[some], n_variants, numbers) >= AGREEMENT
        ):
            return _by_size(labels)
    return np.zeros(len(means), np.int64)


def learn_places(
    means: NDArray[np.floating[Any]], variants: NDArray[np.int64], folds: ArrayLike
) -> tuple[Variants, Places]:
    """Where variants lie, and how far beyond the usual distance each normal image lies, judged by others.

    Args:
        means: (n, c) features, means over positions.
        variants: (n,) from 0.
        folds: (n,) the fold of each image; its distance is from where images of other folds put its variant.

    Returns:
        The variants, and (n,) `Variants.beyond`.
    """
    numbers = np.asarray(folds)
    distances = np.empty(len(means))
    for fold in np.unique(numbers):
        mine = numbers == fold
        projection, centres = _places(means[~mine], variants[~mine])
        unseen = Variants(projection, centres, np.ones((len(centres), 2))).distances(means[mine])
        distances[mine] = np.take_along_axis(unseen, variants[mine][:, None], axis=1)[:, 0]
    projection, centres = _places(means, variants)
    usual = np.stack([median_and_spread(np.log(distances[variants == one])) for one in range(len(centres))])
    found = Variants(projection, centres, usual)
    return found, found.beyond(distances, variants)


def _places(means: NDArray[np.floating[Any]], variants: NDArray[np.int64]) -> tuple[Places, Places]:
    """Projection and centres; not whitened, because a defect would outweigh all else in directions that hardly vary."""
    projection = _principal(means).components_.T
    centres = [means[variants == one].mean(axis=0, dtype=np.float64) for one in range(variants.max() + 1)]
    return projection, np.stack(centres) @ projection


def _principal(means: NDArray[np.floating[Any]]) -> PCA:
    n = max(1, min(N_COMPONENTS, len(means) // _IMAGES_EACH, means.shape[1]))
    return PCA(n, svd_solver="full").fit(np.asarray(means, np.float64))


def _clustered(places: Places, n_variants: int) -> KMeans:
    return KMeans(n_variants, n_init=_STARTS, random_state=0).fit(places)


def _between(places: Places, labels: NDArray[Any], centres: Places) -> float:
    """Images in the middle third of the way between two centres, over those around the emptier one; the worst pair."""
    worst = 0.0
    for one in range(len(centres)):
        for other in range(one):
            way = centres[other] - centres[one]
            here = np.isin(labels, (one, other))
            along = (places[here] - centres[one]) @ way / (way @ way)
            ends = [(np.abs(along - end) < 1 / 6).sum() for end in (0, 1)]
            worst = max(worst, (np.abs(along - 0.5) < 1 / 6).sum() / max(1, min(ends)))
    return worst


def _agreement(places: Places, n_variants: int, folds: NDArray[Any]) -> float:
    """The least agreement of the clusterings of two halves, each on all images; folds go into the halves whole."""
    names = np.unique(folds)
    least = 1.0
    for first in range(len(names)):
        half = np.isin(folds, np.roll(names, first)[: len(names) // 2])
        if min(half.sum(), (~half).sum()) < n_variants:
            return 0.0
        one, other = (_clustered(places[part], n_variants).predict(places) for part in (half, ~half))
        least = min(least, float(adjusted_rand_score(one, other)))
        if least < AGREEMENT:
            break
    return least


def _by_size(labels: NDArray[Any]) -> NDArray[np.int64]:
    """The same clusters, numbered from the largest."""
    order = np.argsort(-np.bincount(labels), kind="stable")
    return np.argsort(order)[labels].astype(np.int64)
