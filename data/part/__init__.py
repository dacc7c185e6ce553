"""The part that an image shows: found, turned upright and cropped to."""
