"""Training sees every image one time an epoch; randomness depends only on seed, epoch and batch."""

from typing import Any

import numpy as np
import pytest
from synthetic import stripes

from nelbo.vae_core import TrainConfig, VAEConfig
from nelbo.vae_core.features.defects import break_image, with_defects
from nelbo.vae_core.training.augmentation import mirror_and_shift
from nelbo.vae_core.training.batches import Batches

CONFIG = VAEConfig(height=24, width=20)


def numbered(n: int) -> np.ndarray:
    """(n, 24, 20, 1) uint8, each filled with its number."""
    return np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 24, 20, 1))


def epoch_of(batches: Batches, epoch: int) -> list[dict[str, np.ndarray]]:
    batches.start(epoch)
    return [batches[i][0] for i in range(len(batches))]


def test_each_epoch_has_every_image_one_time_in_another_order() -> None:
    batches = Batches(numbered(50), CONFIG, TrainConfig(batch_size=16))
    assert len(batches) == 4
    orders = []
    for epoch in range(2):
        seen = [np.rint(255 * batch["pixels"][:, 0, 0, 0]).astype(int) for batch in epoch_of(batches, epoch)]
        assert sorted(np.concatenate(seen)) == list(range(50))
        orders.append(seen)
    assert not np.array_equal(orders[0][0], orders[1][0])
    assert [np.array_equal(batches.rows(i), orders[1][i]) for i in range(4)] == [True] * 4


def test_batches_depend_on_seed_epoch_and_number_alone(random: np.random.Generator) -> None:
    pixels = stripes(random, 40)
    settings = TrainConfig(batch_size=16, denoising=0.7, flip="both", shift_px=3, seed=3)
    first, second = Batches(pixels, CONFIG, settings), Batches(pixels, CONFIG, settings)
    expected = epoch_of(first, 5)
    second.start(5)
    # Whichever batches were read before, in any order.
    second[0], second[2]
    for i in (2, 0, 1):
        assert expected[i].keys() == {"pixels", "seen", "eps", "weight"}
        for name, values in second[i][0].items():
            np.testing.assert_array_equal(values, expected[i][name], err_msg=name)
    other = epoch_of(Batches(pixels, CONFIG, TrainConfig(batch_size=16, seed=4)), 5)
    assert not np.array_equal(other[0]["eps"], expected[0]["eps"])


@pytest.mark.parametrize(
    ("option", "changed"), [({"denoising": 0.9}, "seen"), ({"flip": "both"}, "pixels"), ({"shift_px": 2}, "pixels")]
)
def test_each_option_changes_its_part_of_a_batch(
    option: dict[str, Any], changed: str, random: np.random.Generator
) -> None:
    pixels = stripes(random, 40)
    plain, other = (epoch_of(Batches(pixels, CONFIG, TrainConfig(**options)), 0)[0] for options in ({}, option))
    assert {name for name in other if not np.array_equal(other[name], plain.get(name))} == {changed}


def test_validation_is_the_same_every_epoch_and_unchanged(random: np.random.Generator) -> None:
    pixels = stripes(random, 20)
    settings = TrainConfig(batch_size=16, denoising=1, flip="both", shift_px=3)
    batches = Batches(pixels, CONFIG, settings, validation=True)
    first, second = epoch_of(batches, 0), epoch_of(batches, 1)
    np.testing.assert_array_equal(np.concatenate([batch["pixels"] for batch in first]), pixels)
    for a, b in zip(first, second, strict=True):
        assert "seen" not in a
        np.testing.assert_array_equal(a["eps"], b["eps"])


def test_each_image_has_noise_of_its_own(random: np.random.Generator) -> None:
    batches = Batches(stripes(random, 64), CONFIG, TrainConfig(batch_size=64))
    eps = np.concatenate([batch["eps"] for epoch in range(8) for batch in epoch_of(batches, epoch)])
    assert eps.shape == (512, 1, 1, 16)
    assert len(np.unique(eps)) == eps.size
    assert abs(eps.mean()) < 0.05
    assert abs(eps.std() - 1) < 0.05


def test_batches_are_padded_for_the_devices() -> None:
    batches = Batches(numbered(50), CONFIG, TrainConfig(batch_size=16, devices=4))
    last = epoch_of(batches, 0)[-1]
    assert last["pixels"].shape[0] == last["eps"].shape[0] == 4
    np.testing.assert_array_equal(last["weight"], [0.5, 0.5, 0, 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_whole_numbers_become_the_same_floats(dtype: type, random: np.random.Generator) -> None:
    top = np.iinfo(dtype).max
    levels = random.integers(0, top + 1, (10, 24, 20, 1)).astype(dtype)
    (batch,) = epoch_of(Batches(levels, CONFIG, TrainConfig(batch_size=16), validation=True), 0)
    assert batch["pixels"].dtype == np.float32
    np.testing.assert_array_equal(batch["pixels"], levels / np.float32(top))


@pytest.mark.parametrize(("flip", "axes"), [("none", ()), ("horizontal", (2,)), ("vertical", (1,)), ("both", (1, 2))])
def test_flips_are_equally_frequent(flip: str, axes: tuple[int, ...], random: np.random.Generator) -> None:
    images = np.repeat(random.random((1, 5, 7, 3)).astype(np.float32), 200, axis=0)
    flipped = mirror_and_shift(images, flip, 0, random)
    possible = [
        np.flip(images[0], chosen) for chosen in [(), (0,), (1,), (0, 1)] if {a + 1 for a in chosen} <= set(axes)
    ]
    counts = [sum(np.array_equal(image, picture) for image in flipped) for picture in possible]
    assert sum(counts) == 200
    assert min(counts) > 100 / len(possible)


def test_shifts_repeat_the_edge(random: np.random.Generator) -> None:
    image = np.arange(35, dtype=np.float32).reshape(1, 5, 7, 1)
    shifted = mirror_and_shift(np.repeat(image, 300, axis=0), "none", 2, random)
    padded = np.pad(image[0, ..., 0], 2, mode="edge")
    possible = {padded[y : y + 5, x : x + 7].tobytes() for y in range(5) for x in range(5)}
    found = {picture[..., 0].tobytes() for picture in shifted}
    assert found == possible


def test_defects_are_local_and_leave_the_clean_image(random: np.random.Generator) -> None:
    clean = random.random((300, 40, 30, 1)).astype(np.float32)
    kept = clean.copy()
    broken = with_defects(clean, 0.5, random)
    np.testing.assert_array_equal(clean, kept)
    changed = (broken != clean).any(axis=-1)
    hit = changed.any(axis=(1, 2))
    assert 100 < hit.sum() < 200
    # Two ellipses of the largest size cover a quarter each.
    assert changed[hit].mean(axis=(1, 2)).max() < 0.5
    assert broken.min() >= 0
    assert broken.max() <= 1


def test_every_kind_of_defect_lies_where_its_mask_says(random: np.random.Generator) -> None:
    image, other = random.random((2, 48, 32, 3)).astype(np.float32)
    sizes = []
    for _ in range(200):
        broken, where = break_image(image, other, random)
        assert where.shape == (48, 32)
        assert (np.abs(broken - image).max(axis=-1)[where] > 0).all()
        assert broken.dtype == np.float32
        sizes.append(where.mean())
    # Sizes range from thin cracks to large patches; sometimes a shape lies outside the image, and leaves no defect.
    assert np.quantile(sizes, 0.25) < 0.02
    assert np.quantile(sizes, 0.9) > 0.03
    assert np.mean(np.array(sizes) > 0) > 0.8
