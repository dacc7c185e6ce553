"""Places of an image as rows: run lengths."""
