from .bound import Bound, importance_weighted_bound
from .bundle import load_bundle, save_bundle, verify_bundle
from .checksums import BundleError
from .config import TrainConfig, VAEConfig, check_together
from .device import check_devices
from .engines.difference import LOST, difference, differences, unmoved
from .engines.exported import (
    ENGINES,
    EngineError,
    Exported,
    is_installed,
)
from .engines.exporting import export, usual_engines
from .engines.folder import exported_files, load_exported, save_exported
from .engines.speed import images_per_s, machine
from .features.pretext import n_pretext_epochs
from .features.pretrained import BackboneError
from .linear.crossfit import N_FOLDS
from .linear.variants import VariantError
from .model import Model
from .network.layers import Sampling
from .network.likelihoods import (
    bernoulli_log_likelihood,
    continuous_bernoulli_log_likelihood,
    discretised_logistic_log_likelihood,
    gaussian_log_likelihood,
)
from .network.objective import kl_divergence, rate_map
from .pixels import supported
from .scoring import PixelsError, Scorable, Score, bits_per_dim, score, score_and_map
from .training.training import Training, train

__all__ = [
    "ENGINES",
    "LOST",
    "N_FOLDS",
    "BackboneError",
    "Bound",
    "BundleError",
    "EngineError",
    "Exported",
    "Model",
    "PixelsError",
    "Sampling",
    "Scorable",
    "Score",
    "TrainConfig",
    "Training",
    "VAEConfig",
    "VariantError",
    "bernoulli_log_likelihood",
    "bits_per_dim",
    "check_devices",
    "check_together",
    "continuous_bernoulli_log_likelihood",
    "difference",
    "differences",
    "discretised_logistic_log_likelihood",
    "export",
    "exported_files",
    "gaussian_log_likelihood",
    "images_per_s",
    "importance_weighted_bound",
    "is_installed",
    "kl_divergence",
    "load_bundle",
    "load_exported",
    "machine",
    "n_pretext_epochs",
    "rate_map",
    "save_bundle",
    "save_exported",
    "score",
    "score_and_map",
    "supported",
    "train",
    "unmoved",
    "usual_engines",
    "verify_bundle",
]
