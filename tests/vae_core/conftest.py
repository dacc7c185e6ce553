import numpy as np
import pytest
from synthetic import stripes

from nelbo.vae_core import Model, TrainConfig, VAEConfig, train


@pytest.fixture(scope="session")
def model() -> Model:
    """A small model of the first 96 stripes of a seed."""
    random = np.random.default_rng(1)
    config = VAEConfig(height=24, width=20, noise_draws=3)
    return train(stripes(random, 96), stripes(random, 32), config, TrainConfig(epochs=15)).model
