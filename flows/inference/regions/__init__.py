"""Where an image is unusual: its map enlarged to its own pixels, and the places above a calibrated level."""
