"""scikit-learn's own, on the pixels as they are, in nelbo's environment."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest


class Pca:
    """Squared distance from the components that hold 95 % of the variance."""

    def __init__(self, side: int) -> None:  # noqa: ARG002
        self.pca = PCA(n_components=0.95, random_state=0)

    def fit(self, pixels: np.ndarray) -> tuple[int, int]:
        self.pca.fit(_rows(pixels))
        return 1, len(pixels)

    def score(self, pixels: np.ndarray) -> np.ndarray:
        rows = _rows(pixels)
        return np.square(rows - self.pca.inverse_transform(self.pca.transform(rows))).sum(axis=1)


class Forest:
    """An isolation forest."""

    def __init__(self, side: int) -> None:  # noqa: ARG002
        self.forest = IsolationForest(random_state=0)

    def fit(self, pixels: np.ndarray) -> tuple[int, int]:
        self.forest.fit(_rows(pixels))
        return 1, len(pixels)

    def score(self, pixels: np.ndarray) -> np.ndarray:
        return -self.forest.score_samples(_rows(pixels))


def _rows(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1)
