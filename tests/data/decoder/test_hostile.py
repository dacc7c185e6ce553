"""Bad and odd files of every kind: generated ones, and a collection of real ones if it is available."""

import csv
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from nelbo.data import Limits, Preprocessing, ingest, read_images

GREY = Preprocessing(16, 16, 1)
RGB = Preprocessing(16, 16, 3)
SHARED = Path(__file__).parents[3].parent / "shared" / "hostile"
RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 256, (40, 60, 3)).astype(np.uint8))


def found_in(folder: Path) -> dict[str, str | None]:
    """Path -> reason, found at ingest or during decoding."""
    manifest = ingest(folder)
    images = read_images(manifest.files, Preprocessing(32, 32))
    table = manifest.table
    rows = zip(table["relative_path"].to_pylist(), table["reason"].to_pylist(), images.reasons, strict=True)
    return {path: before or after for path, before, after in rows}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the collection of hostile files is not available")
def test_each_file_of_the_collection_has_its_reason() -> None:
    with (SHARED / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = found_in(SHARED / "files")
    wrong = []
    for row in rows:
        name = row["file"]
        got = "skip" if name not in found else "quarantine" if found[name] else "accept"
        if got != row["action"] and not (row["action"] == "either" and got != "skip"):
            wrong.append((name, row["action"], got, found.get(name)))
    assert not wrong
    assert set(found) <= {row["file"] for row in rows}
    assert len(rows) > 100


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def chunks_of(content: bytes) -> list[tuple[bytes, bytes]]:
    found, start = [], 8
    while start < len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        found.append((kind, content[start + 8 : start + 8 + length]))
        start += 12 + length
    return found


def png(*extra: bytes, before: bytes = b"IDAT") -> bytes:
    """A valid PNG with extra chunks before one of its own."""
    parts = [PngImagePlugin._MAGIC]
    for kind, data in chunks_of(encode(NOISE, "PNG")):
        parts += extra if kind == before else ()
        parts.append(chunk(kind, data))
    return b"".join(parts)


def split_pixels() -> bytes:
    ((header, pixels, end),) = [[data for _, data in chunks_of(encode(NOISE, "PNG"))]]
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", pixels[:99]), chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", pixels[99:])]
    return PngImagePlugin._MAGIC + b"".join([*parts, chunk(b"IEND", end)])


