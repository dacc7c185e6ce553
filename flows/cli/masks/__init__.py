"""``masks``: the regions of a batch's flagged images as masks, COCO annotations or a table."""
