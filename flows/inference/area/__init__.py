"""Models that look at a part of each picture."""
