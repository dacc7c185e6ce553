"""The deep VAE: its layers, its likelihoods and its objective."""
