"""Real images for benchmarks, read from where their packages put them; none is part of nelbo.

ELPV: ``pip install elpv-dataset`` (CC BY-NC-SA 4.0, evaluation only). Fashion-MNIST: Debian's
``dataset-fashion-mnist`` (MIT). MTD: a folder that the user names (no licence stated, evaluation only; its authors ask
for a citation: Huang, Qiu and Yuan 2020, "Surface defect saliency of magnetic tile").
"""

import gzip
import math
import tempfile
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from nelbo.data import Preprocessing, read_images

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
VALIDATION_SHARE = 0.15
#: Original sides of the images.
_ELPV_PX, _CLOTHES_PX = 300, 28


class Dataset(NamedTuple):
    """Pixels (n, h, w, 1) float32 in [0, 1]; labels 0 normal, 1 anomalous; groups name the kinds of test images.

    masks: (n, h, w) booleans of the test images, true on defects, if that is known.
    areas: (n,) original pixels of the test images, if they differ.
    views: (n,) the part that each normal image shows, training images before validation images; None where each shows
        another part.
    sizes: (n, 2) original width and height in pixels of the same images, if they are known.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    masks: np.ndarray | None = None
    areas: np.ndarray | None = None
    views: np.ndarray | None = None
    sizes: np.ndarray | None = None


def elpv(side: int = 64) -> Dataset:
    """Solar cells: 1,131 normal ones for training, 377 and 715 defective ones (probability 1) for testing.

    Source: Deitsch et al. 2019; the split is the one of KDAD's evaluation (`train_test_split`, a quarter, seed 42).
    """
    root = _elpv_root()
    table, train, test = _elpv_split()
    test = np.concatenate([test, table.index[table["probability"] == 1]])
    images = read_images([root / path for path in table["path"]], Preprocessing(side, side))
    pixels, validation = parted(images.pixels[train])
    labels = (table["probability"] == 1).astype(int).to_numpy()
    sizes = np.full((len(train), 2), _ELPV_PX)
    return Dataset(pixels, validation, images.pixels[test], labels[test], table["type"].to_numpy()[test], sizes=sizes)


def elpv_files() -> list[Path]:
    """All 2,624 solar cells, PNG of 300 x 300 grey pixels."""
    return sorted((_elpv_root() / "images").glob("*.png"))


def repeated_elpv(n: int, folder: Path) -> Path:
    """A folder of n solar cells, a thousand a subfolder: hard links where the file system allows them."""
    sources = elpv_files()
    # Shuffled, because cells of a kind are adjacent in the set.
    order = np.random.default_rng(0).permutation(len(sources))
    for i in range(n):
        source, target = sources[order[i % len(sources)]], folder / f"{i // 1000:03d}" / f"{i:06d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(source)
        except OSError:
            target.write_bytes(source.read_bytes())
    return folder


def scratched_elpv(side: int = 64) -> Dataset:
    """The normal cells of `elpv`; each of its normal test cells is judged as it is, and with a scratch.

    A scratch is a straight line, 1 px wide and 30 to 120 long on cells of 300 x 300, darker or brighter than its
    surroundings by a fifth to a half of the range.
    """
    root = _elpv_root()
    plain = elpv(side)
    table, _, test = _elpv_split()
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as aside:
        paths = [Path(aside, f"{row}.png") for row in test]
        for row, path in zip(test, paths, strict=True):
            _scratched(Image.open(root / table["path"][row]).convert("L"), random).save(path)
        scratched = read_images(paths, Preprocessing(side, side)).pixels
    normal = plain.test[plain.labels == 0]
    kinds = table["type"].to_numpy()[test]
    labels = np.repeat([0, 1], len(test))
    return Dataset(
        plain.train, plain.validation, np.concatenate([normal, scratched]), labels, np.concatenate([kinds, kinds])
    )


def mtd(root: Path, side: int = 64) -> Dataset:
    """Magnetic tiles: 761 named normal ones for training, 191 and 392 defective ones of five kinds for testing.

    Source: Huang, Qiu and Yuan 2020; the split is DifferNet's (Rudolph, Wandt and Rosenhahn 2021).
    """
    named = set((root / "train_normals.txt").read_text(encoding="utf-8").split())
    normal = sorted((root / "normal").glob("*.jpg"))
    train = [path for path in normal if path.name in named]
    pixels, validation = parted(read_images(train, Preprocessing(side, side)).pixels)
    data = _mtd(root, side, pixels, validation, [path for path in normal if path.name not in named])
    return data._replace(sizes=np.concatenate(parted(_sizes(train))))


def mtd_by_tile(root: Path, draw: int, side: int = 64) -> Dataset:
    """The images of `mtd`, split by tile: all exposures of a tile are for training or for testing.

    At least 190 normal images are for testing. The published split says little, because training has most of its test
    tiles under other light.
    """
    normal = sorted((root / "normal").glob("*.jpg"))
    table = pd.read_csv(root / "tiles.csv", index_col="file")
    tiles = table.loc[[path.name for path in normal], "tile"].to_numpy()
    tested = _whole(tiles, 190, draw)
    learnt = [path for path, test in zip(normal, tested, strict=True) if not test]
    views = tiles[~tested]
    validating = _whole(views, math.ceil(VALIDATION_SHARE * len(views)), draw)
    pixels = read_images(learnt, Preprocessing(side, side)).pixels
    data = _mtd(
        root, side, pixels[~validating], pixels[validating], [p for p, t in zip(normal, tested, strict=True) if t]
    )
    order = np.concatenate([np.flatnonzero(~validating), np.flatnonzero(validating)])
    return data._replace(views=views[order].astype(str), sizes=_sizes(learnt)[order])


def _whole(tiles: np.ndarray, n: int, draw: int) -> np.ndarray:
    """(n,) whether each image is of a drawn tile; tiles are drawn until they have n images."""
    drawn: list[int] = []
    for tile in np.random.default_rng(draw).permutation(np.unique(tiles)):
        if np.isin(tiles, drawn).sum() >= n:
            break
        drawn.append(tile)
    return np.isin(tiles, drawn)


def _mtd(root: Path, side: int, pixels: np.ndarray, validation: np.ndarray, normal: list[Path]) -> Dataset:
    """The set with the given normal images for testing, and all defective ones."""
    defective = sorted((root / "defect").rglob("*.jpg"))
    test, n_normal = normal + defective, len(normal)
    masks = np.zeros((len(test), side, side), bool)
    for row, path in enumerate(defective, n_normal):
        mask = Image.open(root / "masks" / path.parent.name / f"{path.stem}.png").convert("L")
        masks[row] = np.asarray(mask.resize((side, side), Image.Resampling.NEAREST)) >= 128
    labels = np.repeat([0, 1], [n_normal, len(defective)])
    groups = np.array(["normal"] * n_normal + [path.parent.name for path in defective])
    judged = read_images(test, Preprocessing(side, side)).pixels
    return Dataset(pixels, validation, judged, labels, groups, masks, _sizes(test).prod(axis=1))


def fashion_mnist(normal: int, side: int = 28) -> Dataset:
    """Clothes of 28 x 28 pixels: one class's training images are normal, all 10,000 test images are judged."""
    train, train_labels = _idx("train-images-idx3"), _idx("train-labels-idx1")
    test, test_labels = _idx("t10k-images-idx3"), _idx("t10k-labels-idx1")
    pixels, validation = parted(_resized(train[train_labels == normal], side))
    sizes = np.full((len(pixels) + len(validation), 2), _CLOTHES_PX)
    labels = (test_labels != normal).astype(int)
    return Dataset(pixels, validation, _resized(test, side), labels, np.repeat("clothes", len(test)), sizes=sizes)


