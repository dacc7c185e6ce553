"""Pictures side by side, for people to look at."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageOps

#: Longer side of a picture, the room around it, and the height of the line below, in pixels.
_SIDE_PX, _GAP_PX, _LINE_PX = 192, 8, 16
_COLUMNS = 3
#: Letters of the line that fit below two pictures.
_LETTERS = 60


def sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """Pictures that belong together beside each other, with a line below them, three such groups in a row.

    >>> sheet([("a.png", [Image.new("L", (30, 20))] * 2)] * 4).size
    (1208, 440)
    """
    width, height = 2 * (_SIDE_PX + _GAP_PX), _SIDE_PX + _LINE_PX + _GAP_PX
    n_columns = min(_COLUMNS, len(rows)) or 1
    whole = Image.new("RGB", (n_columns * width + _GAP_PX, -(-len(rows) // n_columns) * height + _GAP_PX), "white")
    draw = ImageDraw.Draw(whole)
    for i, (text, pictures) in enumerate(rows):
        left, top = _GAP_PX + i % n_columns * width, _GAP_PX + i // n_columns * height
        for j, picture in enumerate(pictures):
            whole.paste(
                ImageOps.pad(picture.convert("RGB"), (_SIDE_PX, _SIDE_PX), color="white"),
                (left + j * (_SIDE_PX + _GAP_PX), top),
            )
        draw.text((left, top + _SIDE_PX), text[-_LETTERS:], "black")
    return whole
