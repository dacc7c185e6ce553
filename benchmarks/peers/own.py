"""nelbo with its defaults, on arrays; a class an engine. Some of the training images are held back for validation."""

import numpy as np
from sklearn.model_selection import train_test_split

from vae_core import TrainConfig, VAEConfig, score, train

VALIDATION_SHARE = 0.15


class Keras:
    """The network as it was trained."""

    def __init__(self, side: int) -> None:
        self.config, self.settings = VAEConfig(height=side, width=side), TrainConfig()

    def fit(self, pixels: np.ndarray) -> tuple[int, int]:
        learnt, validation = train_test_split(pixels, test_size=VALIDATION_SHARE, random_state=0)
        self.model, history, _ = train(learnt, validation, self.config, self.settings)
        epochs = len(history["loss"])
        return epochs, epochs * len(learnt)

    def score(self, pixels: np.ndarray) -> np.ndarray:
        return score(self.model, pixels, maps=False).anomaly_score


class Brief(Keras):
    """Whether it runs, in seconds."""

    def __init__(self, side: int) -> None:
        super().__init__(side)
        self.settings = TrainConfig(epochs=1)
