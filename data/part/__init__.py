"""The part that an image shows: how it is found, turned upright and cropped to."""
