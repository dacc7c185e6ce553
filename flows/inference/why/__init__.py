"""Why an image was flagged: where it is unusual, how it looks there, and how rare that is."""
