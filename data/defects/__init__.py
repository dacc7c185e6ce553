"""Simulated defects on normal images: what they look like, and where they are painted."""
