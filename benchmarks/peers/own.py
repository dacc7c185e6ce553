"""nelbo with its defaults, on arrays, one class for each engine. Some training images are held back for validation."""

import numpy as np
from sklearn.model_selection import train_test_split

from nelbo.vae_core import Scorable, TrainConfig, VAEConfig, export, score, train

VALIDATION_SHARE = 0.15
#: Images on which an exported engine is compared with Keras.
REFERENCES = 32


class Keras:
    """The network in Keras, as it was trained."""

    engine = "keras"

    def __init__(self, side: int) -> None:
        self.config, self.settings = VAEConfig(height=side, width=side), TrainConfig()

    def fit(self, pixels: np.ndarray) -> tuple[int, int]:
        learnt, validation = train_test_split(pixels, test_size=VALIDATION_SHARE, random_state=0)
        model, history, *_ = train(learnt, validation, self.config, self.settings)
        self.model: Scorable = model
        if self.engine != "keras":
            self.model = export(model, self.engine, pixels[:REFERENCES], model_id="peer")
        epochs = len(history["loss"])
        return epochs, epochs * len(learnt)

    def score(self, pixels: np.ndarray) -> np.ndarray:
        return score(self.model, pixels, maps=False).anomaly_score


class OpenVINO(Keras):
    """The same network, exported for OpenVINO."""

    engine = "openvino"


class Brief(Keras):
    """One epoch, to see within seconds whether it runs."""

    def __init__(self, side: int) -> None:
        super().__init__(side)
        self.settings = TrainConfig(epochs=1)