def outside_fashion_mnist(side: int = 28, n_train: int = 6000, n_test: int = 1000) -> Dataset:
    """All clothes are normal; the same test images inverted, upside down or turned, and digits, are not.

    The digits are scikit-learn's, of 8 x 8 pixels, resized to the same size.
    """
    random = np.random.default_rng(0)
    train, test = _idx("train-images-idx3"), _idx("t10k-images-idx3")
    pixels, validation = parted(_resized(random.permutation(train)[:n_train], side))
    chosen = random.permutation(test)[:n_test]
    digits = random.permutation(load_digits().images)[:n_test]
    kinds = {
        "normal": chosen,
        "inverted": 255 - chosen,
        "upside down": chosen[:, ::-1],
        "turned": np.rot90(chosen, axes=(1, 2)),
        "digits": np.rint(digits * (255 / 16)).astype(np.uint8),
    }
    groups = np.repeat(list(kinds), [len(images) for images in kinds.values()])
    judged = np.concatenate([_resized(images, side) for images in kinds.values()])
    return Dataset(pixels, validation, judged, (groups != "normal").astype(int), groups)


def _elpv_root() -> Path:
    return Path(str(files("elpv_dataset") / "data"))


def _elpv_split() -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """The table of all cells, and the rows of the normal ones for training and for testing."""
    table = pd.read_csv(_elpv_root() / "labels.csv", sep=r"\s+", names=["path", "probability", "type"])
    normals = table.index[table["probability"] == 0].to_numpy()
    train, test = train_test_split(normals, test_size=0.25, random_state=42)
    return table, train, test


