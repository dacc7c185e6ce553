"""A training that was interrupted ends as if it had not been."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save
from synthetic import stripes

from nelbo.vae_core import TrainConfig, Training, VAEConfig, train

CONFIG = VAEConfig(height=24, width=20)
#: Everything that could depend on what came before.
SETTINGS = TrainConfig(
    epochs=6,
    batch_size=8,
    warmup_epochs=4,
    learning_rate_schedule="cosine",
    weight_decay=0.1,
    denoising=0.5,
    flip="both",
    shift_px=1,
)


class Interrupt(keras.callbacks.Callback):
    """Stops the program at the end of an epoch, or in the middle of one."""

    def __init__(self, epoch: int, *, midway: bool) -> None:
        super().__init__()
        self.epoch, self.midway, self.now = epoch, midway, -1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.now = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        if self.midway and self.now == self.epoch and batch == 1:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        if not self.midway and epoch == self.epoch:
            raise KeyboardInterrupt


class Count(keras.callbacks.Callback):
    """Which epochs were run."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[int] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.epochs.append(epoch)


def run(pixels: np.ndarray, settings: TrainConfig = SETTINGS, **more: Any) -> Training:
    return train(pixels[:30], pixels[30:], CONFIG, settings, **more)


def assert_equal(found: Training, expected: Training) -> None:
    pairs = zip(found.model.network.get_weights(), expected.model.network.get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert found.history.keys() == expected.history.keys()
    for name in expected.history.keys() - {"images_per_s", "seconds"}:
        assert found.history[name] == expected.history[name], name


@pytest.mark.parametrize("midway", [False, True])
def test_interrupted_anywhere(midway: bool, random: np.random.Generator, tmp_path: Path) -> None:
    pixels = stripes(random, 40)
    expected = run(pixels)
    path = tmp_path / "a" / "checkpoint"
    for epoch in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run(pixels, checkpoint=path, callbacks=[Interrupt(epoch, midway=midway)])
    count = Count()
    assert_equal(run(pixels, checkpoint=path, callbacks=[count]), expected)
    # An epoch that was not finished is run again, from its beginning.
    assert count.epochs == ([3, 4, 5] if midway else [4, 5])
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint"]


def test_a_finished_training_is_not_run_again(random: np.random.Generator, tmp_path: Path) -> None:
    pixels = stripes(random, 40)
    first = run(pixels, checkpoint=tmp_path / "c")
    count = Count()
    assert_equal(run(pixels, checkpoint=tmp_path / "c", callbacks=[count]), first)
    assert count.epochs == []


def test_patience_is_remembered(random: np.random.Generator, tmp_path: Path) -> None:
    pixels = stripes(random, 40)
    settings = TrainConfig(epochs=80, patience=3, batch_size=8, learning_rate=2e-2)
    expected = run(pixels, settings)
    n = len(expected.history["loss"])
    assert n < 80
    with pytest.raises(KeyboardInterrupt):
        run(pixels, settings, checkpoint=tmp_path / "c", callbacks=[Interrupt(n - 2, midway=False)])
    count = Count()
    assert_equal(run(pixels, settings, checkpoint=tmp_path / "c", callbacks=[count]), expected)
    assert count.epochs == [n - 1]
    # It had run out of patience: nothing is left to do.
    count = Count()
    assert_equal(run(pixels, settings, checkpoint=tmp_path / "c", callbacks=[count]), expected)
    assert count.epochs == []


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "other", "images", "fewer"])
def test_a_useless_checkpoint_starts_anew(
    damage: str, random: np.random.Generator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = stripes(random, 40)
    settings = TrainConfig(epochs=2, batch_size=8)
    path = tmp_path / "c"
    expected = run(pixels, settings, checkpoint=path)
    content = path.read_bytes()
    if damage in ("other", "images"):
        other = TrainConfig(epochs=2, batch_size=8, seed=1) if damage == "other" else settings
        run(1 - pixels if damage == "images" else pixels, other, checkpoint=path)
        assert "another training" in caplog.text
        caplog.clear()
    elif damage == "fewer":
        with safe_open(path, framework="numpy") as file:
            names = sorted(file.keys())[:-1]
            path.write_bytes(save({name: file.get_tensor(name) for name in names}, file.metadata()))
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "garbage": b"\0" * 999, "empty": b""}[damage])
    count = Count()
    assert_equal(run(pixels, settings, checkpoint=path, callbacks=[count]), expected)
    assert count.epochs == [0, 1]
    assert "training starts anew" in caplog.text
