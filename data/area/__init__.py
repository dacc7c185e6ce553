"""Areas: models that look at a part of each picture only."""
