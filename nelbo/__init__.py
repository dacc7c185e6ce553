"""Watch images for anomalies: learn from normal ones, score in nats, keep a promised false-alarm rate."""
