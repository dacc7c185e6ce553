"""Images with noise or simulated defects painted on them."""
