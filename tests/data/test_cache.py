"""The cache gives the same pixels as decoding."""

import errno
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import nelbo.data.cache
from nelbo.data import Images, Limits, Preprocessing, cache_images, read_images

GREY = Preprocessing(16, 12, 1)
RGB = Preprocessing(16, 12, 3)
N_FILES = 7


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def files(tmp_path: Path, random: np.random.Generator) -> list[Path]:
    """Files with images of 8 bits; the third file is no image."""
    made = [tmp_path / "images" / f"{i}.png" for i in range(N_FILES)]
    made[0].parent.mkdir()
    for file in made:
        Image.fromarray(random.integers(0, 256, (20, 30, 3), np.uint8)).save(file)
    made[2].write_text("no")
    return made


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Decode two images at a time; the list records the size of each decoded chunk."""
    sizes: list[int] = []

    def counted(files: list[Path], *args: object, **options: object) -> Images:
        sizes.append(len(files))
        return read_images(files, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(nelbo.data.cache, "CHUNK_VALUES", 2 * GREY.n_values + 1)
    monkeypatch.setattr(nelbo.data.cache, "read_images", counted)
    return sizes


def deep(file: Path, random: np.random.Generator, side: int = 40) -> Path:
    Image.fromarray(random.integers(0, 65_536, (side, side), np.uint16)).save(file)
    return file


@pytest.mark.parametrize(
    "preprocessing", [GREY, RGB, Preprocessing(16, 12, 3, "pad"), Preprocessing(16, 12, binarize=0.5)]
)
def test_eight_bits_lose_nothing(tmp_path: Path, files: list[Path], preprocessing: Preprocessing) -> None:
    cache = cache_images(files, preprocessing, tmp_path / "cache")
    expected = read_images(files, preprocessing)
    assert cache.pixels.dtype == np.uint8
    assert cache.pixels.shape == (6, 16, 12, preprocessing.channels)
    assert cache.reasons == expected.reasons == [None, None, "not_an_image", None, None, None, None]
    np.testing.assert_array_equal(cache.pixels[:] / np.float32(255), expected.pixels)


def test_sixteen_bits_are_rounded_to_the_nearest_level(tmp_path: Path, random: np.random.Generator) -> None:
    files = [deep(tmp_path / f"{i}.png", random) for i in range(3)]
    cache = cache_images(files, GREY, tmp_path / "cache")
    assert cache.pixels.dtype == np.uint16
    expected = read_images(files, GREY).pixels.astype(np.float64)
    # Slightly more than half a level, because float32 is that coarse near 1.
    assert np.abs(cache.pixels[:] / 65_535 - expected).max() <= 1 / 131_070 + 2**-24


def test_sixteen_bits_of_the_same_size_lose_nothing(tmp_path: Path, random: np.random.Generator) -> None:
    file, same = deep(tmp_path / "x.png", random, side=16), Preprocessing(16, 16)
    cache = cache_images([file], same, tmp_path / "cache")
    np.testing.assert_array_equal(cache.pixels[:] / np.float32(65_535), read_images([file], same).pixels)


@pytest.mark.parametrize("at", [0, 3, N_FILES - 1])
def test_one_deep_image_makes_the_whole_cache_deep(
    tmp_path: Path, files: list[Path], random: np.random.Generator, chunks: list[int], at: int
) -> None:
    deep(files[at], random)
    cache = cache_images(files, GREY, tmp_path / "cache")
    assert cache.pixels.dtype == np.uint16
    assert chunks == [2, 2, 2, 1]
    shallow = [row for row in range(N_FILES) if row not in (2, at)]
    place = [row - (row > 2) for row in shallow]
    expected = read_images([files[row] for row in shallow], GREY).pixels
    np.testing.assert_array_equal(cache.pixels[place] / np.float32(65_535), expected)
    np.testing.assert_allclose(cache.pixels[:] / 65_535, read_images(files, GREY).pixels, atol=1 / 131_000)


def test_memory_is_bounded(tmp_path: Path, files: list[Path], chunks: list[int]) -> None:
    done: list[int] = []
    cache_images(files, GREY, tmp_path / "grey", advance=done.append)
    assert chunks == [2, 2, 2, 1]
    assert done == [2, 2, 2, 1]
    chunks.clear()
    # A single one of these images exceeds the bound.
    cache_images(files, RGB, tmp_path / "rgb")
    assert chunks == [1] * N_FILES


def test_the_cache_is_indexed_like_an_array(tmp_path: Path, files: list[Path]) -> None:
    pixels = cache_images(files, GREY, tmp_path / "cache").pixels
    whole = pixels[:]
    assert len(pixels) == len(whole) == 6
    for index in (slice(1, 4), slice(None, None, -2), slice(9, 12), [3, 0, 3], [-1], [], np.array([[0, 1], [2, 3]])):
        got = pixels[index]
        assert type(got) is np.ndarray
        assert got.flags.owndata
        assert got.flags.writeable
        np.testing.assert_array_equal(got, whole[index])
    with pytest.raises(IndexError, match="out of bounds"):
        pixels[[6]]


def test_making_a_subset_reads_nothing(tmp_path: Path, files: list[Path]) -> None:
    pixels = cache_images(files, GREY, tmp_path / "cache").pixels
    whole = pixels[:]
    some = pixels.take([5, 1, 1, 0])
    assert some.stored is pixels.stored
    assert some.shape == (4, 16, 12, 1)
    np.testing.assert_array_equal(some[:], whole[[5, 1, 1, 0]])
    np.testing.assert_array_equal(some[np.array([3, -4])], whole[[0, 5]])
    np.testing.assert_array_equal(some.take(slice(1, 3))[:], whole[[1, 1]])
    np.testing.assert_array_equal(pixels.take(np.arange(6) > 3)[:], whole[4:])
    assert pixels.take([]).shape == (0, 16, 12, 1)
    assert pixels.take([])[:].shape == (0, 16, 12, 1)
    with pytest.raises(IndexError, match="out of bounds"):
        pixels.take([6])
    with pytest.raises(IndexError, match="out of bounds"):
        some[[4]]


def test_threads_read_the_same_pixels(tmp_path: Path, files: list[Path], random: np.random.Generator) -> None:
    pixels = cache_images(files, GREY, tmp_path / "cache").pixels
    whole = pixels[:]
    draws = [random.integers(0, 6, 32) for _ in range(200)]
    with ThreadPoolExecutor(8) as threads:
        for rows, got in zip(draws, threads.map(pixels.__getitem__, draws), strict=True):
            np.testing.assert_array_equal(got, whole[rows])


@pytest.mark.parametrize("n", [0, 3])
def test_files_without_a_readable_image_give_an_empty_cache(tmp_path: Path, n: int) -> None:
    files = [tmp_path / f"{i}.png" for i in range(n)]
    for _ in range(2):
        cache = cache_images(files, RGB, tmp_path / "cache")
        assert cache.pixels.shape == (0, 16, 12, 3)
        assert cache.pixels[:].shape == (0, 16, 12, 3)
        assert cache.reasons == ["unreadable"] * n


def test_limits_are_passed_to_the_decoder(tmp_path: Path, files: list[Path]) -> None:
    cache = cache_images(files, GREY, tmp_path / "cache", limits=Limits(pixels=599), workers=1)
    assert set(cache.reasons) == {"too_large", "not_an_image"}


def test_a_cache_is_made_one_time(tmp_path: Path, files: list[Path]) -> None:
    make = partial(cache_images, files, GREY, tmp_path / "out" / "cache", staging=tmp_path / "_staging")
    first = make()
    assert sorted(path.name for path in (tmp_path / "out" / "cache").iterdir()) == ["cache.json", "pixels.bin"]
    assert not list((tmp_path / "_staging").iterdir())
    shutil.rmtree(files[0].parent)
    done: list[int] = []
    again = make(advance=done.append)
    assert done == [N_FILES]
    assert again.reasons == first.reasons
    np.testing.assert_array_equal(again.pixels[:], first.pixels[:])


def test_other_users_may_read_the_cache(tmp_path: Path, files: list[Path]) -> None:
    (tmp_path / "usual").mkdir()
    cache_images(files, GREY, tmp_path / "cache")
    assert (tmp_path / "cache").stat().st_mode == (tmp_path / "usual").stat().st_mode


def cut(folder: Path) -> None:
    with (folder / "pixels.bin").open("r+b") as file:
        file.truncate(100)


def lengthen(folder: Path) -> None:
    with (folder / "pixels.bin").open("ab") as file:
        file.write(b"x")


def rewrite(folder: Path, **changes: object) -> None:
    sidecar = folder / "cache.json"
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | changes))


DAMAGES = {
    "cut": cut,
    "lengthened": lengthen,
    "no pixels": lambda folder: (folder / "pixels.bin").unlink(),
    "no sidecar": lambda folder: (folder / "cache.json").unlink(),
    "empty": lambda folder: [path.unlink() for path in folder.iterdir()],
    "half a sidecar": lambda folder: (folder / "cache.json").write_text('{"format": 1, '),
    "not UTF-8": lambda folder: (folder / "cache.json").write_bytes(b'"\xff"'),
    "a list": lambda folder: (folder / "cache.json").write_text("[]"),
    "no keys": lambda folder: (folder / "cache.json").write_text("{}"),
    "other version": partial(rewrite, format=1),
    "other type": partial(rewrite, dtype="float32"),
    "type of two bytes": partial(rewrite, dtype="uint16"),
    "list as type": partial(rewrite, dtype=[]),
    "other shape": partial(rewrite, shape=[6, 12, 16, 1]),
    "no reasons": partial(rewrite, reasons=None),
    "text as reasons": partial(rewrite, reasons="unreadable"),
    "other reasons": partial(rewrite, reasons=[None] * N_FILES),
    "fewer reasons": partial(rewrite, reasons=[None] * 6),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_repaired(tmp_path: Path, files: list[Path], chunks: list[int], damage: str) -> None:
    folder = tmp_path / "cache"
    whole = cache_images(files, GREY, folder).pixels[:]
    DAMAGES[damage](folder)
    for decoded in ([2, 2, 2, 1], []):
        chunks.clear()
        cache = cache_images(files, GREY, folder)
        assert chunks == decoded
        np.testing.assert_array_equal(cache.pixels[:], whole)


def test_a_cache_of_other_files_is_remade(tmp_path: Path, files: list[Path], chunks: list[int]) -> None:
    folder = tmp_path / "cache"
    for number, preprocessing in ((7, GREY), (6, GREY), (6, RGB), (6, Preprocessing(12, 16))):
        chunks.clear()
        cache = cache_images(files[:number], preprocessing, folder)
        assert sum(chunks) == number
        np.testing.assert_array_equal(
            cache.pixels[:] / np.float32(255), read_images(files[:number], preprocessing).pixels
        )


def test_a_folder_of_other_things_is_left_alone(files: list[Path]) -> None:
    with pytest.raises(OSError, match="images"):
        cache_images(files, GREY, files[0].parent)
    assert all(file.exists() for file in files)
    with pytest.raises(NotADirectoryError):
        cache_images(files, GREY, files[0])
    assert files[0].exists()


@pytest.mark.parametrize("last", [2, N_FILES])
def test_a_crash_leaves_no_files(tmp_path: Path, files: list[Path], chunks: list[int], last: int) -> None:
    done = []

    def fail(n: int) -> None:
        done.append(n)
        if sum(done) == last:
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        cache_images(files, GREY, tmp_path / "out" / "cache", staging=tmp_path / "_staging", advance=fail)
    assert sum(chunks) == last
    assert not list((tmp_path / "out").iterdir())
    assert not list((tmp_path / "_staging").iterdir())


def test_the_first_of_two_writers_wins(tmp_path: Path, files: list[Path], chunks: list[int]) -> None:
    folder = tmp_path / "cache"

    def overtake(_: int) -> None:
        if sum(chunks) == N_FILES:
            theirs.append(cache_images(files, GREY, folder))

    theirs: list[nelbo.data.cache.Cache] = []
    ours = cache_images(files, GREY, folder, advance=overtake)
    assert sum(chunks) == 2 * N_FILES
    assert ours.reasons == theirs[0].reasons
    np.testing.assert_array_equal(ours.pixels[:], theirs[0].pixels[:])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "images"]


def test_a_rename_that_fails_is_an_error(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="another disk"):
        cache_images(files, GREY, tmp_path / "cache")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_full_disk_is_an_error_before_decoding(
    tmp_path: Path, files: list[Path], chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Preprocessing(4_000, 4_000, 3)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=300_000_000))
    with pytest.raises(OSError, match=r"at least 336 MB, and .*_staging has 300 MB free\. .*image_size") as caught:
        cache_images(files, large, tmp_path / "cache", staging=tmp_path / "_staging")
    assert caught.value.errno == errno.ENOSPC
    assert not chunks
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=N_FILES * RGB.n_values))
    cache_images(files, RGB, tmp_path / "cache")
    # An existing cache needs no space.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    cache_images(files, RGB, tmp_path / "cache")