def too_few_rows(mode: str) -> bytes:
    """A PNG of valid chunks, whose valid zlib stream ends after half of the pixels."""
    header, pixels, end = (data for kind, data in chunks_of(encode(NOISE.convert(mode), "PNG")) if kind != b"PLTE")
    rows = zlib.decompress(pixels)
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if mode == "P" else b""
    half = chunk(b"IDAT", zlib.compress(rows[: len(rows) // 2]))
    return PngImagePlugin._MAGIC + chunk(b"IHDR", header) + palette + half + chunk(b"IEND", end)


def too_many_rows() -> bytes:
    header, pixels, end = (data for _, data in chunks_of(encode(NOISE, "PNG")))
    more = zlib.compress(zlib.decompress(pixels) + bytes(1000))
    return PngImagePlugin._MAGIC + chunk(b"IHDR", header) + chunk(b"IDAT", more) + chunk(b"IEND", end)


def wrong_checksum(kind: bytes) -> bytes:
    parts = [chunk(name, data, 7 if name == kind else None) for name, data in chunks_of(encode(NOISE, "PNG"))]
    return PngImagePlugin._MAGIC + b"".join(parts)


def tiff(values: np.ndarray) -> bytes:
    return encode(Image.fromarray(values), "TIFF")


def bomb(size: int = 50_000_000) -> bytes:
    return zlib.compress(bytes(size))


def jpeg_with(marker: int, data: bytes) -> bytes:
    whole = encode(NOISE, "JPEG")
    return whole[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data + whole[2:]


def frames(n: int) -> bytes:
    pictures = [Image.new("L", (50, 40), value) for value in range(n)]
    return encode(pictures[0], "GIF", save_all=True, append_images=pictures[1:], disposal=3)


JPEG = encode(NOISE, "JPEG")
CASES: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "wrong checksum of the header": (lambda: wrong_checksum(b"IHDR"), "unreadable"),
    "wrong checksum of the pixels": (lambda: wrong_checksum(b"IDAT"), "unreadable"),
    "wrong checksum of a text": (lambda: png(chunk(b"tEXt", b"a\0b", 7)), None),
    "wrong checksum of transparency": (lambda: png(chunk(b"tRNS", b"\0" * 6, 7)), None),
    "unknown critical chunk": (lambda: png(chunk(b"CgBI", b"\0" * 4)), "unsupported"),
    "pixels interrupted": (split_pixels, "unreadable"),
    "text bomb": (lambda: png(chunk(b"zTXt", b"a\0\0" + bomb())), "too_large"),
    "international text bomb": (lambda: png(chunk(b"iTXt", b"a\0\1\0\0\0" + bomb())), "too_large"),
    "profile bomb": (lambda: png(chunk(b"iCCP", b"a\0\0" + bomb())), "too_large"),
    "text bomb behind the pixels": (lambda: png(chunk(b"zTXt", b"a\0\0" + bomb()), before=b"IEND"), "too_large"),
    "damaged profile": (lambda: png(chunk(b"iCCP", b"a\0\0no profile")), None),
    "long but honest text": (
        lambda: png(
            chunk(b"zTXt", b"a\0\0" + zlib.compress(RNG.integers(0, 16, 3_000_000).astype(np.uint8).tobytes()))
        ),
        None,
    ),
    "animation with wrong numbers": (lambda: png(chunk(b"acTL", b"\0\0"), chunk(b"fcTL", b"\xff" * 26)), None),
    "short physical size": (lambda: png(chunk(b"pHYs", b"\0")), None),
    "junk behind the end": (lambda: png() + b"junk" * 99, None),
    "PNG cut in the pixels": (lambda: encode(NOISE, "PNG")[:3000], "truncated"),
    "grey PNG of too few rows": (lambda: too_few_rows("L"), "truncated"),
    "colour PNG of too few rows": (lambda: too_few_rows("RGB"), "truncated"),
    "PNG with a palette and too few rows": (lambda: too_few_rows("P"), "truncated"),
    "transparent PNG of too few rows": (lambda: too_few_rows("RGBA"), "truncated"),
    "PNG with more rows than its header says": (too_many_rows, None),
    "PNG of its signature alone": (lambda: PngImagePlugin._MAGIC, "unreadable"),
    "JPEG cut in half": (lambda: JPEG[: len(JPEG) // 2], "truncated"),
    "JPEG with broken EXIF": (lambda: jpeg_with(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"), None),
    "JPEG with a short application marker": (lambda: jpeg_with(0xEE, b"Ado"), None),
    "JPEG of its first bytes": (lambda: JPEG[:40], "unreadable"),
    "many frames": (lambda: frames(200), None),
    "huge by its header": (lambda: encode(Image.new("1", (20_000, 10_000)), "PNG"), "too_large"),
    "very wide": (lambda: encode(Image.new("L", (60_000, 8), 9), "PNG"), None),
    "very high": (lambda: encode(Image.new("L", (1, 60_000), 9), "PNG"), None),
    "one pixel": (lambda: encode(Image.new("RGB", (1, 1), (9, 9, 9)), "PNG"), None),
    "NaN": (lambda: tiff(np.full((20, 20), np.nan, np.float32)), "non_finite"),
    "one NaN": (
        lambda: tiff(np.where(np.arange(400).reshape(20, 20) == 7, np.nan, 1).astype(np.float32)),
        "non_finite",
    ),
    "infinite": (lambda: tiff(np.full((20, 20), -np.inf, np.float32)), "non_finite"),
    "floats of any range": (lambda: tiff(np.linspace(-3e38, 3e38, 400, dtype=np.float32).reshape(20, 20)), None),
    "one float": (lambda: tiff(np.full((20, 20), 7, np.float32)), None),
    "32-bit integers": (lambda: tiff(RNG.integers(-(2**31), 2**31 - 1, (20, 20)).astype(np.int32)), None),
    "CIE Lab": (lambda: encode(Image.new("LAB", (20, 20)), "TIFF"), "unsupported"),
    "HEIF": (lambda: b"\0\0\0\x18ftypheic" + bytes(99), "unsupported"),
    "JPEG 2000": (lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99), "unsupported"),
    "PDF": (lambda: b"%PDF-1.7\n", "unsupported"),
    "video": (lambda: b"\0\0\0\x18ftypmp42" + bytes(99), "unsupported"),
    "camera raw": (lambda: tiff_with_tag(50706, 1), "unsupported"),
    "page of an error": (lambda: b"<html><body>404</body></html>", "not_an_image"),
    "Git LFS pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "not_an_image"),
    "empty": (bytes, "not_an_image"),
    "zeros": (lambda: bytes(4096), "not_an_image"),
}


def tiff_with_tag(tag: int, value: int) -> bytes:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2()
    tags[tag] = value
    tags.tagtype[tag] = 4
    return encode(Image.new("L", (20, 20)), "TIFF", tiffinfo=tags)


def test_each_generated_file_has_its_reason(tmp_path: Path) -> None:
    """All of them are in one batch, as in practice."""
    for name, (make, _) in CASES.items():
        (tmp_path / name).write_bytes(make())
    found = found_in(tmp_path)
    wrong = {name: (found[name], reason) for name, (_, reason) in CASES.items() if found[name] != reason}
    assert not wrong
    assert len(found) == len(CASES)


def test_odd_names_are_read_like_others(tmp_path: Path) -> None:
    names = [
        "-rf.png",
        "a\nb.png",
        "<img src=x>.png",
        "日本 ü.png",
        "'\"`$(id);.png",
        " .png",
        "%2e%2e.png",
        "x" * 251 + ".png",
    ]
    for name in names:
        NOISE.save(tmp_path / name)
    (tmp_path / "link.png").symlink_to(tmp_path / names[0])
    (tmp_path / ".hidden.png").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.png")
    assert found_in(tmp_path) == dict.fromkeys(names)


@pytest.mark.skipif(not features.check("avif"), reason="Pillow is built without AVIF")
def test_avif_is_decoded(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (255, 0, 0)).save(tmp_path / "x.avif")
    pixels = read_images([tmp_path / "x.avif"], RGB).pixels
    np.testing.assert_allclose(pixels[0, 8, 8], [1, 0, 0], atol=0.02)


def test_each_limit_applies_exactly(tmp_path: Path) -> None:
    NOISE.save(tmp_path / "x.png")
    for limits, reason in (
        (Limits(pixels=40 * 60), None),
        (Limits(pixels=40 * 60 - 1), "too_large"),
        (Limits(side_px=40), None),
        (Limits(side_px=41), "too_small"),
        (Limits(size_bytes=(tmp_path / "x.png").stat().st_size), None),
        (Limits(size_bytes=100), "too_large"),
    ):
        assert read_images([tmp_path / "x.png"], GREY, limits=limits).reasons == [reason]
