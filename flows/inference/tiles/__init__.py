"""Images that are seen in tiles."""
