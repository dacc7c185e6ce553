"""Features of images, and the backbones that compute them."""
