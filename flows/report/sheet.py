"""Pictures side by side, for people to look at."""

from collections.abc import Sequence

from PIL import Image

COLUMNS = 3
#: Width of a picture beside a card, and of the gap between two.
WIDTH_PX, GAP_PX = 260, 6


def sheet(pictures: Sequence[Image.Image], gap_px: int, background: str) -> Image.Image:
    """Pictures of one size in rows of three, with a gap around each.

    >>> sheet([Image.new("L", (30, 20))] * 4, 6, "white").size
    (114, 58)
    """
    width, height = (side + gap_px for side in pictures[0].size) if pictures else (0, 0)
    n_columns, n_rows = min(COLUMNS, len(pictures)), -(-len(pictures) // COLUMNS)
    whole = Image.new("RGB", (n_columns * width + gap_px, n_rows * height + gap_px), background)
    for place, picture in enumerate(pictures):
        row, column = divmod(place, COLUMNS)
        whole.paste(picture, (gap_px + column * width, gap_px + row * height))
    return whole
