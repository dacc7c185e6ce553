"""TIFFs of every layout give the pixels that were written or are refused; they never give other pixels."""

import io
import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from nelbo.data import ImageError, Limits, Preprocessing, float_range, look_into, read_image, read_images
from nelbo.data.decoder.images import decode, float_extent, read_header
from nelbo.data.decoder.samples import Ranges
from nelbo.data.sources.files import File

HEIGHT, WIDTH = 21, 29
#: Distinct values in [0, 1], in four channels.
SCENE = np.random.default_rng(0).permutation(HEIGHT * WIDTH * 4).reshape(HEIGHT, WIDTH, 4) / (HEIGHT * WIDTH * 4 - 1)
CHANNELS = {"minisblack": 1, "miniswhite": 1, "rgb": 3, "separated": 4}
TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")
LOSSLESS = ("zlib", "lzw", "packbits", "lzma", "zstd", "lerc")


def written(values: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, metadata=None, **options)
    return buffer.getvalue()


def pixels_of(content: bytes, ranges: Ranges = Ranges()) -> np.ndarray:  # noqa: B008 - immutable
    """(h, w) or (h, w, 3) pixels in [0, 1]."""
    bands = [np.asarray(band) for band in decode(content, Limits(), ranges=ranges).bands]
    values = bands[0] if len(bands) == 1 else np.stack(bands, axis=-1)
    return values / 255 if values.dtype == np.uint8 else values


def reason_of(content: bytes) -> str | None:
    try:
        decode(content, Limits())
    except ImageError as error:
        return error.reason
    return None


def stored(unit: np.ndarray, dtype: str) -> np.ndarray:
    """[0, 1] scaled to the type's range; for signed integers, to its positive half."""
    if dtype.startswith("f"):
        return unit.astype(dtype)
    # The largest 64-bit integers have no exact float64, so take the next lower one.
    most = np.nextafter(np.iinfo(dtype).max, 0) if dtype.endswith("8") else np.iinfo(dtype).max
    return (unit * most).round().astype(dtype)


def seen(values: np.ndarray, photometric: str, alpha: str | None) -> np.ndarray:
    """What a person sees of stored values, by the TIFF 6.0 specification."""
    kind = values.dtype
    unit = values.astype(np.float64) / (1 if kind.kind == "f" else np.iinfo(kind).max)
    n = CHANNELS[photometric]
    colours = unit[..., :n]
    if photometric == "separated":
        colours = (1 - colours[..., :3]) * (1 - colours[..., 3:4])
    if photometric == "miniswhite":
        colours = 1 - colours
    if alpha == "unassalpha":
        colours = colours * unit[..., n:]
    return colours[..., 0] if colours.shape[-1] == 1 else colours


def combinations() -> Iterator[Any]:
    """A few combinations of all properties, which include every pair of a type and another property."""
    random = np.random.default_rng(1)
    alphas = (None, "unassalpha", "assocalpha")
    for dtype, compression in itertools.product(TYPES, (None, *LOSSLESS)):
        for photometric, planar, order in itertools.product(CHANNELS, ("contig", "separate"), "<>"):
            # LERC has no such types, and uses the byte order of the machine.
            written = compression != "lerc" or (order == "<" and dtype not in ("u8", "i8", "f2"))
            if random.random() < 0.5 or not written:
                continue
            alpha = alphas[random.integers(3)]
            tile = (None, (16, 16), (48, 32))[random.integers(3)]
            differs = compression in ("zlib", "lzw", "lzma", "zstd") and dtype not in ("u8", "i8")
            predictor = differs and bool(random.integers(2))
            if planar == "separate" and CHANNELS[photometric] == 1 and alpha is None:
                planar = "contig"
            yield pytest.param(
                dtype, compression, photometric, planar, order, alpha, tile, predictor,
                id="-".join(map(str, (dtype, compression, photometric, planar, order, alpha, tile, predictor))),
            )  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "compression", "photometric", "planar", "order", "alpha", "tile", "predictor"), list(combinations())
)
def test_every_combination_gives_its_pixels_or_is_unsupported(
    dtype: str, compression: str | None, photometric: str, planar: str, order: str, alpha: str | None,
    tile: tuple[int, int] | None, predictor: bool,
) -> None:  # fmt: skip
    n = CHANNELS[photometric]
    unit = SCENE[..., :n]
    if alpha is not None:
        unit = np.concatenate([unit, 0.5 + SCENE[..., 3:] / 2], axis=-1)
    values = stored(unit, dtype)
    expected = seen(values, photometric, alpha)
    array = values[..., 0] if values.shape[-1] == 1 else values
    array = np.ascontiguousarray(np.moveaxis(array, -1, 0)) if planar == "separate" else array
    options: dict[str, Any] = {"planarconfig": planar} if array.ndim == 3 else {}
    content = written(
        array, photometric=photometric, byteorder=order, compression=compression, tile=tile, predictor=predictor,
        extrasamples=[alpha] if alpha else None, rowsperstrip=None if tile else 8, **options,
    )  # fmt: skip
    if photometric == "separated" and dtype[0] != "u":
        # Separate inks are read as unsigned integers only.
        assert reason_of(content) == "unsupported"
        return
    found = pixels_of(content)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1.01 / 255 if dtype == "u1" else 1e-6)
    header = read_header(content, Limits())
    assert (header.format, header.width_px, header.height_px) == ("TIFF", WIDTH, HEIGHT)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [2, 4, 7, 10, 12, 14])
