"""One pass over images: models and engines, shards, maps, and publishing."""
