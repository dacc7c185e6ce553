"""Bytes of image files to pixels, in processes of their own."""
