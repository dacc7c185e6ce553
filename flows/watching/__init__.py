"""Scores images as they land in a folder: which files are complete, the batch that they fill, and the loop."""
