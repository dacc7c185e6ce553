"""A variational autoencoder for images whose every number is per image and in nats.

``distortion`` (minus log likelihood) + ``rate`` (KL divergence) = ``nelbo``; higher = more anomalous. Beta is
not in it.
"""

from vae_core.bound import Bound, importance_weighted_bound
from vae_core.bundle import BundleError, load_bundle, save_bundle, verify_bundle
from vae_core.config import TrainConfig, VAEConfig, check_together
from vae_core.device import check_devices
from vae_core.layers import Sampling
from vae_core.likelihoods import (
    bernoulli_log_likelihood,
    continuous_bernoulli_log_likelihood,
    discretised_logistic_log_likelihood,
    gaussian_log_likelihood,
)
from vae_core.model import Model, score
from vae_core.objective import bits_per_dim, kl_divergence, rate_map
from vae_core.scoring import PixelsError, Score
from vae_core.training import Training, train

__all__ = [
    "Bound",
    "BundleError",
    "Model",
    "PixelsError",
    "Sampling",
    "Score",
    "TrainConfig",
    "Training",
    "VAEConfig",
    "bernoulli_log_likelihood",
    "bits_per_dim",
    "check_devices",
    "check_together",
    "continuous_bernoulli_log_likelihood",
    "discretised_logistic_log_likelihood",
    "gaussian_log_likelihood",
    "importance_weighted_bound",
    "kl_divergence",
    "load_bundle",
    "rate_map",
    "save_bundle",
    "score",
    "train",
    "verify_bundle",
]
