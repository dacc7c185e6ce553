"""What is wrong with a trained network although nothing failed."""

import numpy as np
from keras import ops

from nelbo.vae_core.config import SIGMA_FLOOR
from nelbo.vae_core.network.likelihoods import Tensor
from nelbo.vae_core.network.objective import kl_divergence
from nelbo.vae_core.network.vae import VAE
from nelbo.vae_core.scoring import Array, default_batch_size

#: Nats of rate, in the mean over images, below which the latents say next to nothing.
COLLAPSED_RATE = 0.1
#: A standard deviation this close to its floor would be smaller if it could.
NEAR_FLOOR = 1.5
#: Share of the values near the floor that is worth a warning.
FLOOR_SHARE = 0.01


def diagnose(network: VAE, normals: Array) -> list[str]:
    """Warnings for people, one sentence or two each; none for a sound network.

    Args:
        network: a trained one.
        normals: (n, h, w, c) float32 in [0, 1], held-out normal images; a few dozen are enough.
    """
    rates: list[float] = []
    near_floor: list[float] = []
    likelihood, size = network.likelihood, default_batch_size(network.config)
    for start in range(0, len(normals), size):
        z_mean, z_log_var = network.encoder(normals[start : start + size])
        rates.extend(ops.convert_to_numpy(kl_divergence(z_mean, z_log_var)))
        # A probability cannot be made large by a small sigma: only densities have a floor that matters.
        if likelihood.has_sigma and network.config.is_density:
            near_floor.append(_share_near_floor(likelihood.sigma(network.decoder(z_mean))))
    # Means over images, to judge the network by; they are in no objective.
    rate, share = float(np.mean(rates)), float(np.mean(near_floor or [0]))
    warnings = []
    if rate < COLLAPSED_RATE:
        warnings.append(
            f"Posterior collapse: the rate is {rate:.2g} nats in the mean, so every image is reconstructed alike. "
            "Train with warmup_epochs, free_bits, or beta below 1."
        )
    if share > FLOOR_SHARE:
        warnings.append(
            f"Sigma is at its floor of {SIGMA_FLOOR:.2g} for {100 * share:.3g} % of the values: parts of the "
            "images are constant, or known by heart. Their nats are set by the floor, not by the data."
        )
    return warnings


def _share_near_floor(sigma: Tensor) -> float:
    return float(np.mean(ops.convert_to_numpy(sigma) < NEAR_FLOOR * SIGMA_FLOOR))
