"""Every image mode becomes the pixels that a person would see, or gives a reason."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nelbo.data import Limits, Preprocessing, image_of, iter_wholes, read_image
from nelbo.data.decoder.images import decode

GREY = Preprocessing(16, 16, 1)
RGB = Preprocessing(16, 16, 3)


def save(path: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


def test_images_are_turned_upright_by_exif(tmp_path: Path) -> None:
    upright = np.zeros((20, 30), np.uint8)
    upright[:10, :15] = 255
    stored = {1: upright, 3: upright[::-1, ::-1], 6: np.rot90(upright), 8: np.rot90(upright, -1)}
    for orientation, array in stored.items():
        picture = Image.fromarray(np.ascontiguousarray(array))
        exif = Image.Exif()
        exif[0x0112] = orientation
        decoded = decode(save(tmp_path / f"{orientation}.png", picture, exif=exif).read_bytes(), Limits()).to_8_bits()
        np.testing.assert_array_equal(np.asarray(decoded), upright, err_msg=str(orientation))


def test_area_filter_averages_blocks(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 256, (64, 64)).astype(np.uint8)
    pixels = read_image(save(tmp_path / "x.png", Image.fromarray(values)), GREY)
    blocks = values.reshape(16, 4, 16, 4).mean((1, 3)) / 255
    # Pillow rounds to whole grey levels after each of the two directions.
    np.testing.assert_allclose(pixels[..., 0], blocks, atol=1 / 255)


def test_pad_keeps_the_aspect_ratio(tmp_path: Path) -> None:
    file = save(tmp_path / "x.png", Image.new("L", (40, 20), 255))
    pixels = read_image(file, Preprocessing(16, 16, 1, "pad"))[..., 0]
    assert pixels[4:12].min() == 1
    assert pixels[:4].max() == pixels[12:].max() == 0


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_images_are_binarised_at_the_level(tmp_path: Path, fit: str) -> None:
    ramp = np.tile(np.arange(0, 256, 16, dtype=np.uint8), (32, 2))
    pictures = {
        "eight.png": Image.fromarray(ramp),
        "sixteen.png": Image.fromarray(ramp * np.uint16(257) + np.uint16(3)),
        "colour.png": Image.fromarray(np.stack([ramp, ramp[:, ::-1], ramp // 2], -1)),
    }
    for name, picture in pictures.items():
        file = save(tmp_path / name, picture)
        for channels in (1, 3):
            grey = read_image(file, Preprocessing(16, 24, channels, fit))
            pixels = read_image(file, Preprocessing(16, 24, channels, fit, 0.45))
            assert pixels.dtype == np.float32
            assert set(np.unique(pixels)) == {0, 1}
            np.testing.assert_array_equal(pixels, grey > 0.45, err_msg=name)


def test_binarising_leaves_the_level_itself_dark(tmp_path: Path) -> None:
    for value, expected in ((50, 0), (51, 0), (52, 1)):
        file = save(tmp_path / "x.png", Image.new("L", (20, 20), value))
        # 51 / 255 in float32 lies above 0.2 in float64.
        for level in (0.2, np.float64(0.2)):
            assert np.all(read_image(file, Preprocessing(8, 8, binarize=level)) == expected), value


def test_preprocessing_survives_json() -> None:
    preprocessing = Preprocessing(8, 9, 3, "pad", 0.5, value_range=(0, 4095))
    again = Preprocessing(**json.loads(json.dumps(preprocessing.to_dict())))
    assert again == preprocessing
    assert again.to_dict() == preprocessing.to_dict()
    older = {"height": 8, "width": 9, "channels": 3, "fit": "pad"}
    later = ("binarize", "value_range", "float_range", "frame", "tile_scale", "tile_image", "area")
    assert Preprocessing(**older).to_dict() == older | dict.fromkeys(later)


@pytest.mark.parametrize("level", [0, 1, -0.5, 1.5, 128, float("nan"), True])
def test_a_bad_level_for_binarising_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match=f"binarize={level}: a number above 0 and below 1"):
        Preprocessing(binarize=level)


@pytest.mark.parametrize("bad", [{"channels": 2}, {"fit": "crop"}, {"height": 0}])
def test_bad_preprocessing_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad)).replace("height", "image size")):
        Preprocessing(**bad)


def written(kind: str, picture: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def stored(content: bytes, path: Path, preprocessing: Preprocessing = RGB) -> np.ndarray:
    path.write_bytes(content)
    return read_image(path, preprocessing)


@pytest.mark.parametrize(
    ("kind", "picture", "options", "colour"),
    [
        ("PNG", Image.new("1", (20, 20), 1), {"transparency": 255}, (0, 0, 0)),
        ("PNG", Image.new("L", (20, 20), 90), {"transparency": 90}, (0, 0, 0)),
        ("PNG", Image.new("L", (20, 20), 90), {"transparency": 91}, (90, 90, 90)),
        ("PNG", Image.new("RGB", (20, 20), (9, 8, 7)), {"transparency": (9, 8, 7)}, (0, 0, 0)),
        ("PNG", Image.new("LA", (20, 20), (200, 0)), {}, (0, 0, 0)),
        ("PNG", Image.new("1", (20, 20), 1), {}, (255, 255, 255)),
        ("PNG", Image.new("RGB", (20, 20), (255, 0, 0)).quantize(4), {}, (255, 0, 0)),
        ("TIFF", Image.new("CMYK", (20, 20), (0, 255, 255, 0)), {}, (255, 0, 0)),
        ("TIFF", Image.new("LA", (20, 20), (200, 255)), {}, (200, 200, 200)),
        ("TIFF", Image.new("RGBA", (20, 20), (255, 0, 0, 128)), {}, (128, 0, 0)),
        ("TIFF", Image.new("YCbCr", (20, 20), (76, 85, 255)), {}, (254, 0, 0)),
        ("TIFF", Image.new("RGB", (20, 20), (9, 8, 7)), {"compression": "tiff_deflate"}, (9, 8, 7)),
        ("JPEG", Image.new("CMYK", (20, 20), (0, 255, 255, 0)), {}, (254, 0, 0)),
        ("WEBP", Image.new("RGBA", (20, 20), (255, 0, 0, 0)), {"lossless": True}, (0, 0, 0)),
        ("GIF", Image.new("P", (20, 20), 0), {"transparency": 0}, (0, 0, 0)),
        ("PPM", Image.new("1", (20, 20), 1), {}, (255, 255, 255)),
        ("BMP", Image.new("L", (20, 20), 102), {}, (102, 102, 102)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else str(value),
)
def test_each_mode_shows_the_colours_that_a_person_sees(
    tmp_path: Path, kind: str, picture: Image.Image, options: dict[str, object], colour: tuple[int, int, int]
) -> None:
    pixels = stored(written(kind, picture, **options), tmp_path / "x")
    np.testing.assert_allclose(pixels * 255, np.broadcast_to(colour, (16, 16, 3)), atol=1.5)


def test_sixteen_bits_with_a_transparent_value_are_decoded(tmp_path: Path) -> None:
    values = np.full((16, 16), 13_107, np.uint16)
    values[:8] = 40_000
    pixels = stored(written("PNG", Image.fromarray(values), transparency=40_000), tmp_path / "x", GREY)
    np.testing.assert_allclose(pixels[:8], 0)
    np.testing.assert_allclose(pixels[8:], 0.2, atol=1e-6)


def test_an_embedded_profile_is_not_applied(tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    pixels = stored(written("PNG", Image.new("RGB", (20, 20), (90, 80, 70)), icc_profile=profile), tmp_path / "x")
    np.testing.assert_allclose(pixels[0, 0] * 255, [90, 80, 70], atol=1e-4)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_of_several_frames_is_decoded(tmp_path: Path, kind: str) -> None:
    first, second = (Image.new("RGB", (20, 20), (value, value, value)) for value in (200, 10))
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = stored(written(kind, first, save_all=True, append_images=[second], **options), tmp_path / "x")
    np.testing.assert_allclose(pixels * 255, 200, atol=1)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (301, 200)])
def test_a_plain_png_is_decoded_like_pillow(mode: str, size: tuple[int, int]) -> None:
    """PNG is lossless, so another decoder changes no score."""
    content = written("PNG", scene(*size).convert(mode))
    (decoded,), box, _ = decode(content, Limits())
    assert (decoded.mode, box) == (mode, None)
    with Image.open(io.BytesIO(content)) as opened:
        np.testing.assert_array_equal(np.asarray(decoded), np.asarray(opened))


@pytest.mark.parametrize("orientation", [0, 9, 999])
def test_an_unknown_orientation_is_ignored(tmp_path: Path, orientation: int) -> None:
    values = np.zeros((16, 16), np.uint8)
    values[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = stored(written("PNG", Image.fromarray(values), exif=exif), tmp_path / "x", GREY)
    np.testing.assert_array_equal(pixels[..., 0] * 255, values)


FLOATS = np.linspace(-50, 150, 256, dtype=np.float32).reshape(16, 16)


@pytest.mark.parametrize(
    ("values", "value_range", "expected"),
    [
        (FLOATS, None, (FLOATS + 50) / 200),
        (FLOATS, (0, 100), np.clip(FLOATS / 100, 0, 1)),
        (FLOATS / 400 + 0.25, None, FLOATS / 400 + 0.25),
        (FLOATS / 400 + 0.25, (0, 2), (FLOATS / 400 + 0.25) / 2),
        (np.full((16, 16), 7, np.float32), None, np.zeros((16, 16))),
        (np.full((16, 16), 1_000, np.uint16), None, np.full((16, 16), 1_000 / 65_535)),
        (np.full((16, 16), 1_000, np.uint16), (0, 4_000), np.full((16, 16), 0.25)),
        (np.full((16, 16), 9_000, np.uint16), (0, 4_095), np.ones((16, 16))),
        (np.full((16, 16), 2**30, np.int32), None, np.full((16, 16), 0.5)),
        (np.arange(256, dtype=np.int32).reshape(16, 16) * 1000, (0, 255_000), np.arange(256).reshape(16, 16) / 255),
        (np.full((16, 16), 51, np.uint8), (0, 4_095), np.full((16, 16), 0.2)),
    ],
)
def test_deep_images_keep_their_range(
    tmp_path: Path, values: np.ndarray, value_range: tuple[float, float] | None, expected: np.ndarray
) -> None:
    preprocessing = Preprocessing(16, 16, value_range=value_range)
    pixels = stored(written("TIFF", Image.fromarray(values)), tmp_path / "x", preprocessing)
    np.testing.assert_allclose(pixels[..., 0], expected, atol=2e-6)
    np.testing.assert_array_equal(image_of(values, preprocessing).pixels[0], pixels)


def scene(width: int, height: int) -> Image.Image:
    """A picture in colour with edges, a gradient and texture."""
    y, x = np.mgrid[:height, :width]
    random = np.random.default_rng(0).normal(0, 6, (height, width))
    grey = 120 + 60 * (x > width / 3) - 50 * (y > height / 2) + 40 * np.sin(x / 37) + random
    return Image.fromarray(np.clip(np.stack([grey, grey * 0.8, 255 - grey], -1), 0, 255).astype(np.uint8))


@pytest.mark.parametrize("preprocessing", [GREY, RGB, Preprocessing(16, 24, 1, "pad")])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(
    tmp_path: Path, preprocessing: Preprocessing, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = written("JPEG", scene(904, 504), quality=90, exif=exif)
    with Image.open(io.BytesIO(content)) as opened:
        full = opened.convert("RGB")
    at_least = (2 * preprocessing.width, 2 * preprocessing.height)
    size = decode(content, Limits(), at_least=at_least).bands[0].size
    assert at_least[0] <= size[0] <= 226
    assert at_least[1] <= size[1] <= 226
    assert (size[0] > size[1]) == (orientation == 1)
    reference = written("PNG", full, exif=exif)
    difference = np.abs(
        stored(content, tmp_path / "x", preprocessing) - stored(reference, tmp_path / "y", preprocessing)
    )
    # In grey levels; the decoder averages other blocks than the area filter, above all with subsampled colours.
    assert difference.mean() * 255 < 2
    assert difference.max() * 255 < 16


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_a_partial_block_is_a_partial_pixel(tmp_path: Path, fit: str) -> None:
    """The result is nearer to the exact one than if the image were stretched over whole pixels."""
    # The image covers 3/8 of the last column and of the last row of blocks.
    picture = scene(507, 131).convert("L")
    preprocessing = Preprocessing(8, 31, 1, fit)
    content = written("JPEG", picture, quality=95)
    (reduced,), box, _ = decode(content, Limits(), at_least=(62, 16))
    assert (reduced.size, box) == ((64, 17), (0, 0, 507 / 8, 131 / 8))
    found = stored(content, tmp_path / "x", preprocessing)
    exact = stored(written("PNG", picture), tmp_path / "y", preprocessing)
    stretched = stored(written("PNG", reduced), tmp_path / "z", preprocessing)
    assert np.abs(found - exact).mean() < 0.8 * np.abs(stretched - exact).mean()
    assert np.abs(found - exact).mean() * 255 < 3


def test_a_turned_jpeg_of_partial_blocks_is_decoded_as_it_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (decoded,), box, _ = decode(written("JPEG", scene(901, 504), exif=exif), Limits(), at_least=(32, 32))
    assert (decoded.size, box) == ((504, 901), None)


def test_a_small_jpeg_is_decoded_as_it_is(tmp_path: Path) -> None:
    content = written("JPEG", scene(62, 100))
    with Image.open(io.BytesIO(content)) as opened:
        expected = np.asarray(opened.convert("L").resize((16, 16), Image.Resampling.BOX), np.float32) / np.float32(255)
    np.testing.assert_array_equal(stored(content, tmp_path / "x", GREY)[..., 0], expected)


@pytest.mark.parametrize("bad", [(1, 1), (2, 1), (0, float("nan")), (0, float("inf"))])
def test_a_bad_value_range_is_refused(bad: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="value_range="):
        Preprocessing(value_range=bad)


WHOLES = {
    "grey.png": np.random.default_rng(0).integers(0, 256, (70, 90), np.uint8),
    "colour.png": np.random.default_rng(1).integers(0, 256, (70, 90, 3), np.uint8),
    "deep.tif": np.random.default_rng(2).integers(0, 65_536, (70, 90), np.uint16),
    "floats.tif": np.random.default_rng(3).random((70, 90), np.float32),
}


@pytest.mark.parametrize("name", WHOLES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("binarize", [None, 0.5])
def test_a_whole_picture_equals_the_input_of_a_model_of_its_size(
    tmp_path: Path, name: str, channels: int, binarize: float | None
) -> None:
    file = save(tmp_path / name, Image.fromarray(WHOLES[name]))
    expected = read_image(file, Preprocessing(70, 90, channels, binarize=binarize))
    tiled = Preprocessing(32, 32, channels, binarize=binarize, tile_scale=1.0)
    ((levels,),) = (images.wholes for images in iter_wholes([file], tiled))
    assert levels.dtype == (np.uint16 if name.endswith("tif") else np.uint8)
    unit = levels / np.float32(np.iinfo(levels.dtype).max)
    # Grey images have one channel in place of three.
    np.testing.assert_allclose(unit if unit.ndim == 3 else unit[..., None] + 0 * expected, expected, atol=1e-5)
    # The overview is the same as without tiles.
    (images,) = iter_wholes([file], tiled)
    assert np.array_equal(images.pixels[0], read_image(file, Preprocessing(32, 32, channels, binarize=binarize)))
    assert np.array_equal(image_of(WHOLES[name], tiled).wholes[0], levels)


@pytest.mark.parametrize(
    ("changed", "shape"),
    [
        ({}, (70, 90)),
        ({"tile_scale": 0.5}, (35, 45)),
        ({"tile_scale": 0.4}, (32, 36)),
        ({"tile_scale": 2.0}, (140, 180)),
        ({"tile_image": (64, 100)}, (64, 100)),
        ({"height": 80, "width": 80}, (80, 90)),
        ({"height": 128, "width": 128}, (128, 128)),
    ],
)
def test_a_whole_picture_is_at_least_one_tile(changed: dict[str, object], shape: tuple[int, int]) -> None:
    preprocessing = Preprocessing(**{"height": 32, "width": 32, "tile_scale": 1.0, **changed})  # type: ignore[arg-type]
    (levels,) = image_of(np.full((70, 90), 200, np.uint8), preprocessing).wholes
    # A smaller image is enlarged, never padded.
    assert (levels.shape, levels.min(), levels.max()) == (shape, 200, 200)


@pytest.mark.parametrize("bad", [{"tile_scale": 0}, {"tile_scale": 5.0}, {"tile_scale": 1.0, "tile_image": (10, 90)}])
def test_impossible_tiles_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="tile_"):
        Preprocessing(32, 32, **bad)  # type: ignore[arg-type]


def test_a_large_photograph_is_decoded_at_full_resolution_for_tiles(tmp_path: Path) -> None:
    # A model without tiles decodes a JPEG at an eighth of its size.
    picture = Image.fromarray(np.kron(WHOLES["grey.png"], np.ones((8, 8), np.uint8)))
    file = save(tmp_path / "a.jpg", picture, quality=95)
    ((levels,),) = (images.wholes for images in iter_wholes([file], Preprocessing(32, 32, tile_scale=1.0)))
    with Image.open(file) as opened:
        np.testing.assert_array_equal(levels, np.asarray(opened))
