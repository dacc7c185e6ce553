"""Pages, pictures and charts."""
