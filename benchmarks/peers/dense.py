"""PyOD's autoencoders: small dense networks on rows of pixels."""

import numpy as np
from pyod.models import auto_encoder, vae


class _Rows:
    make: type

    def __init__(self, side: int) -> None:  # noqa: ARG002
        self.detector = self.make(verbose=0)

    def fit(self, pixels: np.ndarray) -> tuple[int, int]:
        self.detector.fit(pixels.reshape(len(pixels), -1))
        epochs = self.detector.epoch_num
        return epochs, epochs * len(pixels)

    def score(self, pixels: np.ndarray) -> np.ndarray:
        return self.detector.decision_function(pixels.reshape(len(pixels), -1))


class Vae(_Rows):
    make = vae.VAE


class AutoEncoder(_Rows):
    make = auto_encoder.AutoEncoder
