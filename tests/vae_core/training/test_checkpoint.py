"""An interrupted training, resumed, ends like an undisturbed one."""

from dataclasses import replace
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
#: With every option whose effect could depend on earlier epochs.
SETTINGS = TrainConfig(
    epochs=4,
    batch_size=8,
    warmup_epochs=3,
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
    """Records which epochs were run."""

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


def test_training_resumes_after_the_last_finished_epoch(random: np.random.Generator, tmp_path: Path) -> None:
    pixels = stripes(random, 40)
    expected = run(pixels)
    path = tmp_path / "a" / "checkpoint"
    counts = [Count() for _ in range(4)]
    for count, interrupt in zip(counts, (Interrupt(0, midway=False), Interrupt(2, midway=True)), strict=False):
        with pytest.raises(KeyboardInterrupt):
            run(pixels, checkpoint=path, callbacks=[count, interrupt])
    # Finished epochs are not run again.
    for count in counts[2:]:
        assert_equal(run(pixels, checkpoint=path, callbacks=[count]), expected)
    # An epoch that was not finished is run again, from its beginning.
    assert [count.epochs for count in counts] == [[0], [1], [2, 3], []]
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint"]


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
    # Training had run out of patience, so nothing is left to do.
    count = Count()
    assert_equal(run(pixels, settings, checkpoint=tmp_path / "c", callbacks=[count]), expected)
    assert count.epochs == []


PIXELS, SHORT = stripes(np.random.default_rng(7), 40), TrainConfig(epochs=1, batch_size=16)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, eager: None) -> tuple[Training, bytes]:  # noqa: ARG001
    """A short training and its checkpoint; all later trainings here are short."""
    path = tmp_path_factory.mktemp("finished") / "c"
    return run(PIXELS, SHORT, checkpoint=path), path.read_bytes()


def without_last(content: bytes, path: Path) -> bytes:
    """A checkpoint that lacks an array."""
    path.write_bytes(content)
    with safe_open(path, framework="numpy") as file:
        return save({name: file.get_tensor(name) for name in sorted(file.keys())[:-1]}, file.metadata())


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "fewer"])
def test_a_damaged_checkpoint_is_ignored_with_a_warning(
    damage: str, finished: tuple[Training, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (expected, content), path, count = finished, tmp_path / "c", Count()
    path.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "garbage": b"\0" * 999,
            "empty": b"",
            "fewer": without_last(content, path),
        }[damage]
    )
    assert_equal(run(PIXELS, SHORT, checkpoint=path, callbacks=[count]), expected)
    assert count.epochs == [0]
    assert "training starts anew" in caplog.text


@pytest.mark.parametrize(("pixels", "seed"), [(PIXELS, 1), (1 - PIXELS, 0)], ids=["settings", "images"])
def test_the_checkpoint_of_another_training_is_ignored(
    pixels: np.ndarray, seed: int, finished: tuple[Training, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, count, settings = tmp_path / "c", Count(), replace(SHORT, seed=seed)
    path.write_bytes(finished[1])
    assert_equal(run(pixels, settings, checkpoint=path, callbacks=[count]), run(pixels, settings))
    assert count.epochs == [0]
    assert "another training" in caplog.text
