"""What a detector has to beat: simple numbers of an image, and classical methods on pixels.

Each class takes the side of the images and a seed, and has the two methods that ``peers/measure.py`` needs:
``fit(train)``, on (n, side, side, 1) float32 in [0, 1] of normal images only, returns the number of epochs, and of
images that it learnt from; ``score(test)`` returns (n,) scores, higher = more anomalous. Nothing here is tuned.
"""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.svm import OneClassSVM


class Baseline:
    """Learns nothing, unless a subclass overrides `learn`."""

    def __init__(self, side: int, seed: int = 0) -> None:
        self.side, self.seed = side, seed

    def fit(self, train: np.ndarray) -> tuple[int, int]:
        self.learn(train)
        return 1, len(train)

    def learn(self, train: np.ndarray) -> None: ...

    def score(self, test: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class Brightness(Baseline):
    """The distance of the mean brightness from the usual one, either way."""

    def learn(self, train: np.ndarray) -> None:
        self.usual = np.median(train.mean(axis=(1, 2, 3)))

    def score(self, test: np.ndarray) -> np.ndarray:
        return np.abs(test.mean(axis=(1, 2, 3)) - self.usual)


class Darkness(Baseline):
    """Minus the mean brightness."""

    def score(self, test: np.ndarray) -> np.ndarray:
        return -test.mean(axis=(1, 2, 3))


class DarkestPixel(Baseline):
    """Minus the darkest pixel."""

    def score(self, test: np.ndarray) -> np.ndarray:
        return -test.min(axis=(1, 2, 3))


class Reconstruction(Baseline):
    """Squared distance from the principal components that hold 95 % of the variance."""

    def learn(self, train: np.ndarray) -> None:
        self.pca = PCA(n_components=0.95, random_state=self.seed).fit(_rows(train))

    def score(self, test: np.ndarray) -> np.ndarray:
        rows = _rows(test)
        return np.square(rows - self.pca.inverse_transform(self.pca.transform(rows))).sum(axis=1)


class Forest(Baseline):
    """An isolation forest."""

    def learn(self, train: np.ndarray) -> None:
        self.forest = IsolationForest(random_state=self.seed).fit(_rows(train))

    def score(self, test: np.ndarray) -> np.ndarray:
        return -self.forest.score_samples(_rows(test))


class Svm(Baseline):
    """A one-class SVM on 64 whitened principal components."""

    def learn(self, train: np.ndarray) -> None:
        n_components = min(64, len(train))
        components = PCA(n_components, whiten=True, random_state=self.seed)
        self.pipeline = make_pipeline(components, OneClassSVM()).fit(_rows(train))

    def score(self, test: np.ndarray) -> np.ndarray:
        return -self.pipeline.score_samples(_rows(test))


class Nearest(Baseline):
    """Distance to the nearest training image, pixel by pixel."""

    def learn(self, train: np.ndarray) -> None:
        self.neighbours = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(_rows(train))

    def score(self, test: np.ndarray) -> np.ndarray:
        return self.neighbours.kneighbors(_rows(test))[0][:, 0]


#: Baselines by their names in tables.
BASELINES: dict[str, type[Baseline]] = {
    "brightness, either way": Brightness,
    "darkness": Darkness,
    "darkest pixel": DarkestPixel,
    "PCA reconstruction": Reconstruction,
    "IsolationForest": Forest,
    "OC-SVM on PCA-64": Svm,
    "1-NN on pixels": Nearest,
}


def _rows(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1)
