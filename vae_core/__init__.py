"""A variational autoencoder for images whose every number is per image and in nats.

``distortion`` (minus log likelihood) + ``rate`` (KL divergence) = ``nelbo``; higher = more anomalous. Beta is
not in it.
"""

from vae_core.bundle import BundleError, load_bundle, save_bundle, verify_bundle
from vae_core.config import TrainConfig, VAEConfig
from vae_core.layers import Sampling
from vae_core.model import Model, score
from vae_core.objective import bits_per_dim, gaussian_log_likelihood, kl_divergence, local_nelbo
from vae_core.scoring import Score
from vae_core.training import Training, train

__all__ = [
    "BundleError",
    "Model",
    "Sampling",
    "Score",
    "TrainConfig",
    "Training",
    "VAEConfig",
    "bits_per_dim",
    "gaussian_log_likelihood",
    "kl_divergence",
    "load_bundle",
    "local_nelbo",
    "save_bundle",
    "score",
    "train",
    "verify_bundle",
]