def parted(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images split at random into those for training and those for validation."""
    order = np.random.default_rng(0).permutation(len(pixels))
    n_validation = int(np.ceil(VALIDATION_SHARE * len(pixels)))
    return pixels[order[n_validation:]], pixels[order[:n_validation]]


def kinds(data: Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """Which test images each figure is of: all of them, and those of each kind with the normal images."""
    yield "all", np.ones(len(data.labels), bool)
    anomalous = data.labels == 1
    names = np.unique(data.groups[anomalous])
    for kind in names if len(names) > 1 else ():
        own = data.groups == kind
        # If normal images have kinds, too, a kind is compared with its own.
        yield str(kind), own if (own & ~anomalous).any() else own | ~anomalous


def _sizes(paths: Sequence[Path]) -> np.ndarray:
    """(n, 2) width and height of images, in pixels."""
    found = []
    for path in paths:
        with Image.open(path) as image:
            found.append(image.size)
    return np.array(found)


def _idx(name: str) -> np.ndarray:
    with gzip.open(FASHION_MNIST / f"{name}-ubyte.gz") as file:
        content = file.read()
    n_axes = content[3]
    shape = np.frombuffer(content, ">u4", n_axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_axes).reshape(shape)


def _resized(images: np.ndarray, side: int) -> np.ndarray:
    """(n, side, side, 1) in [0, 1] of 8-bit grey images, enlarged bilinearly."""
    if images.shape[1] != side:
        size = (side, side)
        images = np.stack([Image.fromarray(one).resize(size, Image.Resampling.BILINEAR) for one in images])
    return images[..., None] / np.float32(255)


def _scratched(cell: Image.Image, random: np.random.Generator) -> Image.Image:
    pixels = np.asarray(cell, np.float32)
    height, width = pixels.shape
    length, angle = random.uniform(0.1, 0.4) * width, random.uniform(0, np.pi)
    middle = random.uniform(0.2, 0.8, 2) * (width, height)
    reach = 0.5 * length * np.array([np.cos(angle), np.sin(angle)])
    line = Image.new("1", cell.size)
    ImageDraw.Draw(line).line([*(middle - reach), *(middle + reach)], fill=1)
    change = random.choice([-1, 1]) * random.uniform(0.2, 0.5) * 255
    return Image.fromarray(np.clip(pixels + change * np.asarray(line), 0, 255).astype(np.uint8))
