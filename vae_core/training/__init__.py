"""Training of the deep VAE."""