def test_packed_bits_reach_white(bits: int, order: str) -> None:
    values = (SCENE[..., 0] * (2**bits - 1)).round().astype("u1" if bits < 8 else "u2")
    content = written(values, photometric="minisblack", bitspersample=bits, byteorder=order)
    if order == ">" and bits > 8:
        # Writers disagree on the order of the bits.
        assert reason_of(content) == "unsupported"
    else:
        np.testing.assert_allclose(pixels_of(content), values / (2**bits - 1), atol=1e-6)


@pytest.mark.parametrize("order", "<>")
def test_bilevel_images_are_decoded(order: str) -> None:
    values = SCENE[..., 0] > 0.5
    for photometric, expected in (("minisblack", values), ("miniswhite", ~values)):
        np.testing.assert_array_equal(pixels_of(written(values, photometric=photometric, byteorder=order)), expected)


@pytest.mark.parametrize(
    ("compression", "dtype", "order", "is_read"),
    [
        *((compression, "u1", order, True) for compression in ("jpeg", "jpeg2000", "jpegxl", "webp") for order in "<>"),
        *((compression, "u2", "<", True) for compression in ("png", "jpeg2000", "jpegxl", "jpegxr")),
        ("jpegxl", "f4", "<", True),
        ("jpeg", "u2", "<", False),
        # These files are invalid: no reader restores the array that was written.
        ("jpeg2000", "u2", ">", False),
        ("jpeg2000", "u4", "<", False),
    ],
)
def test_codecs_of_images_are_decoded_or_unsupported(compression: str, dtype: str, order: str, is_read: bool) -> None:
    smooth = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) / (HEIGHT + WIDTH)
    values = stored(np.stack([smooth, smooth / 2, 1 - smooth], axis=-1), dtype)
    lossless = {"lossless": True} if compression in ("jpegxl", "webp") else None
    content = written(values, photometric="rgb", byteorder=order, compression=compression, compressionargs=lossless)
    if is_read:
        np.testing.assert_allclose(pixels_of(content), seen(values, "rgb", None), atol=0.05)
    else:
        assert reason_of(content) == "unsupported"


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16", "F", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_files_of_libtiff_are_decoded_like_libtiff(mode: str, compression: str | None) -> None:
    random = np.random.default_rng(2)
    if mode in ("F", "I;16"):
        picture = Image.fromarray(stored(SCENE[..., 0], "f4" if mode == "F" else "u2"))
    elif mode == "1":
        picture = Image.fromarray(SCENE[..., 0] > 0.5)
    else:
        n = len(Image.new(mode, (1, 1)).getbands())
        picture = Image.frombytes(
            mode, (WIDTH, HEIGHT), random.integers(0, 256, HEIGHT * WIDTH * n, np.uint8).tobytes()
        )
    if mode == "P":
        picture.putpalette(random.integers(0, 256, 768).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    try:
        picture.save(buffer, "TIFF", compression=compression)
    except (KeyError, OSError, RuntimeError) as error:
        pytest.skip(f"Pillow does not write it: {error}")
    with Image.open(io.BytesIO(buffer.getvalue())) as opened:
        opened.load()
        expected = np.asarray(opened) / (65_535 if mode == "I;16" else 1)
        if opened.mode not in ("F", "I;16"):
            black = Image.new("RGBA", opened.size, (0, 0, 0, 255))
            on_black = Image.alpha_composite(black, opened.convert("RGBA")) if "A" in mode else opened
            expected = np.asarray(on_black.convert("RGB")) / 255
    found = pixels_of(buffer.getvalue())
    expected = expected[..., 0] if expected.ndim > found.ndim else expected
    np.testing.assert_allclose(found, expected, atol=1.01 / 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_deep_colours_is_applied(orientation: int, tmp_path: Path) -> None:
    """Compared with Pillow's result for the same orientation in 8 bits."""
    eight = stored(SCENE[..., :3], "u1")
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(eight).save(tmp_path / "x.png", exif=exif)
    content = written(eight * np.uint16(257), photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    np.testing.assert_allclose(pixels_of(content), pixels_of((tmp_path / "x.png").read_bytes()), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_of_16_bits_keep_their_precision(channels: int, tmp_path: Path) -> None:
    """A step smaller than 8 bits can hold stays, in TIFF, PNG and PPM."""
    import imagecodecs

    colour = np.array([1_000, 30_000, 60_001], np.uint16)
    values = np.broadcast_to(colour, (16, 16, 3)).copy()
    files = {
        "x.tif": written(values, photometric="rgb"),
        "planes.tif": written(values.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"),
        "x.png": imagecodecs.png_encode(values),
        "x.ppm": b"P6 16 16 65535\n" + values.astype(">u2").tobytes(),
    }
    expected = colour / 65_535
    if channels == 1:
        expected = np.array([expected @ [0.299, 0.587, 0.114]])
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        pixels = read_image(tmp_path / name, Preprocessing(16, 16, channels))
        np.testing.assert_allclose(pixels, np.broadcast_to(expected, pixels.shape), atol=1e-6, err_msg=name)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "jpeg", "packbits"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_a_file_that_ends_early_is_truncated(compression: str | None, tile: tuple[int, int] | None) -> None:
    """Wherever it is cut, it never gives a picture with a black rest."""
    values = stored(SCENE[..., :3], "u1")
    content = written(values, photometric="rgb", compression=compression, tile=tile, rowsperstrip=None if tile else 8)
    assert reason_of(content) is None
    reasons = {reason_of(content[:length]) for length in range(8, len(content), 41)}
    assert reasons == {"truncated"}


def test_a_strip_that_ends_early_is_truncated() -> None:
    """The file is complete, but a strip holds fewer pixels than its rows need."""
    for compression in (None, "zlib"):
        content = written(
            stored(SCENE[..., 0], "u1"), photometric="minisblack", compression=compression, rowsperstrip=7
        )
        page = tifffile.TiffFile(io.BytesIO(content)).pages.first
        short = bytearray(content)
        tag = page.tags["StripByteCounts"]
        half = struct.pack("<I" if tag.dtype == 4 else "<H", page.databytecounts[1] // 2)
        start = tag.valueoffset + (4 if tag.dtype == 4 else 2)
        short[start : start + len(half)] = half
        assert reason_of(bytes(short)) in ("truncated", "unreadable")


def test_missing_strips_are_truncated() -> None:
    """Sparse files leave out empty strips, which no camera does."""
    content = bytearray(
        written(stored(SCENE[..., 0], "u1"), photometric="minisblack", compression="zlib", rowsperstrip=7)
    )
    tag = tifffile.TiffFile(io.BytesIO(bytes(content))).pages.first.tags["StripByteCounts"]
    content[tag.valueoffset : tag.valueoffset + (4 if tag.dtype == 4 else 2)] = bytes(4 if tag.dtype == 4 else 2)
    assert reason_of(bytes(content)) == "truncated"


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (SCENE[..., 0].astype(np.complex64), {"photometric": "minisblack"}),
        (stored(SCENE[..., :2], "u1"), {"photometric": "minisblack", "extrasamples": ["unspecified"]}),
        (stored(SCENE[..., :3], "u1"), {"photometric": "cielab"}),
        (stored(SCENE[..., 0], "u2"), {"photometric": "cfa", "extratags": [(33421, 3, 2, (2, 2), True)]}),
        (stored(SCENE[..., 0], "u1"), {"photometric": "minisblack", "volumetric": True, "tile": (1, 16, 16)}),
    ],
    ids=["complex", "two pictures in one", "CIE Lab", "raw mosaic", "volume"],
)
def test_data_that_is_no_picture_is_unsupported(values: np.ndarray, options: dict[str, Any]) -> None:
    if options.get("volumetric"):
        values = np.stack([values] * 3)
    content = written(values, **options)
    assert reason_of(content) == "unsupported"
    with pytest.raises(ImageError, match="TIFF"):
        read_header(content, Limits())


def test_a_damaged_tag_is_not_replaced_by_its_default() -> None:
    """Without its tag BitsPerSample, a sample would have one bit."""
    content = bytearray(written(stored(SCENE[..., :3], "u1"), photometric="rgb"))
    tag = tifffile.TiffFile(io.BytesIO(bytes(content))).pages.first.tags["BitsPerSample"]
    content[tag.offset + 2 : tag.offset + 4] = struct.pack("<H", 4099)
    assert reason_of(bytes(content)) == "unreadable"


FLOATS = np.linspace(-50, 150, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)


def test_floats_are_scaled_by_the_range_of_the_model() -> None:
    content = written(FLOATS, photometric="minisblack")
    np.testing.assert_allclose(pixels_of(content), (FLOATS + 50) / 200, atol=1e-6)
    found = pixels_of(content, Ranges(floats=(0, 100)))
    np.testing.assert_allclose(found, np.clip(FLOATS / 100, 0, 1), atol=1e-6)
    within = written(FLOATS / 400 + 0.25, photometric="minisblack")
    np.testing.assert_allclose(pixels_of(within, Ranges(floats=(0, 1))), FLOATS / 400 + 0.25, atol=1e-6)
    # Integers keep the range of their type; an explicit range overrides both.
    sixteen = written(np.full((4, 4), 13_107, np.uint16), photometric="minisblack")
    np.testing.assert_allclose(pixels_of(sixteen, Ranges(floats=(0, 100))), 0.2, atol=1e-6)
    np.testing.assert_allclose(
        pixels_of(content, Ranges((0, 1_000), (0, 100))), np.clip(FLOATS / 1_000, 0, 1), atol=1e-6
    )


def test_colours_in_floats_share_one_range() -> None:
    values = np.stack([FLOATS, FLOATS / 2, FLOATS * 0], axis=-1)
    np.testing.assert_allclose(pixels_of(written(values, photometric="rgb")), (values + 50) / 200, atol=1e-6)


def test_only_floats_have_an_extent() -> None:
    assert float_extent(written(FLOATS, photometric="minisblack"), Limits()) == (-50, 150)
    assert float_extent(written(np.full((4, 4), 7, np.uint16), photometric="minisblack"), Limits()) is None
    with pytest.raises(ImageError, match="infinite"):
        float_extent(written(np.full((4, 4), np.inf, np.float32), photometric="minisblack"), Limits())


def test_all_floats_share_one_range(tmp_path: Path) -> None:
    parts = {"low.tif": FLOATS - 100, "high.tif": FLOATS, "within.tif": FLOATS / 400 + 0.25, "eight.tif": FLOATS > 0}
    for name, values in parts.items():
        tifffile.imwrite(tmp_path / name, values, photometric="minisblack")
    files = [tmp_path / name for name in parts]
    assert float_range([*files, tmp_path / "missing.tif"]) == (-150, 150)
    assert float_range(files[2:]) == (0, 1)
    assert float_range(files[3:]) is None
    found = read_images(files[:2], Preprocessing(HEIGHT, WIDTH, float_range=(-150, 150))).pixels[..., 0]
    np.testing.assert_allclose(found, [(FLOATS + 50) / 300, (FLOATS + 150) / 300], atol=1e-5)


def test_a_look_tells_types_apart(tmp_path: Path) -> None:
    files = {
        "L": stored(SCENE[..., 0], "u1"),
        "I;16": stored(SCENE[..., 0], "u2"),
        "L;u32": stored(SCENE[..., 0], "u4"),
        "L;i16": stored(SCENE[..., 0], "i2"),
        "F": stored(SCENE[..., 0], "f4"),
        "RGB": stored(SCENE[..., :3], "u1"),
        "RGB;u16": stored(SCENE[..., :3], "u2"),
    }
    for name, values in files.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", values, photometric="rgb" if values.ndim == 3 else "minisblack")
    looks = look_into(File(str(tmp_path), f"{name}.tif") for name in files)
    assert [(look.mode, look.reason) for look in looks] == [(name, None) for name in files]
