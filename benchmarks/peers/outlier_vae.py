"""alibi-detect's OutlierVAE with the network of its own example on CIFAR-10, for one channel; users supply networks.

It scores in batches of 64, as it trains: by default all images go through the network at once, with ten samples of
each, which at 128 px takes more memory than most machines have.
"""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import numpy as np
import tensorflow as tf
from alibi_detect.od import OutlierVAE
from tensorflow.keras import layers

LATENTS, BATCH_SIZE = 1024, 64
#: The default of `OutlierVAE.fit`.
EPOCHS = 20


class Outlier:
    def __init__(self, side: int) -> None:
        tf.keras.utils.set_random_seed(0)
        convolution = {"kernel_size": 4, "strides": 2, "padding": "same"}
        encoder = tf.keras.Sequential(
            [layers.InputLayer((side, side, 1))]
            + [layers.Conv2D(n, activation="relu", **convolution) for n in (64, 128, 512)]
        )
        smallest = side // 8
        decoder = tf.keras.Sequential(
            [
                layers.InputLayer((LATENTS,)),
                layers.Dense(smallest * smallest * 128),
                layers.Reshape((smallest, smallest, 128)),
                layers.Conv2DTranspose(256, activation="relu", **convolution),
                layers.Conv2DTranspose(64, activation="relu", **convolution),
                layers.Conv2DTranspose(1, activation="sigmoid", **convolution),
            ]
        )
        self.detector = OutlierVAE(threshold=0.0, encoder_net=encoder, decoder_net=decoder, latent_dim=LATENTS)

    def fit(self, pixels: np.ndarray) -> tuple[int, int]:
        self.detector.fit(pixels, epochs=EPOCHS, verbose=False)
        return EPOCHS, EPOCHS * len(pixels)

    def score(self, pixels: np.ndarray) -> np.ndarray:
        _, scores = self.detector.score(pixels, batch_size=BATCH_SIZE)
        return scores
