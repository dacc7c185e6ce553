"""Images that are painted on: with noise, and with simulated defects."""
