"""What is wrong with a trained network although nothing failed."""

import numpy as np

from vae_core.layers import SIGMA_FLOOR
from vae_core.likelihoods import Tensor
from vae_core.network import VAE
from vae_core.objective import kl_divergence
from vae_core.scoring import Array

#: Nats of rate, in the mean over images, below which the latents say next to nothing.
COLLAPSED_RATE = 0.1
#: A standard deviation this close to its floor would be smaller if it could.
NEAR_FLOOR = 1.5
#: Share of the values near the floor that is worth a word.
FLOOR_SHARE = 0.01


def diagnose(network: VAE, normals: Array) -> list[str]:
    """Warnings for people, one sentence or two each; none for a sound network.

    Args:
        network: a trained one.
        normals: (n, h, w, c) float32 in [0, 1], held-out normal images; a few dozen are enough.
    """
    z_mean, z_log_var = network.encoder(normals)
    # Means over images, to be judged by; they are in no objective.
    rate = float(np.mean(kl_divergence(z_mean, z_log_var)))
    warnings = []
    if rate < COLLAPSED_RATE:
        warnings.append(
            f"Posterior collapse: the rate is {rate:.2g} nats in the mean, so every image is reconstructed alike. "
            "Train with warmup_epochs, free_bits, or beta below 1."
        )
    if network.likelihood.has_sigma:
        share = _share_near_floor(network.likelihood.sigma(network.decoder(z_mean)))
        if share > FLOOR_SHARE:
            warnings.append(
                f"Sigma is at its floor of {SIGMA_FLOOR:.2g} for {100 * share:.3g} % of the values: parts of the "
                "images are constant, or known by heart. Their nats are set by the floor, not by the data."
            )
    return warnings


def _share_near_floor(sigma: Tensor) -> float:
    return float(np.mean(np.asarray(sigma) < NEAR_FLOOR * SIGMA_FLOOR))
