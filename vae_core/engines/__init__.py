"""Models exported for other engines."""
