"""Images seen in tiles at their own resolution: one map, and one statistic, for each image."""
