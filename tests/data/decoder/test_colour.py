"""What counts as colour, and how files with colour are found without more decoding than needed."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from synthetic import write_images

from nelbo.data import Preprocessing, first_coloured, ingest, is_coloured, iter_images, may_have_colour, read_images

GREY = Preprocessing(16, 16)


def noisy(random: np.random.Generator, side: int, noise: float) -> np.ndarray:
    """(side, side, 3) uint8 grey picture with independent noise in each channel."""
    grey = 128 + 60 * np.sin(np.arange(side) / 5)[:, None, None]
    return np.clip(grey + random.normal(0, noise, (side, side, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("side", [64, 200, 1000])
def test_noise_in_the_channels_is_no_colour(side: int, random: np.random.Generator) -> None:
    assert not is_coloured(noisy(random, side, 4))


@pytest.mark.parametrize("quality", [20, 50, 75, 95])
@pytest.mark.parametrize("side", [64, 200])
def test_jpeg_artefacts_of_grey_are_no_colour(quality: int, side: int, random: np.random.Generator) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noisy(random, side, 4)).save(buffer, "JPEG", quality=quality)
    assert not is_coloured(np.asarray(Image.open(buffer)))


@pytest.mark.parametrize("side", [3, 16, 31, 200, 1000])
def test_a_tint_of_more_than_8_levels_is_colour(side: int) -> None:
    tint = np.zeros((side, side, 3), np.uint8) + np.uint8([100, 104, 108])
    assert not is_coloured(tint)
    tint[..., 0] -= 1
    assert is_coloured(tint)


@pytest.mark.parametrize(
    ("dtype", "white"), [(np.uint8, 255), (np.uint16, 65_535), (np.float32, 1), (np.float64, 1), (">u2", 65_535)]
)
def test_colour_is_the_same_in_every_type(dtype: str, white: int) -> None:
    spot = np.full((200, 300, 3), 0.5)
    spot[100:104, 150:154] = (1, 0, 0)
    assert is_coloured((spot * white).astype(dtype))
    assert not is_coloured((np.full((200, 300, 3), 0.5) * white).astype(dtype))


def test_one_image_with_colour_among_grey_ones_is_found(tmp_path: Path) -> None:
    paths = write_images(tmp_path, 60, seed=0)
    for path in paths:
        Image.open(path).convert("RGB").save(path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    paths.insert(3, tmp_path / "broken.png")
    seen: list[int] = []
    assert first_coloured(paths, advance=seen.append) is None
    assert sum(seen) == 61
    for name in ("late.png", "later.png"):
        Image.new("RGB", (40, 30), (200, 40, 40)).save(tmp_path / name)
    assert first_coloured([*paths, tmp_path / "late.png", tmp_path / "later.png"]) == tmp_path / "late.png"


def test_decoding_stops_at_the_first_colour(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), (9, 200, 9)).save(tmp_path / "green.png")
    seen: list[int] = []
    assert first_coloured([tmp_path / "green.png"] * 500, workers=1, advance=seen.append) is not None
    assert sum(seen) <= 16


def test_reading_says_which_images_lose_their_colour(tmp_path: Path) -> None:
    pictures = {
        "a_grey": Image.new("L", (30, 30), 90),
        "b_stored_as_rgb": Image.new("RGB", (30, 30), (90, 90, 90)),
        "c_red": Image.new("RGB", (30, 30), (200, 20, 20)),
        "d_palette": Image.new("RGB", (30, 30), (20, 20, 200)).quantize(4),
        "e_transparent": Image.new("RGBA", (30, 30), (20, 200, 20, 255)),
    }
    files = [tmp_path / f"{name}.png" for name in pictures]
    for file, picture in zip(files, pictures.values(), strict=True):
        picture.save(file)
    files.insert(1, tmp_path / "missing.png")
    images = read_images(files, GREY)
    assert images.reasons == [None, "unreadable", None, None, None, None]
    assert images.drops_colour.tolist() == [False, False, True, True, True]
    (same,) = iter_images(files, GREY, 10)
    assert same.drops_colour.tolist() == images.drops_colour.tolist()
    deep = np.zeros((30, 30, 3), np.uint16) + np.uint16([9_000, 50_000, 9_000])
    for name, values in (("deep_green", deep), ("deep_grey", deep[..., [0, 0, 0]])):
        tifffile.imwrite(tmp_path / f"{name}.tif", values, photometric="rgb")
    assert read_images(sorted(tmp_path.glob("*.tif")), GREY).drops_colour.tolist() == [True, False]
    # With three channels no colour is lost.
    assert not read_images(files, Preprocessing(16, 16, 3)).drops_colour.any()


def test_stored_modes_without_colour_need_no_decoding(tmp_path: Path, random: np.random.Generator) -> None:
    values = random.integers(0, 256, (20, 20)).astype(np.uint8)
    grey = Image.fromarray(values)
    grey.save(tmp_path / "8.png")
    grey.convert("1").save(tmp_path / "1.png")
    grey.convert("LA").save(tmp_path / "alpha.png")
    Image.fromarray(values.astype(np.uint16) * 200).save(tmp_path / "16.png")
    Image.fromarray(values.astype(np.uint16) * 200).save(tmp_path / "16.tif")
    Image.fromarray(values.astype(np.int32) * 200).save(tmp_path / "32.tif")
    Image.fromarray(values / np.float32(255)).save(tmp_path / "float.tif")
    grey.save(tmp_path / "grey.jpg")
    tifffile.imwrite(
        tmp_path / "alpha.tif", np.stack([values] * 2, axis=2) * np.uint16(200), extrasamples=["unassalpha"]
    )
    grey.convert("RGB").save(tmp_path / "rgb.png")
    rows = {row["relative_path"]: row["mode"] for row in ingest(tmp_path).table.to_pylist()}
    assert {path for path, mode in rows.items() if may_have_colour(mode)} == {"rgb.png"}
