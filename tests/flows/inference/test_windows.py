"""Pictures of more than 8 bits are shown with one window, the same everywhere; those of 8 bits are unchanged."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from commands import score, train
from numpy.typing import NDArray
from PIL import Image
from synthetic import texture

from nelbo.data import Preprocessing, read_metadata, read_table
from nelbo.flows.dashboard.originals import original_of
from nelbo.flows.inference.maps import Window, learn_window, parse_window, read_window, thumbnail
from nelbo.flows.workspace.layout import Workspace

PREPROCESSING = Preprocessing(8, 8)
#: These images use a thirtieth of the range of 16 bits: without a window they look black.
DARK, BRIGHT = 800, 3000


def levels(jpeg: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"))


def test_the_window_is_the_range_that_most_training_images_use(random: np.random.Generator) -> None:
    stored = (
        random.permutation(np.linspace(DARK, BRIGHT, 1024)).reshape(1, 32, 32, 1).repeat(100, axis=0).astype(np.uint16)
    )
    stored[3, 0, 0] = 65_535
    window = learn_window(stored, ["I;16"] * 100, PREPROCESSING)
    assert window is not None
    assert (window.zero, window.one) == (0, 65_535)
    assert window.ends == pytest.approx((DARK, BRIGHT), abs=20)
    # A hot pixel in one of a hundred images does not darken all the others.
    shown = levels(thumbnail((stored[1] / 65_535).astype(np.float32), 1.0, window))
    assert shown.min() < 20
    assert shown.max() > 235
    assert levels(thumbnail((stored[1] / 65_535).astype(np.float32), 1.0)).max() < 20
    # The window never follows a single image: one that is half as bright looks half as bright.
    darker = levels(thumbnail((stored[1] / 131_070).astype(np.float32), 1.0, window))
    assert darker.max() < 140


@pytest.mark.parametrize(
    ("modes", "dtype", "preprocessing", "expected"),
    [
        (["L", "RGB", "P"], np.uint8, PREPROCESSING, None),
        (["I;16", "L"], np.uint16, PREPROCESSING, (0, 65_535)),
        # Colours of 16 bits in a PNG.
        (["RGB"], np.uint16, PREPROCESSING, (0, 65_535)),
        (["L;u12"], np.uint16, PREPROCESSING, (0, 4_095)),
        (["F"], np.uint16, Preprocessing(8, 8, float_range=(-1.0, 3.0)), (-1.0, 3.0)),
        (["F"], np.uint16, PREPROCESSING, (0, 1)),
        ([None, "I;16"], np.uint16, PREPROCESSING, (0, 65_535)),
    ],
)
def test_values_are_given_in_the_units_of_the_files(
    modes: list[str | None],
    dtype: type[np.uint8] | type[np.uint16],
    preprocessing: Preprocessing,
    expected: tuple[float, float] | None,
    random: np.random.Generator,
) -> None:
    most = np.iinfo(dtype).max
    stored = random.integers(most // 4, most // 2, (len(modes), 8, 8, 1)).astype(dtype)
    window = learn_window(stored, modes, preprocessing)
    assert (window and (window.zero, window.one)) == expected
    if window is not None:
        assert 0.24 < window.low < window.high < 0.51


def test_a_requested_value_range_is_the_window() -> None:
    asked = Preprocessing(8, 8, value_range=(0, 4095))
    stored = np.full((2, 8, 8, 1), 30_000, np.uint16)
    assert learn_window(stored, ["I;16"] * 2, asked) == Window(0, 1, 0, 4095)
    # Images with a single level have no window.
    assert learn_window(stored, ["I;16"] * 2, PREPROCESSING) is None


@pytest.mark.parametrize(
    "text", ["", "[", "{}", "null", "[1, 2]", "[0.5, 0.5, 0, 1]", "[NaN, 1, 0, 1]", '["a", 1, 0, 1]']
)
def test_a_damaged_window_is_ignored(text: str) -> None:
    assert parse_window({"nelbo.window": text}) is None


def write_deep(folder: Path, n: int, seed: int, kind: str, *, blot: bool = False) -> None:
    """Write the small textures as dark images of 16 bits, or of floats."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for i in range(n):
        values = DARK + (BRIGHT - DARK) * (texture(random, blot=blot) / 255)
        stored = values.astype(np.uint16) if kind == "16" else (values / 100).astype(np.float32)
        if i == 0 and not blot:
            stored[0, 0] = 60_000 if kind == "16" else 600
        tifffile.imwrite(folder / f"{'blot' if blot else 'tile'}{i:03d}.tif", stored)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "unit", "of"), [("16", 1.0, "0 to 65,535"), ("float", 0.01, "to 600")])
def test_dark_images_are_shown_everywhere_with_the_same_window(kind: str, unit: float, of: str, tmp_path: Path) -> None:
    write_deep(tmp_path / "normal", 60, 1, kind)
    write_deep(tmp_path / "new", 4, 2, kind)
    write_deep(tmp_path / "new", 3, 3, kind, blot=True)
    root = tmp_path / "workspace"
    trained = train(tmp_path / "normal", root, image_size=(32, 32), epochs=8)
    result = score(tmp_path / "new", root)
    workspace = Workspace.at(str(root))
    window = read_window(workspace, trained["model_id"])
    assert window is not None
    low, high = window.ends
    # The texture keeps its brightness: 90 to 200 of 255 within the range that these images use.
    assert DARK * unit < low < high < BRIGHT * unit
    scores = Path(result["scores"])
    assert parse_window(read_metadata(scores)) == window
    kept = [workspace.normals(trained["model_id"]), Path(result["near"]), Path(result["flagged"])]
    spans = [np.ptp(levels(row["thumbnail"])) for path in kept for row in read_table(path).to_pylist()]
    assert len(spans) == sum(read_table(path).num_rows for path in kept) > 30
    assert min(spans) > 80
    # The dashboard decodes the file itself.
    (row,) = read_table(scores).slice(0, 1).to_pylist()
    shown = original_of(scores, row)
    assert isinstance(shown, Image.Image)
    kept_rows = {one["relative_path"]: one for path in kept[1:] for one in read_table(path).to_pylist()}
    own = levels(kept_rows[row["relative_path"]]["thumbnail"])
    assert np.abs(np.asarray(shown.convert("L"), int) - own).mean() < 8
    (said,) = re.findall(
        "shown from (.+) [(]black[)] to (.+) [(]white[)], of (.+)</span>", Path(result["report"]).read_text()
    )
    assert [float(end.replace(",", "")) for end in said[:2]] == pytest.approx([low, high], rel=0.001)
    assert of in said[2]
