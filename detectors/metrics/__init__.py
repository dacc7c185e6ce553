"""How well scores and verdicts tell normal images from others."""
